"""The figures of a run's summary in words: what stands above the cards of its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnviz.errors import in_percent
from cnnviz.report import cautions, compare_words

_WORDS = {
    "inputs": "images", "explained": "explained", "failed": "failed", "passed_over": "other files passed over",
    "seconds": "time", "images_per_second": "images per second", "labelled": "images with a label",
    "accuracy": "accuracy", "method": "method", "class_specific": "depends on the class", "caveat": "note",
    "skipped": "left out by --only", "excluded": "left out by --exclude", "interrupted": "interrupted",
    "stopped": "stopped", "unmeasured": "nothing was measured", "kept": "images kept from an earlier run",
    "gone": "images no longer there", "layer": "layer", "units": "units", "units_of_layer": "units of the layer",
    "units_never_fired": "units that never fired", "patches": "patches",
    "patches_not_reproduced": "patches not reproduced", "with": "gradients of patches", "objective": "objective",
    "images": "images made", "pre_activation": "before its activation", "default_layer": "layer of other commands",
}  # fmt: skip
# What the page says elsewhere, or what tells of the last command and not of the results.
_ELSEWHERE = frozenset(("model", "study", "resumed", "timed"))
_FEW = 3
_SLOW = 0.1
# That a map depends on its class is no news.
_NEVER_YES = frozenset(("class_specific",))
_NEVER_ZERO = frozenset(("failed", "passed_over", "kept", "gone", "patches_not_reproduced"))


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of name and value, for people: no key, no ``True``, nothing that is nought where that is no news.

    Args:
        summary: Of the report. What is no single value stays in ``report.json``.
    """
    pairs = []
    for key, value in summary.items():
        if key == "outside_view":
            pairs += unseen(summary, "grey: not shown to the network")
        if key == "outcomes" and isinstance(value, Mapping):
            pairs += [("right", str(value["correct"])), ("wrong", str(value["wrong"]))]
        if key == "compare" and isinstance(value, Mapping):
            pairs += _compared(value)
        # Of several methods there is a table.
        if key == "metrics" and "study" not in summary and isinstance(value, Mapping):
            pairs += _measured(value)
        if key in _ELSEWHERE or not isinstance(value, (bool, int, float, str)) or (key in _NEVER_ZERO and not value):
            continue
        if key in _NEVER_YES and value is True:
            continue
        # A study goes through its images; what it explains are not they.
        words = "done" if key == "explained" and "study" in summary else _WORDS.get(key, key.replace("_", " "))
        if key == "images_per_second" and isinstance(value, float) and value < _SLOW:
            words, value = "images per minute", 60 * value
        part = f" for {summary['timed']} of them" if key == "seconds" and summary.get("timed") else ""
        pairs.append((words, _value(key, value) + part))
    return pairs + notices(summary)


def unseen(summary: Mapping[str, Any], title: str) -> list[tuple[str, str]]:
    """What of the images the network was not shown, under this title; nothing where it saw all.

    Args:
        summary: Of the report.
        title: What is said of it.
    """
    found = summary.get("outside_view")
    if not isinstance(found, Mapping):
        return []
    share, count = in_percent(float(found["mean_share"])), int(found["images"])
    return [(title, f"{share} of {'1 picture' if count == 1 else f'{count} pictures, on average'}")]


def notices(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What should be known of the figures: classes that were guessed, what was found by chance, what is flat.

    Args:
        summary: Of the report.
    """
    guesses = summary.get("class_guesses")
    pairs = [("class", str(each)) for each in guesses] if isinstance(guesses, list) else []
    for key, value in summary.items():
        if "remarks" not in summary or key not in cautions.OF_FIGURES:
            pairs += cautions.told(key, value)
    return pairs


def _measured(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of each metric, or of each method, in a line; with their intervals where they are few."""
    found = []
    for name, figures in table.items():
        own = {
            key: each for key, each in figures.items() if isinstance(each, Mapping) and each.get("value") is not None
        }
        parts = []
        for key, each in own.items():
            ends = each.get("ci95") if len(own) <= _FEW else None
            span = "" if ends is None else f" ({ends[0]:.3g} to {ends[1]:.3g})"
            parts.append(f"{key.replace('_', ' ')} {each['value']:.3g}{span}")
        if parts:
            found.append((name.replace("_", " "), ", ".join(parts)))
    return found


def _compared(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a comparison of two runs came to."""
    found = [
        (name.upper(), f"{', '.join(figures[name]['methods'])} of {figures[name]['model']}") for name in ("a", "b")
    ]
    found.append(("explained", str(figures["explained"])))
    if figures["similarity"]["spearman"]["value"] is not None:
        found.append(("similarity, rank correlation", compare_words.similarity(figures["similarity"]["spearman"])))
    if figures["changed_predictions"]["value"] is not None:
        found.append(("changed predictions", compare_words.rate(figures["changed_predictions"])))
    if figures.get("differs"):
        found.append(("B differs in", "; ".join(figures["differs"])))
    if figures["right"]:
        found.append(("right", compare_words.right(figures["right"])))
    if told := compare_words.not_kept(figures):
        found.append(("not compared", "; ".join(told)))
    if figures["passed"] is not None:
        found.append(("within what is allowed", "yes" if figures["passed"] else "no: " + "; ".join(figures["wrong"])))
    return found


def _value(key: str, value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "seconds":
        return f"{value:.1f} s"
    if key == "images_per_second":
        return f"{value:.1f}"
    if key == "accuracy":
        return in_percent(float(value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
