"""Boxes around maps, and whether they fit: GT-known accuracy and the errors of ILSVRC.

The box is around the 8-connected region of v > t m with m = max v (Zhou et al., "Learning Deep Features for
Discriminative Localization", CVPR 2016: the largest region, t = 0.2); it fits a box of the class where the intersection
over union is at least 0.5.

* ``gt_known_accuracy``: of the maps of true classes, those that fit; by COCO's size of the true box, too.
* ``top1_error``, ``top5_error``: of an image, whether each of the first n guesses has a class that is not in the image
  or a box that does not fit one *of that class* (ILSVRC's development kit; five guesses each with its own map). An
  image counts where the maps say all: those of its first n classes, or those of all its true classes; and where
  something that is marked on it is a class of the network, which could not be right otherwise. A class that the truth
  has no label for is wrong.
* ``top1_classification_error``, ``top5_classification_error``: the same without boxes.

With ``per_component`` there is a box around every region. True boxes of the class and these boxes are matched one to
one where they fit, the best overlap first:

* ``object_recall``: mean over the maps of true classes of the share of true boxes that are matched;
* ``box_precision``: the same of the share of the map's boxes, which more boxes make worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import of_all
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage, Row, RunSummary
from cnnviz.metrics.derived import Edges, derived, regions_above, shares
from cnnviz.metrics.localization import (
    WSOL_SIDE,
    counted_labels,
    known_labels,
    overlaps,
    says_nothing,
    true_edges,
    true_labels,
    wsol_levels,
)
from cnnviz.metrics.localization_figures import Remarks, Values, by_size, mean, rate, summed
from cnnviz.metrics.localization_regions import Regions, contours_above
from cnnviz.metrics.summaries import unscored_maps
from cnnviz.records import ClassScore
from cnnviz.registry.localization_metrics import BoxLocalizationOptions
from cnnviz.registry.metrics import MetricSpec

GUESSES = 5
FITS = 0.5
MOST_BOXES = 100


def score(
    placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: BoxLocalizationOptions
) -> dict[str, Any]:
    """The metric: see the top of the module. Without ``truth`` the box alone, which then fits nothing."""
    size = placed.values.shape[1], placed.values.shape[0]
    key = "box", placed.raw is None, params.threshold, params.component, params.protocol, placed.seen
    edges = derived.of(placed.values, key, lambda: _boxes(placed, params))
    labels = [] if truth is None else true_labels(image, truth)
    boxes = [] if truth is None else truth.boxes_of(labels)
    order = _order(image)
    meant = truth is not None and bool(image.truth_labels)
    iou, chosen, matched = _best(edges, boxes, size, params)
    return {
        "flat": says_nothing(placed),
        "box_xywh": None if chosen is None else _on_photograph(edges[chosen], size, params).xywh,
        "iou": iou if meant else None,
        "rank": _rank(image, order),
        "guesses": min(GUESSES, len(order)),
        "true_class": bool(labels) if meant else None,
        "counted": truth is not None and bool(counted_labels(image, truth)),
        "true_labels": labels,
        "truth_classes": None if truth is None else len(known_labels(image, truth)),
        "size": None if matched is None else matched.object_size,
        **(_per_component(placed, truth, labels, params) if params.per_component else {}),
    }


def _per_component(
    placed: PlacedMap, truth: Truth | None, labels: Sequence[str], params: BoxLocalizationOptions
) -> dict[str, Any]:
    """The boxes of all regions, and how many true boxes of the class are matched one to one."""
    size = placed.values.shape[1], placed.values.shape[0]
    every = params.with_values({"component": "any"})
    key = "box", placed.raw is None, every.threshold, every.component, every.protocol, placed.seen
    edges = derived.of(placed.values, key, lambda: _boxes(placed, every))[:MOST_BOXES]
    boxes = [] if truth is None else truth.boxes_of(labels)
    found = overlaps(edges, true_edges(boxes, size, params.protocol), params.protocol)
    return {
        "boxes_xywh": [_on_photograph(each, size, params).xywh for each in edges],
        "objects": len(boxes) if boxes else None,
        "objects_found": _matched(found) if boxes else None,
    }


def _matched(found: NDArray[np.float64]) -> int:
    """How many pairs of a row and a column fit, each in one pair, taken by falling overlap."""
    rows, columns = set[int](), set[int]()
    for place in np.argsort(-found, axis=None, kind="stable").tolist():
        row, column = divmod(place, found.shape[1])
        if found[row, column] < FITS:
            break
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
    return len(rows)


def _order(image: ExplainedImage) -> Sequence[int]:
    """The first classes, best first; none of a network that has none for the whole image."""
    if image.guesses is not None:
        return image.guesses
    return [each.class_index for each in image.predictions if isinstance(each, ClassScore)]


def _rank(image: ExplainedImage, order: Sequence[int]) -> int | None:
    """Place of the explained class among these, from 1."""
    if not isinstance(image.target, ClassScore) or image.target.class_index not in order:
        return None
    return order.index(image.target.class_index) + 1


def _boxes(placed: PlacedMap, params: BoxLocalizationOptions) -> Edges:
    """Edges [n, 4] of the boxes of a map, the largest region first; more than one only if any may fit."""
    if params.protocol == "wsol":
        levels = wsol_levels(placed)
        level = int(params.threshold * int(levels.max()))
        if params.component == "strongest":
            strongest = _strongest(levels, levels > level)
            # The reference knows no such component: its conventions all the same.
            return np.minimum(strongest, [np.inf, np.inf, WSOL_SIDE - 1, WSOL_SIDE - 1])
        found = contours_above(levels, level)
    elif says_nothing(placed):
        return np.zeros((0, 4))
    else:
        share = shares(placed)
        if params.component == "strongest":
            return _strongest(share, share > np.float32(params.threshold))
        above = regions_above(placed, params.threshold)
        found = Regions(np.zeros(len(above.area), np.intp), above.edges, above.area).in_order()
    return found.by_area().edges if params.component == "any" else found.largest().edges


def _strongest(values: NDArray[Any], mask: NDArray[np.bool_]) -> Edges:
    """The box of the region that holds the first maximum; none where no region does."""
    labels = np.asarray(cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[1])
    number = int(labels.flat[int(values.argmax())])
    if number == 0:
        return np.zeros((0, 4))
    own = labels == number
    (x0, x1), (y0, y1) = (np.flatnonzero(own.any(axis=axis))[[0, -1]].tolist() for axis in (0, 1))
    return np.array([[x0, y0, x1 + 1, y1 + 1]], dtype=np.float64)


def _best(
    edges: Edges, boxes: Sequence[Box], size: tuple[int, int], params: BoxLocalizationOptions
) -> tuple[float, int | None, Box | None]:
    """The largest IoU, the box of the map that has it (else the first), the true box (else the largest)."""
    chosen = 0 if len(edges) else None
    if not boxes:
        return 0.0, chosen, None
    largest = max(boxes, key=lambda box: box.area)
    if chosen is None:
        return 0.0, None, largest
    found = overlaps(edges, true_edges(boxes, size, params.protocol), params.protocol)
    row, column = divmod(int(found.argmax()), len(boxes))
    best = float(found[row, column])
    return (best, row, boxes[column]) if best > 0 else (0.0, chosen, largest)


def _on_photograph(edges: Edges, size: tuple[int, int], params: BoxLocalizationOptions) -> Box:
    """A box in pixels of the photograph: whole numbers, but for one of 224 x 224."""
    if params.protocol == "wsol":
        return Box.from_edges(*(edges * [*size, *size] / WSOL_SIDE).tolist())
    return Box.from_edges(*edges.astype(int).tolist())


def summarize(rows: Iterable[Row], spec: MetricSpec, params: BoxLocalizationOptions) -> RunSummary:
    """The figures at the top of the module, with Wilson's intervals over images.

    How many maps are the same everywhere is told: they have no box. So are images of which nothing that is marked is a
    class of the network: they are left out, as those without truth are.
    """
    every = list(rows)
    nameless = [row for row in every if row.scores and row.scores["truth_classes"] == 0]

    def unscored(spec: MetricSpec, without: int) -> Remarks:
        images = len({row.image for row in nameless})
        of = of_all(images, len({row.image for row in every}), "image")
        said = f"{of} left out: nothing that is marked on {'it' if images == 1 else 'them'} is a class of the model"
        left_out = ((spec.title, said),) if nameless else ()
        return (*left_out, *unscored_maps(spec, without - len(nameless)))

    found = summed(map(_measured, every), spec, _figures, unscored=unscored)
    flat = (found.figures or {}).get("flat")
    if not flat:
        return found
    of = of_all(flat, found.figures["maps"], "map")
    said = f"{of} the same everywhere: {'it' if flat == 1 else 'they'} found nothing"
    return replace(found, notes=(*found.notes, f"{spec.title}: {said}"), remarks=(*found.remarks, (spec.title, said)))


def _measured(row: Row) -> Row:
    """A row as figures count it: no box is scored without truth, nor where that has no class of the network."""
    return replace(row, scores=None) if row.scores and not row.scores["truth_classes"] else row


def _figures(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    true = [(image, scores) for image, scores in rows if scores["true_class"] and scores.get("counted", True)]
    known: Values = [(image, float(scores["iou"] >= FITS)) for image, scores in true]
    images: dict[str, list[Mapping[str, Any]]] = {}
    for image, scores in rows:
        images.setdefault(image, []).append(scores)
    found: dict[str, Any] = {}
    for guesses in (1, GUESSES):
        for name, needed in ((f"top{guesses}_error", FITS), (f"top{guesses}_classification_error", 0.0)):
            errors = [(image, _error(maps, guesses, needed)) for image, maps in images.items()]
            found[name] = rate([(image, error) for image, error in errors if error is not None])
    found["gt_known_accuracy"] = rate(known)
    found["by_size"] = by_size([scores["size"] for _, scores in true], known, rate)
    several = [(image, scores) for image, scores in true if scores.get("objects")]
    if several:
        found["object_recall"] = mean([(image, s["objects_found"] / s["objects"]) for image, s in several])
        found["box_precision"] = mean(
            [(image, s["objects_found"] / len(s["boxes_xywh"]) if s["boxes_xywh"] else 0.0) for image, s in several]
        )
    found["classes_outside_truth"] = sum(scores["true_class"] is None for _, scores in rows)
    found["flat"] = sum(bool(scores.get("flat")) for _, scores in rows)
    return found


def _error(maps: Sequence[Mapping[str, Any]], guesses: int, needed: float) -> float | None:
    """1 where none of the first guesses is right, 0 where one is; None where the maps do not say.

    Of several maps of one rank (layers), the first counts.
    """
    by_rank: dict[int, Mapping[str, Any]] = {}
    for scores in maps:
        if scores["rank"] is not None:
            by_rank.setdefault(scores["rank"], scores)
    asked = range(1, min(guesses, maps[0]["guesses"]) + 1)
    covered = {label for scores in maps for label in scores["true_labels"]}
    unsaid = not all(rank in by_rank for rank in asked) and len(covered) < maps[0]["truth_classes"]
    if unsaid or not asked:
        return None
    right = (by_rank[rank] for rank in asked if rank in by_rank)
    return float(not any(scores["true_class"] and scores["iou"] >= needed for scores in right))
