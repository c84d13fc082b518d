"""What the metrics of localization share: what of the truth is meant, maps in levels, and overlap with boxes.

Two protocols are kept apart, never mixed:

* ``cnnviz``: with v the map on the photograph and m = max v, the share max(v, 0) / m; 0 where the network saw nothing.
* ``wsol``: what the program of Choe et al. ("Evaluating Weakly Supervised Object Localization Methods Right", CVPR
  2020) does. The method's own cells, bicubic at 224 x 224 (the whole photograph, pressed), (v - min) / (max - min);
  boxes of the truth scaled to 224 and cut to whole numbers, overlaps computed with one pixel more each way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage
from cnnviz.metrics.derived import Edges, derived, is_even, is_flat, shares

Protocol = Literal["cnnviz", "ilsvrc", "wsol"]
WSOL_SIDE = 224
LEVELS = 255
"""Thresholds of ``cnnviz`` are k / 256 and those of ``wsol`` k / 255, k = 0 to 254."""


def true_labels(image: ExplainedImage, truth: Truth) -> list[str]:
    """The labels of the objects of an image that mean the explained class."""
    return [label for label in truth.object_labels if label in image.truth_labels]


def counted_labels(image: ExplainedImage, truth: Truth) -> list[str]:
    """Those of them as which this map counts: of several classes that mean one label the likeliest counts."""
    counted = image.counted_labels
    return [label for label in true_labels(image, truth) if counted is None or label in counted]


def known_labels(image: ExplainedImage, truth: Truth) -> list[str]:
    """The labels of the objects of an image that mean a class of the network: what it could be right with."""
    known = image.meant_labels
    return [label for label in truth.object_labels if known is None or label in known]


def says_nothing(placed: PlacedMap) -> bool:
    """Whether a method's map is the same everywhere: the box of all the image around it found nothing.

    ``wsol`` makes zeros of such a map, whose box is that of one pixel. A baseline that marks everything has no cells of
    its own, and does so on purpose.
    """
    return placed.raw is not None and is_flat(placed)


def levels(placed: PlacedMap) -> NDArray[np.uint8]:
    """[H, W], 0 to 255: ``levels > k`` where the share is above k / 256, exactly, for k = 0 to 254."""

    def make() -> NDArray[np.uint8]:
        found = shares(placed) * np.float32(256)
        np.ceil(found, out=found)
        np.minimum(found, LEVELS, out=found)
        return found.astype(np.uint8)

    return derived.of(placed.values, ("levels", placed.seen), make)


def wsol_scores(placed: PlacedMap) -> NDArray[np.float64]:
    """The map as ``wsol`` sees it, [224, 224], 0 to 1; zero everywhere of one that is the same everywhere.

    Where the method's cells do not cover the whole photograph, or are unknown, the map on it is resized.
    """
    height, width = placed.values.shape
    raw = placed.raw
    if raw is None and is_even(placed.values) and placed.values.flat[0] > 0:
        # The program of the paper makes zeros of it; a baseline that marks everything shall mark everything.
        return np.ones((WSOL_SIDE, WSOL_SIDE))
    if raw is None or raw.ndim != 2 or placed.seen != (0, 0, width, height):
        raw = placed.values
    resized = cv2.resize(raw.astype(np.float64), (WSOL_SIDE, WSOL_SIDE), interpolation=cv2.INTER_CUBIC)
    found = np.asarray(resized, dtype=np.float64)
    if found.min() == found.max():
        return np.zeros_like(found)
    found -= found.min()
    found /= found.max()
    return found


def wsol_levels(placed: PlacedMap) -> NDArray[np.uint8]:
    """:func:`wsol_scores` in 8 bits, cut."""

    def make() -> NDArray[np.uint8]:
        return (wsol_scores(placed) * 255).astype(np.uint8)

    return derived.of(placed.values, ("wsol", placed.seen, placed.raw is None), make)


def true_edges(boxes: Sequence[Box], size: tuple[int, int], protocol: Protocol) -> Edges:
    """Edges of the boxes of the truth as a protocol has them.

    Args:
        boxes: In pixels of the photograph.
        size: (W, H) of it.
        protocol: ``ilsvrc`` rounds to whole pixels; ``wsol`` scales to 224 x 224 and cuts.
    """
    edges = np.array([box.edges for box in boxes], dtype=np.float64).reshape(-1, 4)
    if protocol == "ilsvrc":
        return np.rint(edges)
    if protocol == "wsol":
        return np.trunc(edges * WSOL_SIDE / np.array([*size, *size], dtype=np.float64))
    return edges


def overlaps(edges: Edges, others: Edges, protocol: Protocol) -> NDArray[np.float64]:
    """Intersection over union [n, m] of boxes; of ``wsol`` with one pixel more each way."""
    more = 1.0 if protocol == "wsol" else 0.0
    one, two = edges[:, None], others[None]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]) + more
    common = np.maximum(sides, 0.0).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2] + more).prod(axis=-1) for each in (one, two)]
    union = areas[0] + areas[1] - common
    result: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result
