"""The figures of maps from their cells alone: those of :mod:`cnnviz.metrics.map_statistics`, each cell one value.

A map is laid over the image without interpolation: every pixel has the value of the cell in which its centre lies. All
figures are those of that picture, which need not be made: a cell counts as often as it has pixels. Many maps are
measured together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap, Rect, seen_part
from cnnviz.metrics.derived import EVEN
from cnnviz.metrics.map_statistics import BOX_SHARE, UNDEFINED, map_scores

_TIE = np.float32(1.0 - EVEN)


@dataclass(frozen=True, eq=False)
class CellGrid:
    """Which pixels of an image the cells of a map have.

    Attributes:
        rows, columns: First pixel of each cell of the image, and where the last ends.
        inside: The cells that the image has; others lie beyond its edges.
        size: (W, H) of the image.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    inside: tuple[slice, slice]
    size: tuple[int, int]

    @property
    def pixels(self) -> NDArray[np.float64]:
        """How many each cell of the image has."""
        return np.outer(np.diff(self.rows), np.diff(self.columns)).astype(np.float64)

    def placed(self, values: NDArray[np.float32]) -> PlacedMap:
        """A map [h, w] on the image, every pixel with the value of its cell."""
        (width, height), (y0, y1), (x0, x1) = self.size, self.rows[[0, -1]], self.columns[[0, -1]]
        found, cells = np.zeros((height, width), np.float32), values[self.inside]
        found[y0:y1, x0:x1] = np.repeat(np.repeat(cells, np.diff(self.rows), 0), np.diff(self.columns), 1)
        return PlacedMap(found, (int(x0), int(y0), int(x1), int(y1)), signed=True)


@lru_cache(maxsize=64)
def cell_grid(shape: tuple[int, int], rect: Rect, size: tuple[int, int]) -> CellGrid | None:
    """The pixels of the cells of a map; None where a cell of the image has none, being smaller than they are.

    Args:
        shape: (h, w) of the map.
        rect: x0, y0, x1, y1: what its cells cover, in pixels of the image.
        size: (W, H) of the image.
    """
    left, top, right, bottom = seen_part(rect, size)
    down = _borders(shape[0], (rect[1], rect[3]), (top, bottom))
    across = _borders(shape[1], (rect[0], rect[2]), (left, right))
    if down is None or across is None:
        return None
    return CellGrid(down[0], across[0], (down[1], across[1]), size)


def _borders(count: int, ends: tuple[float, float], seen: tuple[int, int]) -> tuple[NDArray[np.intp], slice] | None:
    """Of one axis the first pixels of the cells that are in the image, and which these are."""
    # A pixel belongs to the cell in which its centre lies.
    borders = np.ceil(ends[0] + (ends[1] - ends[0]) * np.arange(count + 1) / count - 0.5)
    found = np.clip(borders, *seen).astype(np.intp)
    found[0], found[-1] = seen
    filled = np.flatnonzero(np.diff(found))
    inside = slice(int(filled[0]), int(filled[-1]) + 1)
    return None if len(filled) < inside.stop - inside.start else (found[inside.start : inside.stop + 1], inside)


def cell_scores(maps: NDArray[np.float32], raw: NDArray[np.float32], grid: CellGrid) -> list[dict[str, Any]]:
    """The scores of many maps as plain JSON values: for each what ``map_scores`` says of it on ``grid.placed``.

    Args:
        maps: [K, h, w].
        raw: [K, ...] the method's own output for each, of which ``min``, ``max`` and ``mean`` are.
        grid: The pixels of the cells.
    """
    count = len(maps)
    flat = raw.reshape(count, -1)
    own = [flat.min(axis=1), flat.max(axis=1), flat.mean(axis=1, dtype=np.float64)]
    found: list[dict[str, Any]] = [
        {"min": low, "max": high, "mean": mean}
        for low, high, mean in zip(*(each.tolist() for each in own), strict=True)
    ]
    maps = np.ascontiguousarray(maps[(slice(None), *grid.inside)])
    cells = maps.reshape(count, -1)
    low, high = cells.min(axis=1), cells.max(axis=1)
    even = high - low <= EVEN * np.maximum(np.abs(low), np.abs(high))
    shown = np.flatnonzero(~even & (high > 0.0) & np.isfinite(high) & np.isfinite(low))
    for each in np.setdiff1d(np.arange(count), shown).tolist():
        found[each] |= UNDEFINED
        if even[each]:
            found[each]["flat"] = True
    if len(shown):
        shares = np.clip(maps[shown] / high[shown, None, None], 0.0, 1.0)
        for each, scores in zip(shown.tolist(), _measured(shares, maps[shown], grid), strict=True):
            found[each] |= scores
    return found


