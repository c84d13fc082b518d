"""On what the evidence lies: the share of a map on each class that the network predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap, Rect


@dataclass(frozen=True)
class ClassEvidence:
    """A class with the share of a map's positive values that lies on it, and with its share of the area."""

    class_index: int
    share: float
    area: float


def classes_at_pixels(classes: NDArray[np.int64], rect: Rect, placed: PlacedMap) -> NDArray[np.int64]:
    """The class at each pixel of the image [H, W]: that of the cell which holds its centre; -1 where there is none.

    Args:
        classes: [h, w], cells that cover ``rect`` evenly.
        rect: The part of the image that the network saw.
        placed: A map of the image, which says what was seen: the rest is -1, as cells without a class are.
    """
    x0, y0, x1, y1 = rect
    left, top, right, bottom = placed.seen
    rows = (np.arange(top, bottom) + 0.5 - y0) * classes.shape[0] / (y1 - y0)
    cols = (np.arange(left, right) + 0.5 - x0) * classes.shape[1] / (x1 - x0)
    found = np.full(placed.values.shape, -1, dtype=np.int64)
    down = rows.astype(np.intp).clip(0, classes.shape[0] - 1)
    across = cols.astype(np.intp).clip(0, classes.shape[1] - 1)
    found[top:bottom, left:right] = classes[down[:, None], across[None, :]]
    return found


def evidence_by_class(placed: PlacedMap, classes: NDArray[np.int64]) -> list[ClassEvidence]:
    """The share of the positive values of a map on each class, largest first.

    share_c = sum of max(map, 0) over the pixels predicted as c / sum of max(map, 0) over all that was seen.

    Args:
        placed: The map on the image's pixels.
        classes: The class at each pixel [H, W]; negative where nothing was seen, or none of the classes was found.

    Returns:
        Nothing for a map without positive values. Shares add up to less than 1 where some of it lies on no class.
    """
    left, top, right, bottom = placed.seen
    values = np.maximum(placed.values[top:bottom, left:right], 0).astype(np.float64)
    at, total = classes[top:bottom, left:right], values.sum()
    if not total > 0:
        return []
    count = np.bincount(at[at >= 0])
    inside = np.bincount(at[at >= 0], weights=values[at >= 0])
    order = sorted(np.flatnonzero(count).tolist(), key=lambda index: (-inside[index], index))
    return [ClassEvidence(i, float(inside[i] / total), float(count[i] / at.size)) for i in order]
