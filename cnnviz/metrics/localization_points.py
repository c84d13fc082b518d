"""The pointing game and the energy pointing game.

* ``hit``: the first pixel in reading order where the map is largest lies, with its centre, in a box of the class or at
  most 15 pixels beside it (Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018). Values that
  float32 cannot tell from the largest count as it. A map that is the same everywhere, or nowhere above zero, never
  hits; nor does a map of a class that is not in the image.
* ``difficult``: the boxes of the class have together less than a quarter of the image's area, and there is another
  class in it.
* ``energy``: sum of max(v, 0) over the pixels in the boxes of the class, divided by that over the image (Wang et al.,
  "Score-CAM", CVPRW 2020); ignored pixels left out.

Summaries are of the maps of true classes. Maps of classes of which all objects are hard to recognise (Pascal VOC's
``difficult``) are not scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage, Row, RunSummary
from cnnviz.metrics.derived import derived, is_flat, shares, total_of
from cnnviz.metrics.intervals import bootstrap
from cnnviz.metrics.localization import counted_labels
from cnnviz.metrics.localization_figures import Scored, Values, by_size, figure, mean, rate, rate_interval, summed
from cnnviz.registry.localization_metrics import PointingGameOptions
from cnnviz.registry.metrics import MetricSpec
from cnnviz.registry.params import Options

_TIE = np.float32(1.0 - 1e-6)
_QUARTER = 0.25


def score(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: PointingGameOptions) -> dict[str, Any]:
    """The pointing game: see the top of the module."""
    assert truth is not None
    labels = counted_labels(image, truth)
    point = derived.of(placed.values, ("point", placed.seen), lambda: _point(placed))
    unknown = not image.truth_labels or (bool(labels) and not truth.boxes_of(labels, difficult=False))
    boxes = truth.boxes_of(labels)
    covered = sum(box.area for box in boxes)
    others = len(truth.object_labels) > len(labels)
    hit = point is not None and any(_gap(point, box.edges) <= params.tolerance for box in boxes)
    difficult = others and covered < _QUARTER * truth.size[0] * truth.size[1]
    return {
        "point": point,
        "hit": None if unknown else hit,
        "difficult": None if unknown or not labels else difficult,
        "true_labels": labels,
    }


def _point(placed: PlacedMap) -> list[int] | None:
    if is_flat(placed):
        return None
    share = shares(placed)
    row, column = divmod(int((share >= _TIE).argmax()), share.shape[1])
    return [column, row] if share[row, column] > 0 else None


def _gap(point: list[int], edges: tuple[float, float, float, float]) -> float:
    """From the centre of a pixel to the nearest point of a box."""
    x, y = (place + 0.5 for place in point)
    x0, y0, x1, y1 = edges
    return float(np.hypot(max(x0 - x, 0.0, x - x1), max(y0 - y, 0.0, y - y1)))


def score_energy(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: Options) -> dict[str, Any]:
    """The energy pointing game: see the top of the module."""
    assert truth is not None
    labels = counted_labels(image, truth)
    boxes = truth.boxes_of(labels)
    unknown = not image.truth_labels or (bool(labels) and not truth.boxes_of(labels, difficult=False))
    return {
        "energy": None if unknown else _energy(shares(placed), truth, labels),
        "size": max(boxes, key=lambda box: box.area).object_size if boxes else None,
        "true_labels": labels,
    }


def _energy(share: NDArray[np.float32], truth: Truth, labels: list[str]) -> float:
    # By boxes also where there are masks.
    boxes = truth.boxes_of(labels)
    if truth.ignored is not None:
        share = np.where(truth.ignored, np.float32(0), share)
    total = total_of(share)
    if total <= 0 or not boxes:
        return 0.0
    if len(boxes) == 1:
        return total_of(share[boxes[0].pixels(truth.size)]) / total
    inside = np.zeros(share.shape, dtype=np.bool_)
    for box in boxes:
        inside[box.pixels(truth.size)] = True
    return total_of(share * inside) / total


def summarize(rows: Iterable[Row], spec: MetricSpec, params: PointingGameOptions) -> RunSummary:
    """``pointing_game``: mean of the rates of the classes; ``hit_rate`` of all maps; both of the difficult ones."""
    return summed(rows, spec, _figures)


def _figures(rows: Scored) -> dict[str, Any]:
    known = [(image, s) for image, s in rows if s["true_labels"] and s["hit"] is not None]
    found: dict[str, Any] = {}
    for ending, chosen in (("", known), ("_difficult", [each for each in known if each[1]["difficult"]])):
        hits: Values = [(image, float(scores["hit"])) for image, scores in chosen]
        classes = [", ".join(scores["true_labels"]) for _, scores in chosen]
        found[f"pointing_game{ending}"] = {**_mean_of_classes(hits, classes), "classes": len(set(classes))}
        found[f"hit_rate{ending}"] = rate(hits)
    return found


def _mean_of_classes(hits: Values, classes: list[str]) -> dict[str, Any]:
    """The mean over classes of the share of hits; the bootstrap draws images, and averages the classes of its draw."""
    if not hits:
        return figure(None, None, 0)
    order = np.argsort(np.unique(classes, return_inverse=True)[1], kind="stable")
    starts = np.unique(np.asarray(classes)[order], return_index=True)[1]
    images = [hits[row][0] for row in order]
    values = np.array([hits[row][1] for row in order])

    def statistic(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn = np.add.reduceat(weights, starts, axis=1)
        hit = np.add.reduceat(weights * values, starts, axis=1)
        rates = np.divide(hit, drawn, out=np.zeros_like(hit), where=drawn > 0)
        found: NDArray[np.float64] = rates.sum(axis=1) / np.count_nonzero(drawn, axis=1)
        return found

    value = float(statistic(np.ones((1, len(values)), dtype=np.int64))[0])
    if value in (0.0, 1.0):  # where a bootstrap has width zero
        return figure(value, rate_interval(value, images), len(values))
    return figure(value, bootstrap(statistic, len(values), images), len(values))


def summarize_energy(rows: Iterable[Row], spec: MetricSpec, params: Options) -> RunSummary:
    """``energy_pointing_game``: the mean share, and ``by_size`` of the largest object of the class."""
    return summed(rows, spec, _energy_figures)


def _energy_figures(rows: Scored) -> dict[str, Any]:
    known = [(image, s) for image, s in rows if s["true_labels"] and s["energy"] is not None]
    shares_: Values = [(image, float(scores["energy"])) for image, scores in known]
    sizes = [scores["size"] for _, scores in known]
    return {"energy_pointing_game": mean(shares_), "by_size": by_size(sizes, shares_, mean)}
