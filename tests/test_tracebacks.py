"""Of which errors ``-v`` shows the traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError, foreign_cause, foreign_code
from cnnviz.models.loading.factories import import_place
from tests.support.fake_pipeline import FakePipeline


def test_an_internal_error_shows_its_traceback_only_with_v(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = ZeroDivisionError("oh\nno")
    assert main(["gradcam", "a.jpg"]) == 2
    lines = [
        "cnnviz: internal error: ZeroDivisionError: oh\\nno",
        "run again with -v for the traceback, and report it",
    ]
    assert capsys.readouterr().err.splitlines() == lines
    assert main(["gradcam", "a.jpg", "-v"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [*lines, "Traceback (most recent call last):"]
    assert said[-1] == "no"


def test_memory_that_ran_out_is_no_internal_error(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nand more")
    assert main(["gradcam", "a.jpg"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cnnviz: out of memory: CUDA out of memory. Tried to allocate 20.00 MiB",
        "Use a smaller --input-size or --batch-size, or --device cpu.",
    ]


def test_a_missing_input_has_no_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["gradcam", "-v", str(tmp_path / "nothere.jpg")]) == 2
    message, _ = capsys.readouterr().err.splitlines()
    assert "nothere.jpg' does not exist" in message


def test_a_usage_error_has_no_traceback(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = CnnvizError("bad", "do that")
    fake.error.__cause__ = FileNotFoundError("no such file")
    assert main(["gradcam", "a.jpg", "-v"]) == 2
    assert capsys.readouterr().err == "cnnviz: bad\ndo that\n"


def test_what_code_of_the_user_raised_has_its_traceback_with_v(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        with foreign_code():
            json.loads("{")
    except ValueError as error:
        fake.error = CnnvizError("its code raised", "mend it")
        fake.error.__cause__ = error
    assert main(["gradcam", "a.jpg"]) == 2
    assert capsys.readouterr().err == "cnnviz: its code raised\nmend it\n"
    assert main(["gradcam", "a.jpg", "-v"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == ["cnnviz: its code raised", "mend it", "Traceback (most recent call last):"]
    assert said[-1].startswith("json.decoder.JSONDecodeError: ")


def test_a_name_that_cannot_be_imported_is_a_usage_error() -> None:
    with pytest.raises(CnnvizError, match="ModuleNotFoundError") as caught:
        import_place("no_such_module_at_all")
    assert foreign_cause(caught.value) is None
