"""Options of methods and studies: what a class declares, what an instance is, and that a function gets its own."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, is_dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest

from cnnviz.cli.commands import command_of
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.registry.params import FilePath, Options, Param, option, params_of
from cnnviz.registry.specs import CommandSpec, ComparisonSpec, MethodSpec, StudySpec


class Every(Options):
    """An option of each type."""

    count: int = option(3, "How many.", minimum=1, maximum=9)
    share: float | None = option(None, "A share.", minimum=0, unit="pixels")
    fast: bool = option(False, "Quickly.", demands="layer")
    rule: Literal["near", "far"] = option("near", "Which.")
    text: str = option("zero", "A word.")
    path: FilePath | None = option(None, "A file.")
    size: tuple[int, int] = option((8, 8), "A size.")
    names: tuple[str, ...] = option((), "Names.")
    lambda_: float = option(0.5, "Strength.")


class More(Every):
    last: int = option(0, "One more.")


EXPECTED = (
    Param("count", "int", 3, "How many.", minimum=1, maximum=9),
    Param("share", "float", None, "A share.", minimum=0, unit="pixels"),
    Param("fast", "bool", False, "Quickly.", demands="layer"),
    Param("rule", "choice", "near", "Which.", choices=("near", "far")),
    Param("text", "text", "zero", "A word."),
    Param("path", "file", None, "A file."),
    Param("size", "size", 8, "A size."),
    Param("names", "texts", (), "Names."),
    Param("lambda", "float", 0.5, "Strength."),
)
METHOD = MethodSpec(
    name="every",
    command="every",
    family="tests",
    entry="nowhere:every",
    title="Every",
    summary="Every option.",
    paper="Nobody, 2020",
    options=Every,
)


def test_what_a_class_declares() -> None:
    assert params_of(Every) == EXPECTED
    assert params_of(More) == (*EXPECTED, Param("last", "int", 0, "One more."))
    assert params_of(Options) == ()


def test_an_instance() -> None:
    found = METHOD.resolve_params({"count": 5, "size": "4,6", "lambda": 1, "names": ["a", "b"]})
    assert found == Every(count=5, size=(4, 6), lambda_=1.0, names=("a", "b"))
    assert found.to_dict() == {
        "count": 5, "share": None, "fast": False, "rule": "near", "text": "zero", "path": None, "size": (4, 6),
        "names": ("a", "b"), "lambda": 1.0,
    }  # fmt: skip
    assert is_dataclass(found)
    assert hash(found) == hash(replace(found))
    assert found.with_values({"lambda": 2.0, "count": 1}) == replace(found, lambda_=2.0, count=1)
    assert METHOD.resolve_params(found.to_dict()) == found
    assert METHOD.resolve_params({}) == Every() != More()
    with pytest.raises(FrozenInstanceError):
        found.count = 1  # type: ignore[misc]
    with pytest.raises(CnnvizError, match="rule='fra': expected one of near, far"):
        METHOD.resolve_params({"rule": "fra"})
    with pytest.raises(CnnvizError, match="no option 'cuont'"):
        METHOD.resolve_params({"cuont": 1})


def test_options_that_are_listed_give_the_same() -> None:
    listed = replace(METHOD, params=EXPECTED, options=Options)
    assert listed.params == EXPECTED
    given = {"count": 5, "size": "4,6", "lambda": 1}
    assert listed.resolve_params(given).to_dict() == METHOD.resolve_params(given).to_dict()
    assert listed.resolve_params(given).lambda_ == 1.0  # type: ignore[attr-defined]
    assert replace(listed, name="other").options is listed.options
    with pytest.raises(CnnvizError, match="rule='off': expected one of on"):
        replace(METHOD, params=(Param("rule", "choice", "off", "", choices=("on",)),))
    with pytest.raises(CnnvizError, match="'a b' is no name"):
        replace(METHOD, params=(Param("a b", "int", 1, ""),))


def test_fields_that_cannot_be_options() -> None:
    with pytest.raises(TypeError, match=r"Plain\.count is not declared"):
        type("Plain", (Options,), {"__annotations__": {"count": int}, "count": 3})
    odd = type("Odd", (Options,), {"__annotations__": {"when": complex}, "when": option(1j, "A number.")})
    with pytest.raises(TypeError, match="cannot be of type"):
        params_of(odd)


def test_a_dry_run_changes_what_its_entry_says() -> None:
    spec = lookup.find_method("sscam")
    assert spec.dry_run(spec.resolve_params({"noise": 3})) == spec.options(samples=1, channels=2, noise=3.0)


@pytest.mark.parametrize("spec", lookup.all_entries(), ids=lambda spec: spec.name)
def test_a_function_is_given_the_options_of_its_entry(spec: CommandSpec) -> None:
    target: Any = spec.load()
    if isinstance(spec, ComparisonSpec):
        assert get_args(target.__orig_bases__[0]) == (spec.options,)
        return
    function: Callable[..., Any] = target.__init__ if isinstance(spec, StudySpec) else target
    name = inspect.signature(function).parameters["params"].annotation
    assert inspect.unwrap(function).__globals__[name] is spec.options
    assert spec.options() == spec.resolve_params({})


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        ({"space": "inptu"}, "space is 'inptu': expected one of 'layer', 'input', 'grid'", "Did you mean input?"),
        (
            {"needs": ("gap_head",)},
            "needs is 'gap_head': expected one of 'gap-head', 'trace', 'boxes', 'attention', 'layer'",
            "gap-head",
        ),
        (
            {"needs": "trace"},
            "needs is 'trace': expected several of 'gap-head', 'trace', 'boxes', 'attention', 'layer'",
            "tuple",
        ),
        ({"views": ("tile",)}, "views is 'tile'", "Did you mean tiles?"),
        ({"signed": "no"}, "signed is 'no': expected one of True, False", "Use one of them"),
        ({"params": (Param("x", "integer", 1, ""),)}, "type of option x is 'integer'", "Did you mean int?"),  # type: ignore[arg-type]
    ],
)
def test_words_of_another_package_are_checked(
    changed: dict[str, Any], message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = SimpleNamespace(name="theirs", load=lambda: replace(METHOD, **changed))
    monkeypatch.setattr(lookup, "entry_points", lambda group: [point])
    lookup.all_entries.cache_clear()
    try:
        with pytest.raises(CnnvizError) as raised:
            lookup.all_entries()
    finally:
        monkeypatch.undo()
        lookup.all_entries.cache_clear()
    assert "'theirs'" in raised.value.message
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_the_words_of_our_own_entries() -> None:
    """The same check that other packages get."""
    code = "from cnnviz.registry import lookup, spec_words as w; [w.check_words(each) for each in lookup.all_entries()]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_that_take_folders_show_a_path() -> None:
    """An option that is told to take a folder, an archive or a run is not called a file or a text."""
    shown = {
        (command, param.name): next(each.metavar for each in command_of(command, specs).params if each.name == name)
        for command, specs in lookup.commands().items()
        for spec in specs
        for param in spec.params
        if (name := param.attribute) and re.search(r"\b(folder|archive)\b|^Run of", param.help, re.I)
    }
    assert {("tcav", "random"), ("tcav", "concept"), ("deeplift", "background")} < set(shown)
    assert set(shown.values()) == {"PATH", "DIR"}, shown
