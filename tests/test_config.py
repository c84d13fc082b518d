"""``--config``: values by long name, the command line over the file, and what a wrong file says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.io.config_file import read_config
from cnnviz.settings import RunSettings

Run = Callable[..., RunSettings]


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Settings that a command makes of the text of a configuration file and arguments."""
    seen: list[RunSettings] = []

    def run(settings: RunSettings, reporter: Any, stdin: Any = None) -> SimpleNamespace:
        seen.append(settings)
        summary = {"inputs": 1, "explained": 1}
        return SimpleNamespace(summary=summary, report=None, exit_code=0, picture=None, sentences=())

    monkeypatch.setitem(sys.modules, "cnnviz.pipeline", SimpleNamespace(run=run))
    monkeypatch.setattr("cnnviz.run.preflight.check", lambda settings, spec: None)

    def settings_of(text: str, *args: str) -> RunSettings:
        path = tmp_path / "options.yaml"
        path.write_text(text, encoding="utf-8")
        assert main(["gradcam", *args, "--config", str(path)]) == 0
        return seen[-1]

    return settings_of


def error_of(capsys: pytest.CaptureFixture[str], path: Path, *args: str) -> tuple[str, str]:
    assert main(["gradcam", *args, "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    message, hint = err.splitlines()
    assert message.startswith("cnnviz: ")
    return message.removeprefix("cnnviz: "), hint


def test_every_kind_of_value(settings_of: Run) -> None:
    settings = settings_of(
        """
        inputs: [a, b.jpg]
        model: resnet50
        no-crop: true
        num_classes: 12
        mean: [0.5, 0.25, 0.125]
        input-size: 320
        class: [pred, 282, tiger cat]
        layer: layer4
        batch-size: 16
        alpha: 1
        save: [raw, overlay]
        limit: 7
        counterfactual: true
        json: false
        out:
        """
    )
    assert settings.inputs == ("a", "b.jpg")
    assert settings.model.model == "resnet50"
    assert settings.model.view == "whole"
    assert settings.model.num_classes == 12
    assert settings.model.mean == (0.5, 0.25, 0.125)
    assert settings.model.input_size == (320, 320)
    assert settings.target.classes == ("pred", "282", "tiger cat")
    assert settings.target.layers == ("layer4",)
    assert settings.runtime.batch_size == 16
    assert settings.draw.alpha == 1.0
    assert settings.draw.save == ("raw", "overlay")
    assert settings.limit == 7
    assert settings.target.params == {"counterfactual": True}
    assert settings.output.out == "cnnviz-out/gradcam"


def test_the_command_line_wins_also_with_a_default(settings_of: Run) -> None:
    text = "inputs: [from-file]\nalpha: 0.9\ncolormap: jet\nclass: [all]\nseed: 4"
    settings = settings_of(text, "here.jpg", "--alpha", "0.5", "-c", "pred")
    assert settings.inputs == ("here.jpg",)
    assert settings.draw.alpha == 0.5
    assert settings.target.classes == ("pred",)
    assert settings.draw.colormap == "jet"
    assert (settings.runtime.seed, settings.model.seed) == (4, 4)


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ('"off"', "off"), ("auto", "auto")])
def test_a_bare_on_or_off_is_what_it_looks_like(settings_of: Run, written: str, meant: str) -> None:
    assert settings_of(f"compile: {written}", "a.jpg").runtime.compile == meant


def test_an_empty_file_changes_nothing(settings_of: Run) -> None:
    assert settings_of("# nothing yet\n", "a.jpg") == settings_of("", "a.jpg")


@pytest.mark.parametrize("name", sorted(p.name for p in (Path(__file__).parent.parent / "configs").glob("*.yaml")))
def test_the_files_that_come_with_the_source_are_accepted(settings_of: Run, name: str) -> None:
    path = Path(__file__).parent.parent / "configs" / name
    wanted = {key.replace("-", "_"): value for key, value in read_config(str(path)).items()}
    options = settings_of(path.read_text(encoding="utf-8"), "a.jpg").options()
    for key, value in wanted.items():
        got = options[key]
        assert got == (value.split(",") if isinstance(got, list) and isinstance(value, str) else value), key


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("colrmap: jet", "unknown option 'colrmap'", "Did you mean colormap"),
        ("config: other.yaml", "unknown option 'config'", "The options are"),
        ("zzzzzz: 1", "unknown option 'zzzzzz'", "The options are: activation, alpha, "),
        ("batch-size: 4\nbatch_size: 8", "'batch-size' is given twice", "Keep one"),
        ("alpha: strong", "alpha: expected a number, got 'strong'", "--help"),
        ("alpha: true", "alpha: expected a number, got True", "--help"),
        ("alpha: [0.1, 0.2]", "alpha: expected one value, got a list", "--help"),
        ("limit: 2.5", "limit: expected a whole number, got 2.5", "--help"),
        ("resume: 1", "resume: expected true or false, got 1", "--help"),
        ("class: [no]", "class: expected a text, got False", "in quotes"),
        ("labels: {a: 1}", "labels: expected a text, got {'a': 1}", "in quotes"),
        ("out: 2024-01-01", "out: expected a text, got datetime.date(2024, 1, 1)", "in quotes"),
        ("- alpha\n- 0.5", "expected options with their values, got a list", "One option a line"),
        ("just words", "got the single value 'just words'", "One option a line"),
        ("on: 1", "the key True, which YAML reads as bool", "One option a line"),
        ("alpha: 0.5\n  colormap: jet", "not valid YAML: mapping values are not allowed here in line 2", "indent"),
        ("alpha: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine", "One"),
        ("alpha: 0.5\ncolormap: jet\nalpha: 0.6", "key 'alpha' twice, in lines 1 and 3", "One"),
        ("labels: [{a: 1, b: 2, a: 3}]", "key 'a' twice, in lines 1 and 1", "One"),
        ("[" * 1000, "not valid YAML", "One option a line"),
        ("png-level: 11", "wrong.yaml: png-level: 11: expected 0 to 9", "png-level: 9"),
        ("input_sise: 3", "unknown option 'input_sise'", "Did you mean input_size"),
    ],
)
def test_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str, hint: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    said, how = error_of(capsys, path, "a.jpg")
    assert message in said
    assert hint in how


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.yaml"
    assert error_of(capsys, missing)[0] == f"--config {missing}: the file cannot be read (No such file or directory)."
    assert "the file cannot be read" in error_of(capsys, tmp_path)[0]
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"out: caf\xe9")
    assert "not valid YAML: unexpected end of data" in error_of(capsys, latin)[0]


def test_no_code_runs_from_a_file(tmp_path: Path) -> None:
    path, made = tmp_path / "evil.yaml", tmp_path / "made"
    path.write_text(f"alpha: !!python/object/apply:os.mkdir ['{made}']", encoding="utf-8")
    with pytest.raises(CnnvizError, match="could not determine a constructor"):
        read_config(str(path))
    assert not made.exists()
