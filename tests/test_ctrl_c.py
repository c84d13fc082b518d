"""What is proposed after Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnviz.cli.app import main
from tests.support.fake_pipeline import FakePipeline


def test_ctrl_c(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is proposed can be done: there is a run to continue, or to replace."""
    monkeypatch.chdir(tmp_path)
    fake.error = KeyboardInterrupt()
    for command, words in (
        ("gradcam", "continue with --resume"),
        ("embed", "this command begins again, with --overwrite"),
    ):
        out = tmp_path / "cnnviz-out" / command
        for _ in range(2):
            assert main([command, "a.jpg"]) == 130
            assert capsys.readouterr().err == "cnnviz: interrupted before anything was written\n"
            out.mkdir(parents=True, exist_ok=True)
            (out / ".cnnviz-lock").touch()
        (out / "report.json").touch()
        assert main([command, "a.jpg"]) == 130
        assert capsys.readouterr().err == f"cnnviz: interrupted; {words}\n"
    fake.error, fake.exit_code = None, 130
    assert main(["gradcam", "a.jpg"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "cnnviz: interrupted; continue with --resume"


def test_ctrl_c_of_what_writes_no_run(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnviz.registry.lookup.all_metrics", pressed)
    assert main(["metrics"]) == 130
    assert capsys.readouterr().err == "cnnviz: interrupted\n"
    fake.error = KeyboardInterrupt()
    assert main(["gradcam", "a.jpg", "-o", "-"]) == 130
    assert capsys.readouterr().err == "cnnviz: interrupted\n"
    assert main(["gradcam", "a.jpg", "-o", "memory://there"]) == 130
    assert capsys.readouterr().err == "cnnviz: interrupted; continue with --resume\n"
