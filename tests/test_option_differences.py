"""How the options of two runs differ: all of it, as it is typed."""

from __future__ import annotations

from typing import Any

import pytest

from cnnviz.run.option_differences import differences

NOW = ("then", "now")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"class": ["pred"]}, {"class": ["top:3", "cat"]}, "--class pred then, --class top:3 --class cat now"),
        ({"save": ["overlay"]}, {"save": []}, "--save overlay then, --save none now"),
        ({"size": None}, {"size": 448}, "no --size then, --size 448 now"),
        ({"legend": True}, {"legend": False}, "--legend then, no --legend now"),
        ({"batch_size": 1, "alpha": 0.5}, {"batch_size": 2, "alpha": 1.0}, "--alpha 0.5 then, --alpha 1 now"),
        ({"method": "gradcam"}, {"method": "gradcam++"}, "--variant gradcam then, --variant gradcam++ now"),
        ({"labels": "a b.csv"}, {"labels": None}, "--labels 'a b.csv' then, no --labels now"),
        ({"shard": "1/2", "seed": 0}, {"seed": 0}, ""),
    ],
)
def test_each_is_named_as_it_is_typed(old: dict[str, Any], new: dict[str, Any], said: str) -> None:
    assert differences(old, new, {"batch_size"}, NOW) == said


def test_all_are_named_and_beyond_four_counted() -> None:
    old = dict.fromkeys("abcdef", 1)
    assert differences(old, {**old, "a": 2, "f": 3}, (), NOW) == "--a 1 then, --a 2 now; --f 1 then, --f 3 now"
    said = differences(old, dict.fromkeys("abcdef", 2), (), ("in A", "in B"))
    assert said == "; ".join(f"--{name} 1 in A, --{name} 2 in B" for name in "abcd") + "; and 2 more"


def test_another_command_is_the_only_difference_that_is_named() -> None:
    old = {"command": "gradcam", "method": "gradcam", "layer": []}
    new = {"command": "saliency", "method": "saliency", "absolute": True, "layer": []}
    assert differences(old, new, (), NOW) == "cnnviz gradcam then, cnnviz saliency now"


@pytest.mark.parametrize(
    ("command", "old", "new", "said"),
    [
        ("evaluate", {"baselines": True}, {"baselines": False}, "--baselines then, --no-baselines now"),
        ("evaluate", {"sanity": False}, {"sanity": True}, "no --sanity then, --sanity now"),
        ("evaluate", {"method": ["gradcam"]}, {"method": ["rise"]}, "--method gradcam then, --method rise now"),
        ("compare", {"method": None}, {"method": "lrp"}, "no --method then, --method lrp now"),
        ("gradcam", {"method": "gradcam"}, {"method": "xgradcam"}, "--variant gradcam then, --variant xgradcam now"),
    ],
)
def test_words_are_those_that_the_command_takes(
    command: str, old: dict[str, Any], new: dict[str, Any], said: str
) -> None:
    """`--no-legend` is no option, and `evaluate` has no `--variant`."""
    assert differences({"command": command, **old}, {"command": command, **new}, (), NOW) == said
