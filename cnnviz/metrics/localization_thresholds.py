"""MaxBoxAcc: how often boxes fit at the threshold that is best for all maps of a run.

At each of 255 thresholds the box around the largest region of a map fits where its intersection over union with a box
of the class is at least 0.5 (V2: where that of any region is at least 0.3, 0.5, 0.7). The accuracy is the share of maps
of true classes that fit; of all thresholds the best counts, in V2 one for each IoU, and the three are averaged. A
threshold that is chosen on the images on which it is judged is an oracle: the bootstrap chooses anew in each draw, and
its interval is corrected for the accuracy being too high by the choice, so that it may lie below it.

Thresholds are k / 256 of the maximum; of ``wsol``, where the reference tries 0, 0.001, ... 0.999 on maps of 8 bits,
each of the 255 different ones, named by the first of those that have it.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020; "Evaluation for Weakly
Supervised Object Localization: Protocol, Metrics, and Datasets", TPAMI 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage, Row, RunSummary
from cnnviz.metrics.derived import derived, regions_above
from cnnviz.metrics.intervals import bias_corrected
from cnnviz.metrics.localization import (
    LEVELS,
    counted_labels,
    levels,
    overlaps,
    says_nothing,
    true_edges,
    wsol_levels,
)
from cnnviz.metrics.localization_figures import Scored, figure, mean, rate, rate_interval, summed
from cnnviz.metrics.localization_regions import NONE, Regions, contours, contours_above, regions
from cnnviz.registry.localization_metrics import MaxBoxAccOptions
from cnnviz.registry.metrics import MetricSpec

V1 = {"hits": 0.5}
V2 = {"hits_30": 0.3, "hits_50": 0.5, "hits_70": 0.7}
_POINTS = 101
# Photographs with more pixels are gone through in steps: boxes are then right to so many pixels.
_PIXELS = 1 << 20

Runs = list[list[int]]


def score(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: MaxBoxAccOptions) -> dict[str, Any]:
    """At which thresholds the box around the largest region fits: see the top of the module."""
    return _scores(placed, image, truth, params, V1)


def score_v2(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: MaxBoxAccOptions) -> dict[str, Any]:
    """At which thresholds the box around any region fits, by IoU: see the top of the module."""
    return _scores(placed, image, truth, params, V2)


def _scores(
    placed: PlacedMap,
    image: ExplainedImage,
    truth: Truth | None,
    params: MaxBoxAccOptions,
    needed: Mapping[str, float],
) -> dict[str, Any]:
    assert truth is not None
    labels = counted_labels(image, truth)
    if not labels:
        return {**dict.fromkeys(needed), "true_labels": labels}
    key = "regions", params.protocol, params.at, placed.seen, placed.raw is None
    found = derived.of(placed.values, key, lambda: _regions(placed, params))
    if needed is V1:
        found = found.largest()
    size = placed.values.shape[1], placed.values.shape[0]
    truths = true_edges(truth.boxes_of(labels), size, params.protocol)
    best = overlaps(found.edges, truths, params.protocol).max(axis=1, initial=0.0)
    return {**{name: _runs(found.level[best >= iou]) for name, iou in needed.items()}, "true_labels": labels}


def _regions(placed: PlacedMap, params: MaxBoxAccOptions) -> Regions:
    """Those above every threshold, or with ``at`` above that one, as level 0."""
    if params.protocol == "wsol":
        of_map = wsol_levels(placed)
        if params.at is None:
            return contours(of_map)
        found = contours_above(of_map, int(params.at * int(of_map.max())))
        return Regions(np.zeros_like(found.level), found.edges, found.area)
    if says_nothing(placed):
        return NONE
    if params.at is not None:
        above = regions_above(placed, params.at)
        return Regions(np.zeros(len(above.area), np.intp), above.edges, above.area).in_order()
    height, width = placed.values.shape
    step = math.ceil(math.sqrt(height * width / _PIXELS))
    taken = slice(step // 2, None, step)
    of_map, values = levels(placed)[taken, taken], placed.values[taken, taken]
    strips = None
    if placed.strips is not None:
        # Of the pixels that are taken, which is the first of each strip.
        rows, columns = (
            np.unique(np.searchsorted(np.arange(length)[step // 2 :: step], starts))
            for length, starts in zip((height, width), placed.strips, strict=True)
        )
        strips = rows, columns
    found = regions(np.ascontiguousarray(of_map), np.ascontiguousarray(values), strips)
    if step > 1:
        found = Regions(found.level, np.minimum(found.edges * step, [width, height, width, height]), found.area)
    return found


def _runs(hits: NDArray[np.intp]) -> Runs:
    """First and last of each run of consecutive levels."""
    each = np.unique(hits)
    return [[int(run[0]), int(run[-1])] for run in np.split(each, np.flatnonzero(np.diff(each) > 1) + 1) if len(run)]


def threshold_of(level: int, params: MaxBoxAccOptions) -> float:
    """The threshold of a level, as a share of the maximum."""
    if params.at is not None:
        return params.at
    if params.protocol == "cnnviz":
        return level / (LEVELS + 1)
    return float(_WSOL_THRESHOLDS[level])


def _wsol_thresholds() -> NDArray[np.float64]:
    """Of each level the first threshold of the reference that is cut to it."""
    every = np.arange(0, 1, 0.001)
    found: NDArray[np.float64] = every[np.unique((every * 255).astype(int), return_index=True)[1]]
    return found


_WSOL_THRESHOLDS = _wsol_thresholds()


def summarize(rows: Iterable[Row], spec: MetricSpec, params: MaxBoxAccOptions) -> RunSummary:
    """``max_box_acc`` with its threshold, and the ``curve`` of accuracies over thresholds."""
    return summed(rows, spec, partial(_figures, "max_box_acc", V1, params), ("curve",))


def summarize_v2(rows: Iterable[Row], spec: MetricSpec, params: MaxBoxAccOptions) -> RunSummary:
    """``max_box_acc_v2``, and ``by_iou`` each accuracy with its threshold and ``curve``."""
    return summed(rows, spec, partial(_figures, "max_box_acc_v2", V2, params), ("curve",))


def _figures(name: str, needed: Mapping[str, float], params: MaxBoxAccOptions, rows: Scored) -> dict[str, Any]:
    known = [(image, scores) for image, scores in rows if scores["true_labels"]]
    images = [image for image, _ in known]
    count = LEVELS if params.at is None else 1
    oracle = params.at is None
    hits = [_matrix([scores[key] for _, scores in known], count) for key in needed]
    parts: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for iou, each in zip(needed.values(), hits, strict=True):
        parts[f"{iou:g}"] = {**_best([each], images), **_chosen(each, params), "oracle": oracle}
        curves[f"{iou:g}"] = _curve(each, params)
    if len(hits) == 1:
        [own], [curve] = parts.values(), curves.values()
        return {name: own, "curve": curve}
    return {name: {**_best(hits, images), "oracle": oracle}, "by_iou": parts, "curve": curves}


def at_thresholds(name: str, rows: Scored, thresholds: Sequence[float], protocol: str) -> dict[str, Any]:
    """``max_box_acc`` or ``max_box_acc_v2`` at thresholds that were chosen elsewhere, with an interval over images.

    Args:
        name: Which of the two.
        rows: Image and scores of each map, with the levels of all thresholds.
        thresholds: One for each IoU.
        protocol: Of the scores.
    """
    needed = V1 if name == "max_box_acc" else V2
    known = [(image, scores) for image, scores in rows if scores and scores["true_labels"]]
    hits = [
        _matrix([scores[key] for _, scores in known], LEVELS)[:, level_of(threshold, protocol)]
        for key, threshold in zip(needed, thresholds, strict=True)
    ]
    values = [(image, float(value)) for (image, _), value in zip(known, np.mean(hits, axis=0), strict=True)]
    return rate(values) if needed is V1 else mean(values)


def level_of(threshold: float, protocol: str) -> int:
    """The level of a threshold: the last whose threshold is not above it."""
    if protocol == "wsol":
        return int(np.searchsorted(_WSOL_THRESHOLDS, threshold + 1e-9, side="right")) - 1
    return min(LEVELS - 1, int(threshold * (LEVELS + 1) + 1e-9))


def _matrix(runs: Sequence[Runs], count: int) -> NDArray[np.float32]:
    """[maps, levels]: 1 where a map fits."""
    found = np.zeros((len(runs), count), dtype=np.float32)
    for row, own in enumerate(runs):
        for first, last in own:
            found[row, first : last + 1] = 1.0
    return found


def _best(hits: Sequence[NDArray[np.float32]], images: Sequence[str]) -> dict[str, Any]:
    """The mean of the best accuracies, with a bootstrap interval: they are chosen anew in each draw."""
    if not images:
        return figure(None, None, 0)
    value = float(np.mean([each.mean(axis=0, dtype=np.float64).max() for each in hits]))

    def statistic(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn = weights.astype(np.float32)  # whole numbers: exact
        best = [(drawn @ each).max(axis=1) for each in hits]
        found: NDArray[np.float64] = np.mean(best, axis=0, dtype=np.float64) / weights.sum(axis=1)
        return found

    if value in (0.0, 1.0):  # where a bootstrap has width zero
        return figure(value, rate_interval(value, images), len(images))
    return figure(value, bias_corrected(statistic, len(images), images), len(images))


def _chosen(hits: NDArray[np.float32], params: MaxBoxAccOptions) -> dict[str, Any]:
    """The threshold with the best accuracy, of equals the first."""
    level = int(hits.sum(axis=0).argmax()) if len(hits) else None
    return {"threshold": None if level is None else threshold_of(level, params)}


def _curve(hits: NDArray[np.float32], params: MaxBoxAccOptions) -> list[list[float]]:
    """[threshold, accuracy] at 101 of the thresholds; empty where there are no maps."""
    if not len(hits):
        return []
    accuracy = hits.mean(axis=0, dtype=np.float64)
    chosen = np.unique(np.rint(np.linspace(0, len(accuracy) - 1, _POINTS)).astype(int)).tolist()
    return [[round(threshold_of(level, params), 6), round(float(accuracy[level]), 6)] for level in chosen]
