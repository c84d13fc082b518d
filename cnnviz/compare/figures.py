"""What a comparison comes to: similarity of maps, agreement of predictions, who is right, what changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnviz.compare.likeness import ComparedMaps, Likeness
from cnnviz.compare.pairing import Row, Targets
from cnnviz.metrics.intervals import bootstrap_mean, wilson
from cnnviz.metrics.tests import mcnemar_p
from cnnviz.registry.comparisons import CompareOptions
from cnnviz.report import compare_words

SIMILARITIES = ("spearman", "pearson", "ssim")


@dataclass(frozen=True)
class ImageChange:
    """How much an image changed.

    Attributes:
        pair: Numbers of its records in A and in B.
        changed: Whether its prediction differs; None where one of the runs has none.
        change: 1 minus the lowest rank correlation of its maps, 0 to 2; None where none could be compared.
        why: Why some of its maps have no correlation; None where all have one.
        one_is_flat: Whether of two maps one, and not the other, is the same everywhere.
    """

    pair: tuple[int, int]
    changed: bool | None
    change: float | None
    why: str | None = None
    one_is_flat: bool = False

    @property
    def order(self) -> tuple[bool, float]:
        """What changed most comes first: another prediction, then another map. A map that became flat, or was, has
        nothing of the other: it comes where a correlation of zero would."""
        return not self.changed, -max(self.change or 0.0, 1.0 if self.one_is_flat else 0.0)


@dataclass
class Tally:
    """Gathers what each image says.

    Attributes:
        targets: Tells whether two predictions are the same class.
        each: Whether maps of what each run predicts itself are compared, whatever that is.
    """

    targets: Targets
    each: bool
    changes: list[ImageChange] = field(default_factory=list)
    similar: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SIMILARITIES})
    images: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in SIMILARITIES})
    by_prediction: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    maps: int = 0
    other_targets: int = 0
    without_map: int = 0
    not_kept: dict[str, int] = field(default_factory=lambda: {"A": 0, "B": 0})
    apart: int = 0
    flat: int = 0
    resampled: int = 0
    from_pictures: int = 0
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("both", "only_a", "only_b", "neither"), 0))

    def count(self, pair: tuple[int, int], a: Row, b: Row, found: Sequence[ComparedMaps]) -> None:
        """Take in an image.

        Args:
            pair: Numbers of its records.
            a: The record of A.
            b: The record of B.
            found: Its pairs of maps.
        """
        changed = self._changed(a, b)
        alike = [each.found for each in found if each.found is not None]
        values = [each.spearman for each in alike if each.spearman is not None]
        why = next((each.why for each in found if each.why), None)
        one_is_flat = any(each.spearman is None and each.flat[0] != each.flat[1] for each in alike)
        self.changes.append(ImageChange(pair, changed, 1.0 - min(values) if values else None, why, one_is_flat))
        for each in found:
            self.other_targets += not each.maps.same
            if each.found is None:
                self._without(each)
            elif each.maps.same or self.each:
                self._map(len(self.changes), each.found, changed)
        if (right := rightness(a, b)) is not None:
            self.right[right] += 1

    def _without(self, pair: ComparedMaps) -> None:
        self.without_map += 1
        self.apart += not pair.not_kept
        for name in pair.not_kept:
            self.not_kept[name] += 1

    def _map(self, image: int, found: Likeness, changed: bool | None) -> None:
        self.maps += 1
        self.resampled += found.resampled
        self.from_pictures += not found.exact
        self.flat += found.spearman is None
        for name in SIMILARITIES:
            value = getattr(found, name)
            if value is not None:
                self.similar[name].append(value)
                self.images[name].append(image)
        if changed is not None and found.spearman is not None:
            self.by_prediction[changed].append(found.spearman)

    def _changed(self, a: Row, b: Row) -> bool | None:
        first, second = (next(iter(each.get("predictions") or ()), None) for each in (a, b))
        if first is None or second is None or "class_index" not in first:
            return None
        return not self.targets.same(_bare(first), _bare(second))

    def summary(self) -> dict[str, Any]:
        """The figures: means with intervals by bootstrap over images, rates with Wilson's."""
        known = [each.changed for each in self.changes if each.changed is not None]
        wrong, cases = self.right, sum(self.right.values())
        found: dict[str, Any] = {
            "maps": self.maps,
            "other_targets": self.other_targets,
            "without_map": self.without_map,
            "not_kept_a": self.not_kept["A"],
            "not_kept_b": self.not_kept["B"],
            "apart": self.apart,
            "flat": self.flat,
            "resampled": self.resampled,
            "from_pictures": self.from_pictures,
            "similarity": {name: _mean(self.similar[name], self.images[name]) for name in SIMILARITIES},
            "same_prediction": _mean(self.by_prediction[False]),
            "other_prediction": _mean(self.by_prediction[True]),
            "agreement": _rate(len(known) - sum(known), len(known)),
            "changed_predictions": _rate(sum(known), len(known)),
            "right": None,
        }
        if cases:
            found["right"] = {
                **wrong,
                "n": cases,
                "accuracy_a": _rate(wrong["both"] + wrong["only_a"], cases),
                "accuracy_b": _rate(wrong["both"] + wrong["only_b"], cases),
                "mcnemar_p": mcnemar_p(wrong["only_a"], wrong["only_b"]),
            }
        return found