def _measured(shares: NDArray[np.float32], maps: NDArray[np.float32], grid: CellGrid) -> list[dict[str, Any]]:
    """All but the raw figures of maps that are neither flat nor without positive values."""
    count, _, width = shares.shape
    pixels = grid.pixels
    weighted = shares * pixels
    total = weighted.sum(axis=(1, 2))
    # With v over its maximum, -sum p ln p is ln(sum v) - sum v ln v / sum v.
    logarithms = np.log(np.maximum(shares, np.finfo(np.float32).tiny), dtype=np.float64)
    entropy = (np.log(total) - (weighted * logarithms).sum(axis=(1, 2)) / total) / max(math.log(pixels.sum()), 1e-12)
    half = ((shares >= np.float32(0.5)) * pixels).sum(axis=(1, 2)) / pixels.sum()
    boxes = _boxes(shares > np.float32(BOX_SHARE), pixels)
    inside = _sums(weighted, boxes) / total
    edges = np.column_stack(
        [grid.columns[boxes[:, 0]], grid.rows[boxes[:, 1]], grid.columns[boxes[:, 2]], grid.rows[boxes[:, 3]]]
    )
    edges[:, 2:] -= edges[:, :2]
    ties = (shares >= _TIE).reshape(count, -1)
    row, column = np.divmod(ties.argmax(axis=1), width)
    # Of the pixels of a cell that nearest to its middle, of equals the first.
    peaks = np.column_stack(
        [(each[at] + each[at + 1] - 1) // 2 for each, at in ((grid.columns, column), (grid.rows, row))]
    )
    found = [
        {"peak": peak, "box_xywh": box, "energy_in_box": energy, "entropy": spread, "area_above_half": area}
        for peak, box, energy, spread, area in zip(
            peaks.tolist(), edges.tolist(), np.minimum(inside, 1.0).tolist(),
            np.clip(entropy, 0.0, 1.0).tolist(), half.tolist(), strict=True,
        )
    ]  # fmt: skip
    inner = replace(grid, inside=(slice(None), slice(None)))
    for each in np.flatnonzero(ties.sum(axis=1) > 1).tolist():
        # Which of them is the peak, the pixels decide.
        found[each]["peak"] = map_scores(maps[each], inner.placed(maps[each]))["peak"]
    return found


def _boxes(masks: NDArray[np.bool_], pixels: NDArray[np.float64]) -> NDArray[np.intp]:
    """[K, 4]: x0, y0, x1, y1 in cells, half-open, of the largest 8-connected region of each mask, by its pixels; of
    equals the first in reading order. No mask is empty."""
    count, height, width = masks.shape
    # All masks in one picture, with an empty row behind each.
    apart = np.zeros((count, height + 1, width), np.uint8)
    apart[:, :height] = masks
    labels = cv2.connectedComponents(apart.reshape(-1, width), connectivity=8, ltype=cv2.CV_32S)[1].ravel()
    places = np.flatnonzero(labels)
    owned = labels[places]
    of_mask, cell = np.divmod(places, (height + 1) * width)
    area = np.bincount(owned, pixels.ravel()[cell])
    first = np.zeros(len(area), np.intp)
    first[owned[::-1]] = places[::-1]  # what is written last stays: the first place
    owner = first // ((height + 1) * width)
    order = 1 + np.lexsort((first[1:], -area[1:], owner[1:]))
    chosen = order[np.unique(owner[order], return_index=True)[1]]
    kept = owned == chosen[of_mask]
    of_mask, (row, column) = of_mask[kept], np.divmod(cell[kept], width)
    boxes = np.empty((count, 4), np.intp)
    for at, values, far in ((0, column, False), (1, row, False), (2, column, True), (3, row, True)):
        boxes[:, at] = -1 if far else max(height, width)
        (np.maximum if far else np.minimum).at(boxes[:, at], of_mask, values)
    boxes[:, 2:] += 1
    return boxes


def _sums(weighted: NDArray[np.float64], boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    """[K]: the sum of each map in its box."""
    up_to = np.zeros((weighted.shape[0], weighted.shape[1] + 1, weighted.shape[2] + 1))
    up_to[:, 1:, 1:] = weighted.cumsum(axis=1).cumsum(axis=2)
    every = np.arange(len(weighted))
    x0, y0, x1, y1 = boxes.T
    found: NDArray[np.float64] = (
        up_to[every, y1, x1] - up_to[every, y0, x1] - up_to[every, y1, x0] + up_to[every, y0, x0]
    )
    return found
