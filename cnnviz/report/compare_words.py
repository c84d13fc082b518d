"""Figures of a comparison of two runs in words: the same on its page and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnviz.errors import in_percent

KEPT_BY = "--save raw"


def similarity(figure: Mapping[str, Any]) -> str:
    """A mean over images, with its interval."""
    ends = figure["ci95"]
    span = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"{figure['value']:.3f}{span}, n = {figure['n']}"


def rate(figure: Mapping[str, Any]) -> str:
    """A share of images, counted, and in per cent with its interval.

    >>> rate({"value": 0.05, "ci95": [0.009, 0.236], "n": 20})
    '1 of 20 (5.0 %; 95 % interval 0.9 % to 23.6 %)'
    """
    count, ends = round(figure["value"] * figure["n"]), figure["ci95"]
    span = "" if ends is None else f"; 95 % interval {in_percent(ends[0])} to {in_percent(ends[1])}"
    return f"{count} of {figure['n']} ({in_percent(figure['value'])}{span})"


def allowed(share: float) -> str:
    """A share of images that is allowed, as it was written."""
    return f"{100 * share:g} %"


def right(figures: Mapping[str, Any]) -> str:
    """Which of the runs is right, and whether one is more often."""
    return (
        f"both {figures['both']}, only A {figures['only_a']}, only B {figures['only_b']}, neither "
        f"{figures['neither']}; A {in_percent(figures['accuracy_a']['value'])}, "
        f"B {in_percent(figures['accuracy_b']['value'])} of {figures['n']} "
        f"(McNemar's exact test: p = {figures['mcnemar_p']:.2g})"
    )


def not_kept(figures: Mapping[str, Any]) -> list[str]:
    """Which of the runs kept no maps, and how it keeps them."""
    told = []
    for name in ("a", "b"):
        if count := figures[f"not_kept_{name}"]:
            maps = "a map" if count == 1 else f"{count} of its maps"
            told.append(
                f"{name.upper()} ({figures[name]['run']}) keeps neither raw map nor heatmap of {maps}: "
                f"run it again with {KEPT_BY}"
            )
    return told


def networks(model: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The network of a run, with its weights; of a comparison the networks of both."""
    found = summary.get("compare")
    if not isinstance(found, Mapping):
        return _network(model.get("name"), model.get("weights"))
    a, b = (_network(found[name]["model"], found[name]["weights"]) for name in ("a", "b"))
    return f"A and B: {a}" if a == b else f"A: {a}; B: {b}"


def _network(name: object, weights: object) -> str:
    return str(name) if weights is None else f"{name} ({weights})"
