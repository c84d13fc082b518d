"""Commands made from the register, also for methods of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnviz.cli.app import main
from cnnviz.cli.variants import formula_of
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec, Param
from tests.support.fake_pipeline import FakePipeline

# Commands made from the register.

WINDOW = Param("window_size", "int", 32, "Side of the window.", minimum=1, maximum=99, unit="pixels")
SHARED_PARAM = Param("seed", "int", 0, "Of the noise.")
EXTRA = (
    MethodSpec(
        name="extra",
        command="extra",
        family="added by a test",
        entry="nowhere:f",
        title="Extra",
        summary="An added method.",
        paper="Nobody 2020",
        params=(WINDOW, Param("flag", "bool", False, "A switch."), SHARED_PARAM),
    ),
    MethodSpec(
        name="extra++",
        command="extra",
        family="added by a test",
        entry="nowhere:g",
        title="Extra++",
        summary="Its variant.",
        paper="Nobody 2021",
        params=(
            WINDOW,
            Param("lambda", "float", 0.5, "Strength", minimum=0.0),
            Param("kind", "choice", "near", "Which.", choices=("near", "far")),
            Param("mode", "choice", "on", "Whether.", choices=("on", "off")),
            Param("grid", "size", 32, "Cells."),
            Param("smooth", "bool", True, "Smooth the map."),
        ),
    ),
)


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch, fake: FakePipeline) -> Iterator[FakePipeline]:
    def points(group: str) -> list[Any]:
        specs = EXTRA if group == "cnnviz.methods" else []
        return [SimpleNamespace(name=spec.name, load=lambda spec=spec: spec) for spec in specs]

    monkeypatch.setattr(lookup, "entry_points", points)
    lookup.all_entries.cache_clear()
    yield fake
    lookup.all_entries.cache_clear()


def test_a_method_of_another_package_is_a_command(extra: FakePipeline) -> None:
    assert main(["extra", "x.jpg", "--flag", "--window-size", "5", "--seed", "9"]) == 0
    settings = extra.runs[0]
    assert settings.command == settings.target.method == "extra"
    assert settings.target.params == {"window_size": 5, "flag": True, "seed": 9}
    assert settings.runtime.seed == 9
    assert settings.output.out == "cnnviz-out/extra"


def test_its_variants(extra: FakePipeline) -> None:
    args = ["--variant", "extra++", "--lambda", "2", "--kind", "far", "--no-smooth"]
    assert main(["extra", "x.jpg", *args, "--seed", "9"]) == 0
    assert extra.runs[0].target.method == "extra++"
    assert extra.runs[0].target.params == {
        "window_size": 32,
        "lambda": 2.0,
        "kind": "far",
        "smooth": False,
        "mode": "on",
        "grid": (32, 32),
    }
    assert main(["extra", "x.jpg"]) == 0
    assert extra.runs[1].target.params == {"window_size": 32, "flag": False, "seed": 0}


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ("--variant extra+", "--variant extra+: expected one of extra, extra++.", "Did you mean extra"),
        (
            "--lambda 2",
            "--lambda is an option of extra++, not of extra.",
            "Add --variant extra++, or leave --lambda out.",
        ),
        ("--window-size 100", "--window-size 100 is out of range: 1 to 99.", "The default is 32."),
        ("--window-size 2.5", "--window-size 2.5: expected a whole number.", "--window-size 1"),
        ("--variant extra++ --kind fra", "--kind fra: expected one of near, far.", "far"),
    ],
)
def test_a_wrong_value_for_it(
    extra: FakePipeline, capsys: pytest.CaptureFixture[str], args: str, message: str, hint: str
) -> None:
    assert main(["extra", "x.jpg", *args.split()]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"cnnviz: {message}"
    assert hint in "".join(rest)
    assert extra.runs == []


def test_its_options_stand_in_a_configuration_file(extra: FakePipeline, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("variant: extra++\nlambda: 3\nwindow-size: 7\nsmooth: false\nmode: off\ngrid: [4, 6]\n")
    assert main(["extra", "x.jpg", "--config", str(path), "--window-size", "8"]) == 0
    assert extra.runs[0].target.params == {
        "window_size": 8,
        "lambda": 3.0,
        "kind": "near",
        "smooth": False,
        "mode": "off",
        "grid": (4, 6),
    }


def test_its_help(extra: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extra", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "An added method." in text
    assert "--window-size N Side of the window. 1 to 99 pixels. [default: 32]" in text
    assert "--lambda X extra++: Strength. 0 or more. [default: 0.5]" in text
    assert "--kind near|far extra++: Which. [default: near]" in text
    assert "--grid N|H,W extra++: Cells. [default: 32]" in text
    assert "--variant NAME extra, extra++. [default: extra]" in text
    assert text.count("--seed") == 1
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert "Added by a test:\n  extra " in listed
    assert " An added method.\n" in listed


UNLIKE = tuple(
    MethodSpec(
        name=name,
        command="unlike",
        family="added by a test",
        entry="nowhere:f",
        title="Unlike",
        summary="Variants whose options differ.",
        paper="Nobody 2020",
        params=params,
    )
    for name, params in (
        ("unlike", (Param("kind", "choice", "near", "Which.", ("near", "far")), Param("depth", "int", 0, "How deep."))),
        (
            "other",
            (Param("kind", "choice", "all", "Which.", ("all", "near")), Param("depth", "float", 0.5, "A share.")),
        ),
    )
)


def test_variants_that_differ_in_an_option(
    monkeypatch: pytest.MonkeyPatch, fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each variant's default, range and choices stand in the help, and the value is read as the variant takes it."""
    points = [SimpleNamespace(name=spec.name, load=lambda spec=spec: spec) for spec in UNLIKE]
    monkeypatch.setattr(lookup, "entry_points", lambda group: points)
    lookup.all_entries.cache_clear()
    try:
        assert main(["unlike", "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "--kind near|far|all unlike: Which. [default: near] other: Which. [default: all]" in text
        assert "--depth N unlike: How deep. [default: 0] other: A share. [default: 0.5]" in text
        assert main(["unlike", "--variant", "other", "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "--kind all|near Which. [default: all] --depth X A share. [default: 0.5]" in text
        assert "Options of other:" in text
        assert main(["unlike", "x.jpg", "--variant", "other", "--depth", "1.5"]) == 0
        assert main(["unlike", "x.jpg", "--depth", "3"]) == 0
        assert [run.target.params["depth"] for run in fake.runs] == [1.5, 3]
        assert main(["unlike", "x.jpg", "--depth", "1.5"]) == 2
        assert "--depth 1.5: expected a whole number." in capsys.readouterr().err
        assert main(["unlike", "x.jpg", "--kind", "all"]) == 2
        assert "--kind all: expected one of near, far." in capsys.readouterr().err
    finally:
        monkeypatch.undo()
        lookup.all_entries.cache_clear()


@pytest.mark.parametrize("spec", lookup.all_methods(), ids=lambda spec: spec.name)
def test_every_method_has_a_formula_on_its_page(spec: Any) -> None:
    lines = formula_of(spec)
    assert 1 <= len(lines) <= 7, lines
    assert any(sign in line for line in lines for sign in "=*|"), lines


@pytest.mark.parametrize("command", ["extremal", "cam", "lrp"])
def test_a_command_of_one_method_has_formula_and_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert all(line.strip() in page for line in formula_of(lookup.find_method(command)))
    assert page.split("Examples:")[1].split("\n")[1].strip() == f"cnnviz {command} photos/"


def test_help_of_one_variant(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own defaults and units, its formula, its paper, and calls that parse."""
    assert main(["gradcam", "--variant", "sscam", "--help"]) == 0
    page = capsys.readouterr().out
    text = " ".join(page.split())
    assert "--samples N Noisy copies of each masked image. 1 or more. [default: 35]" in text
    assert "--noise X Standard deviation; masks lie between 0 and 1. 0 or more. [default: 2.0]" in text
    assert "SS-CAM: Smoothed Score-CAM" in text
    assert "s_k = mean over n noises of f(x * (H_k + noise)) - f(0)" in text
    assert "--references" not in text
    assert "--counterfactual" not in text
    assert main(["gradcam", "--variant=smoothgradcam++", "-h"]) == 0
    assert "[default: 10]" in capsys.readouterr().out
    assert main(["gradcam", "--help", "--variant", "nonsense"]) == 2


def test_help_says_which_variants_take_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcam", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "smoothgradcam++: Noisy copies. 1 or more. [default: 10] sscam: Noisy copies of each" in text


@pytest.mark.parametrize("spec", lookup.all_methods(), ids=lambda spec: spec.name)
def test_the_examples_of_every_help_page_parse(
    spec: MethodSpec, fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    if len(lookup.commands()[spec.command]) == 1:
        pytest.skip("the command has no variants")
    assert main([spec.command, "--variant", spec.name, "--help"]) == 0
    lines = capsys.readouterr().out.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert len(lines) == 2
    for line in lines:
        assert main(line.split()[1:]) == 0, line
        assert fake.runs[-1].target.method == spec.name
