"""PxAP: average precision of the pixels of all maps of true classes, against masks (Choe et al., CVPR 2020).

Over all maps together, with P and R at a level the precision and the recall of the pixels at that level or above:

    PxAP = sum over levels, from the highest, of P (R - R at the level above)

``cnnviz``: 256 levels of the share of the maximum, pixels that the network did not see at the lowest; ``wsol``: 1,001
of the map between minimum and maximum at 224 x 224, on which the mask's nearest pixels are taken. Pixels that are
ignored, and not of the class, count neither way. Large images weigh more in ``cnnviz``, as they have more pixels.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage, Row, RunSummary
from cnnviz.metrics.intervals import bootstrap
from cnnviz.metrics.localization import LEVELS, WSOL_SIDE, levels, wsol_scores
from cnnviz.metrics.localization_cells import histogram
from cnnviz.metrics.localization_figures import Scored, figure, summed
from cnnviz.registry.localization_metrics import PxAPOptions
from cnnviz.registry.metrics import MetricSpec

_LEVELS = {"cnnviz": LEVELS + 1, "wsol": 1001}


def score(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: PxAPOptions) -> dict[str, Any]:
    """The histograms of a map: see the top of the module."""
    assert truth is not None
    counted = image.truth_labels if image.counted_labels is None else image.counted_labels
    masks = [truth.masks[label] for label in counted if label in truth.masks]
    if not any(mask.any() for mask in masks):
        return {"levels": None}
    inside = masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)
    count = _LEVELS[params.protocol]
    if params.protocol == "wsol":
        edges = np.append(np.arange(0, 1, 0.001), 1.0)
        place = (np.searchsorted(edges, wsol_scores(placed).ravel(), side="right") - 1).astype(np.uint16)
        inside = _resized(inside)
        ignored = None if truth.ignored is None else _resized(truth.ignored)
    else:
        return _of_levels(levels(placed), inside, truth.ignored)
    # One histogram of the pixels of the class and, behind it, of the others.
    np.add(place, np.uint16(count), out=place, where=~inside.ravel())
    if ignored is not None:
        place = place[(inside | ~ignored).ravel()]
    pixels = np.bincount(place, minlength=2 * count).reshape(2, count)
    return _listed(pixels)


def _of_levels(
    place: NDArray[np.uint8], inside: NDArray[np.bool_], ignored: NDArray[np.bool_] | None
) -> dict[str, Any]:
    counted = place if ignored is None else place[inside | ~ignored][None]
    of_class = place[inside][None]
    pixels = np.array([histogram(of_class), histogram(counted)])
    pixels[1] -= pixels[0]
    return _listed(pixels.astype(np.int64))


def _listed(pixels: NDArray[np.int64]) -> dict[str, Any]:
    there = np.flatnonzero(pixels.any(axis=0))
    return {"levels": [there.tolist(), *pixels[:, there].tolist()]}


def _resized(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    side = (WSOL_SIDE, WSOL_SIDE)
    return np.asarray(cv2.resize(mask.astype(np.float32), side, interpolation=cv2.INTER_NEAREST)) > 0.5


def summarize(rows: Iterable[Row], spec: MetricSpec, params: PxAPOptions) -> RunSummary:
    """``pxap`` of all maps, with a bootstrap interval that draws whole images."""
    return summed(rows, spec, partial(_figures, _LEVELS[params.protocol]))


def _figures(count: int, rows: Scored) -> dict[str, Any]:
    known = [(image, scores["levels"]) for image, scores in rows if scores["levels"] is not None]
    if not known:
        return {"pxap": figure(None, None, 0)}
    images = [image for image, _ in known]
    pixels = np.zeros((len(known), 2, count))
    for row, (_, own) in enumerate(known):
        level, inside, outside = own
        pixels[row, 0, level], pixels[row, 1, level] = inside, outside
    flat = pixels.reshape(len(known), -1)

    def statistic(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return average_precision((weights @ flat).reshape(len(weights), 2, count))

    value = float(average_precision(pixels.sum(axis=0)[None])[0])
    return {"pxap": figure(value, bootstrap(statistic, len(images), images), len(images))}


def average_precision(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] of histograms [B, 2, levels] of the pixels of the class and of others; the lowest level first."""
    above = pixels[..., ::-1].cumsum(axis=-1)
    true, every = above[:, 0], above.sum(axis=1)
    precision = np.divide(true, every, out=np.zeros_like(true), where=every > 0)
    recall = np.divide(true, true[:, -1:], out=np.zeros_like(true), where=true[:, -1:] > 0)
    found: NDArray[np.float64] = (precision * np.diff(recall, axis=-1, prepend=0.0)).sum(axis=-1)
    return found
