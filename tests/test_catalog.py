"""The register: entries, options, and methods of other packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec, Param
from tests.support import networks as nets


def third_party(run: Any, target: Any, params: Any) -> Heatmap:
    """The mean activation, times a factor."""
    return Heatmap(run.activations[0].detach().mean(1) * params.factor)


SPEC = MethodSpec(
    name="mean_activation",
    command="mean-activation",
    family="class activation maps",
    entry="tests.test_catalog:third_party",
    title="Mean activation",
    summary="The mean of the feature maps.",
    paper="Nobody, 2020",
    params=(Param("factor", "float", 1.0, "A factor.", minimum=0, maximum=10),),
)


@dataclass
class _Point:
    """An entry point of an installed package."""

    name: str
    value: Any

    def load(self) -> Any:
        return self.value


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Call it with what a package registers."""

    def install(*values: Any) -> None:
        points = [_Point(f"point{i}", value) for i, value in enumerate(values)]
        monkeypatch.setattr(lookup, "entry_points", lambda group: points if group == "cnnviz.methods" else [])
        lookup.all_entries.cache_clear()

    yield install
    lookup.all_entries.cache_clear()


@pytest.mark.parametrize("registered", [SPEC, lambda: SPEC], ids=["spec", "function"])
def test_a_method_of_another_package(registered: Any, installed: Any) -> None:
    installed(registered)
    network = nets.TOYS["plain"].build()
    found = cnnviz.explain(network, nets.images(), method="mean_activation", factor=3)
    with torch.no_grad():
        expected = 3 * torch.relu(network.maps(nets.images())).mean(1)
    torch.testing.assert_close(found.raw, expected)
    listed = {method["name"]: method for method in cnnviz.list_methods()}
    assert listed["mean_activation"]["options"]["factor"]["default"] == 1.0
    assert lookup.commands()["mean-activation"] == (SPEC,)
    with pytest.raises(CnnvizError, match=r"factor=11 is out of range: 0 to 10"):
        cnnviz.explain(network, nets.images(), method="mean_activation", factor=11)


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        (replace(SPEC, name="gradcam"), "'gradcam' is taken"),
        ("nonsense", "no MethodSpec"),
        (lambda: 3, "no MethodSpec"),
    ],
)
def test_an_entry_point_that_cannot_be_used(registered: Any, message: str, installed: Any) -> None:
    installed(registered)
    with pytest.raises(CnnvizError, match=message) as raised:
        lookup.all_methods()
    assert "point0" in raised.value.message


def test_two_packages_with_one_name(installed: Any) -> None:
    installed(SPEC, SPEC)
    with pytest.raises(CnnvizError, match="'mean_activation' is taken"):
        lookup.all_methods()


def test_an_unknown_method() -> None:
    with pytest.raises(CnnvizError, match="Unknown method 'gradcan'") as raised:
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), method="gradcan")
    assert "gradcam" in raised.value.hint
    with pytest.raises(CnnvizError) as raised:
        lookup.find_method("zzzzz")
    assert "Available: cam, gradcam" in raised.value.hint
    with pytest.raises(CnnvizError, match="'attention' is a command with 4 methods") as raised:
        lookup.find_method("attention")
    assert "chefer, gradient_rollout, legrad, rollout" in raised.value.hint


def test_names_and_commands() -> None:
    names = [spec.name for spec in lookup.BUILT_IN]
    assert len(set(names)) == len(names)
    assert {"cam", "gradcam"} <= set(names)
    grouped = lookup.commands()
    assert sorted(spec.name for specs in grouped.values() for spec in specs if spec.name in names) == sorted(names)
    assert set(grouped) >= {spec.command for spec in lookup.BUILT_IN}
    for spec in lookup.BUILT_IN:
        options = [p.name for p in spec.params]
        assert len(set(options)) == len(options)
        assert spec.command == spec.command.lower()


def test_lists_have_defaults_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    methods = capsys.readouterr().out
    assert "    --samples  Noisy copies. 1 or more. [default: 10]\n" in methods
    assert "    --rule  " in methods
    assert main(["metrics"]) == 0
    metrics = capsys.readouterr().out
    assert "    :replace=  zero|blur|mean  What stands for a hidden pixel" in metrics
    assert "as many passes again. [default: yes]\n" in metrics
    for spec in (*lookup.all_methods(), *lookup.all_metrics()):
        for param in spec.params:
            if param.default not in (None, False, (), True):
                assert f"[default: {param.default}]" in methods + metrics, (spec.name, param.name)


def test_listing_methods_needs_no_torch() -> None:
    code = "import sys; from cnnviz.registry import lookup; lookup.all_methods(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("param", "value", "expected"),
    [
        (Param("n", "int", 1, ""), 3, 3),
        (Param("n", "int", 1, ""), 3.0, 3),
        (Param("x", "float", 1, ""), 2, 2.0),
        (Param("b", "bool", False, ""), True, True),
        (Param("c", "choice", "a", "", choices=("a", "b")), "b", "b"),
        (Param("s", "size", 8, "", minimum=1), 8, (8, 8)),
        (Param("s", "size", 8, "", minimum=1), (4, 6), (4, 6)),
        (Param("s", "size", 8, "", minimum=1), "4,6", (4, 6)),
        (Param("s", "size", 8, "", minimum=1), "4x6", (4, 6)),
        (Param("t", "text", "zero", ""), " blur ", "blur"),
        (Param("t", "text", "zero", ""), (0, 127, 255), "0,127,255"),
    ],
)
def test_values_of_options(param: Param, value: Any, expected: Any) -> None:
    found = param.check(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("param", "value", "message"),
    [
        (Param("n", "int", 1, ""), 1.5, "whole number"),
        (Param("n", "int", 1, ""), True, "whole number"),
        (Param("n", "int", 1, ""), "3", "whole number"),
        (Param("n", "int", 1, "", minimum=1), 0, "out of range: 1 or more"),
        (Param("x", "float", 1, ""), None, "a number"),
        (Param("b", "bool", False, ""), 1, "true or false"),
        (Param("c", "choice", "a", "", choices=("alpha", "beta")), "alpa", "one of alpha, beta"),
        (Param("s", "size", 8, ""), (1, 2, 3), "height and width"),
        (Param("s", "size", 8, ""), "wide", "height and width"),
        (Param("s", "size", 8, "", minimum=1), (0, 4), "out of range"),
        (Param("t", "text", "zero", ""), "  ", "a word"),
    ],
)
def test_wrong_values_of_options(param: Param, value: Any, message: str) -> None:
    with pytest.raises(CnnvizError, match=message) as raised:
        param.check(value)
    assert param.name in raised.value.message
