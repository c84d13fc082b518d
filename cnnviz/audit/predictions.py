"""Checks of predictions: how often the network is right, and whether it is as often right as it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged, rate
from cnnviz.audit.verdict import Statement

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook

_DRAWS = 200
_NO_CLASS = "the network has no class for the whole image that could be right"


class Accuracy(Check):
    """The share of right predictions."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        if not look.of_classes:
            return [Statement("accuracy", "rate", True, self.params.min, (), _NO_CLASS)]
        known = [each for each in judged if each.record.get("outcome")]
        right = [each.seen(each.record["outcome"] == "correct", _mistake(each)) for each in known]
        return [rate("accuracy", self.params.min, right, at_least=True)]


def _mistake(judged: Judged) -> str:
    """What is taken for what; empty of a right prediction."""
    if judged.record["outcome"] == "correct":
        return ""
    true = " or ".join(str(each["label"]) for each in judged.record.get("true_classes") or ())
    return f"{true} predicted as {judged.predicted}" if true else f"predicted as {judged.predicted}"


class Calibration(Check):
    """The expected calibration error: the mean distance of confidence from accuracy over bins of equal width.

    ECE = sum over bins b of (n_b / n) |accuracy_b - confidence_b|. Of few images it is above 0 by chance alone: the
    mean of what a calibrated network with these confidences would have, over draws, is taken off; the observations are
    the jackknife's pseudo-values, so that means and intervals are those of the error.
    """

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        if not look.of_classes:
            return [Statement("ece", "mean", False, self.params.max_error, (), _NO_CLASS)]
        known = [each for each in judged if each.record.get("outcome") and each.record["predictions"]]
        sure = np.array([float(each.record["predictions"][0]["probability"] or 0) for each in known])
        right = np.array([float(each.record["outcome"] == "correct") for each in known])
        count = len(known)
        if count < 2:
            return [Statement("ece", "mean", False, self.params.max_error, (), "fewer than two images have labels")]
        bins = self.params.bins
        pseudo = _pseudo_values(sure, right, bins)
        rng = np.random.default_rng(0)
        chance = float(np.mean([ece(sure, (rng.random(count) < sure).astype(float), bins) for _ in range(_DRAWS)]))
        observations = [each.seen(value - chance) for each, value in zip(known, pseudo, strict=True)]
        return [Statement("ece", "mean", False, self.params.max_error, observations)]


def _pseudo_values(sure: NDArray[np.float64], right: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """The jackknife's: n ECE - (n - 1) ECE without the image.

    n ECE is the sum over bins of |sum of right - confidence|: without an image one bin changes, and of the difference
    all others fall out.
    """
    place = np.minimum((sure * bins).astype(int), bins - 1)
    off = right - sure
    of_bin = np.bincount(place, weights=off, minlength=bins)[place]
    found: NDArray[np.float64] = np.abs(of_bin) - np.abs(of_bin - off)
    return found


def ece(sure: NDArray[np.float64], right: NDArray[np.float64], bins: int) -> float:
    """The expected calibration error (Guo et al., ICML 2017)."""
    place = np.minimum((sure * bins).astype(int), bins - 1)
    total = 0.0
    for number in np.unique(place):
        inside = place == number
        total += float(inside.mean()) * abs(float(right[inside].mean()) - float(sure[inside].mean()))
    return total