def _bare(prediction: Row) -> dict[str, Any]:
    """A prediction as a class: boxes and segments have more."""
    return {key: prediction.get(key) for key in ("class_index", "label")}


def rightness(a: Row, b: Row) -> str | None:
    """Which of the runs is right with an image: ``both``, ``only_a``, ``only_b`` or ``neither``; None if not known."""
    right = [_is_right(each) for each in (a, b)]
    if None in right:
        return None
    return {(True, True): "both", (True, False): "only_a", (False, True): "only_b"}.get((right[0], right[1]), "neither")  # type: ignore[arg-type]


def _is_right(record: Row) -> bool | None:
    if record.get("outcome") is not None:
        return bool(record["outcome"] == "correct")
    first = next(iter(record.get("predictions") or ()), None)
    if record.get("label") is None or first is None:
        return None
    return bool(first.get("label") == record["label"])


def _mean(values: Sequence[float], groups: Sequence[int] | None = None) -> dict[str, Any]:
    if not values:
        return {"value": None, "ci95": None, "n": 0}
    ends = bootstrap_mean(values, groups)
    return {"value": float(np.mean(values)), "ci95": None if ends is None else list(ends), "n": len(values)}


def _rate(hits: int, count: int) -> dict[str, Any]:
    if not count:
        return {"value": None, "ci95": None, "n": 0}
    return {"value": hits / count, "ci95": list(wilson(hits, count)), "n": count}


def held_to(figures: Mapping[str, Any], params: CompareOptions) -> tuple[bool | None, list[str]]:
    """Whether the figures are within what is allowed, None where nothing was asked; and what is not.

    What could not be measured is not within it.
    """
    checks = (
        ("--min-similarity", params.min_similarity, figures["similarity"]["spearman"], True, "similarity of maps"),
        (
            "--max-changed-predictions",
            params.max_changed_predictions,
            figures["changed_predictions"],
            False,
            "changed predictions",
        ),
    )
    wrong: list[str] = []
    asked = False
    for flag, bound, measured, at_least, what in checks:
        if bound is None:
            continue
        asked = True
        value = measured["value"]
        if value is None:
            wrong.append(f"{what}: nothing could be measured, and {flag} asks for {bound:g}")
        elif value < bound if at_least else value > bound:
            said = f"{value:.3g}" if at_least else compare_words.rate(measured)
            allowed = f"no less than {bound:g}" if at_least else f"no more than {compare_words.allowed(bound)}"
            wrong.append(f"{what}: {said}, {flag} allows {allowed}")
    return (not wrong if asked else None), wrong
