"""From a map's own cells to the pixels of the upright input image.

A map of h x w cells covers evenly the rectangle of the image that the network saw: the centre of cell (i, j)
lies at ``x0 + (j + 0.5) * (x1 - x0) / w`` and ``y0 + (i + 0.5) * (y1 - y0) / h``. Values are read at pixel
centres (x + 0.5, y + 0.5), which is what ``align_corners=False`` means. Both axes are independent, so the
whole is two small matrix products: ``out = Ry @ raw @ Rx.T``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import ImageError

_ROWS = 1024

Strips = NDArray[np.intp]
"""[n + 1] where the strips of an axis begin, from 0 to its length."""

Rect = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the upright input image: what the network saw. May reach outside by padding."""


@dataclass(frozen=True)
class PlacedMap:
    """A map at the size of the input image.

    Attributes:
        values: [H, W] float32 in the map's own unit; 0 outside ``seen``.
        seen: x0, y0, x1, y1, half-open, in pixels: what the network saw, clipped to the image.
        signed: Whether negative values have a meaning (they speak against the target).
        raw: The method's own output, of any shape, where it is known: what is measured in its own cells.
        strips: Of rows and of columns: between two of them the map is linear along the axis. None where it is made
            otherwise, or cells are smaller than pixels.
    """

    values: NDArray[np.float32]
    seen: tuple[int, int, int, int]
    signed: bool
    raw: NDArray[np.float32] | None = None
    strips: tuple[Strips, Strips] | None = None


def place(raw: NDArray[np.float32], rect: Rect, size: tuple[int, int], *, signed: bool) -> PlacedMap:
    """Lay a map over the image: bilinear where cells are larger than pixels, area average where smaller.

    No minimum is subtracted and nothing is quantised: a value keeps its unit. Beyond the centres of the
    border cells the border value goes on. A pixel counts as seen when its centre lies in ``rect``.

    Args:
        raw: [h, w] values of the cells.
        rect: The part of the image that the cells cover.
        size: (W, H) of the image.
        signed: Passed on to the result.

    Raises:
        ImageError: ``raw`` holds NaN or infinity, which interpolation would smear over the picture.
        ValueError: ``raw`` is no [h, w] map, or ``rect`` does not touch the image.
    """
    if raw.ndim != 2 or raw.size == 0:
        raise ValueError(f"expected a map [h, w], got shape {raw.shape}")
    if not np.isfinite(raw).all():
        raise ImageError("not-finite", "the map holds NaN or infinity (often an overflow of fp16)")
    (width, height), (x0, y0, x1, y1) = size, rect
    left, top, right, bottom = seen_part(rect, size)
    rows = _weights(raw.shape[0], float(y0), float(y1), top, bottom)
    columns = _weights(raw.shape[1], float(x0), float(x1), left, right)
    across = np.asarray(raw, dtype=np.float32) @ columns.T
    whole = (left, top, right, bottom) == (0, 0, width, height)
    values = np.empty((height, width), dtype=np.float32) if whole else np.zeros((height, width), dtype=np.float32)
    for first in range(top, bottom, _ROWS):  # in strips: a copy of the whole would be as large as the image
        last = min(first + _ROWS, bottom)
        if whole:
            np.matmul(rows[first:last], across, out=values[first:last])
        else:
            values[first:last, left:right] = rows[first - top : last - top] @ across
    of_rows = _strips(raw.shape[0], float(y0), float(y1), (top, bottom, height))
    of_columns = _strips(raw.shape[1], float(x0), float(x1), (left, right, width))
    strips = None if of_rows is None or of_columns is None else (of_rows, of_columns)
    return PlacedMap(values, (left, top, right, bottom), signed, strips=strips)


def place_cells(
    raw: NDArray[np.float32], first: tuple[float, float], pitch: tuple[float, float], seen: Rect, size: tuple[int, int]
) -> PlacedMap:
    """Lay cells over the image that do not cover evenly what the network saw, such as those of a sliding window.

    Args:
        raw: [h, w] values of the cells.
        first: Middle (y, x) of cell (0, 0), in pixels of the image.
        pitch: Pixels (y, x) of the image from one cell to the next.
        seen: What the network saw. Beyond the middles of the border cells, up to its edges, their values go on.
        size: (W, H) of the image.

    Raises:
        ImageError, ValueError: As :func:`place`.
    """
    edges, pads = [], []
    for axis, (low, high, length) in enumerate(((seen[1], seen[3], size[1]), (seen[0], seen[2], size[0]))):
        start = first[axis] - pitch[axis] / 2
        stop = start + raw.shape[axis] * pitch[axis]
        before = max(0, math.ceil((start - max(low, 0.0)) / pitch[axis]))
        behind = max(0, math.ceil((min(high, float(length)) - stop) / pitch[axis]))
        pads.append((before, behind))
        edges.append((start - before * pitch[axis], stop + behind * pitch[axis]))
    (top, bottom), (left, right) = edges
    whole = place(np.pad(raw, pads, "edge"), (left, top, right, bottom), size, signed=False)
    (x0, x1), (y0, y1) = _seen(seen[0], seen[2], size[0]), _seen(seen[1], seen[3], size[1])
    if (x0, y0, x1, y1) == (0, 0, *size):
        return PlacedMap(whole.values, (x0, y0, x1, y1), False)
    values = np.zeros_like(whole.values)
    values[y0:y1, x0:x1] = whole.values[y0:y1, x0:x1]
    return PlacedMap(values, (x0, y0, x1, y1), False)


def seen_part(rect: Rect, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of an image of (W, H) that lie in ``rect``: x0, y0, x1, y1, half-open.

    Raises:
        ValueError: ``rect`` does not touch the image.
    """
    (left, right), (top, bottom) = _seen(rect[0], rect[2], size[0]), _seen(rect[1], rect[3], size[1])
    return left, top, right, bottom


def _seen(start: float, stop: float, length: int) -> tuple[int, int]:
    """The half-open range of pixels with their centres in [start, stop); of a sliver, all it touches."""
    if not (math.isfinite(start) and math.isfinite(stop) and max(start, 0.0) < min(stop, float(length))):
        raise ValueError(f"[{start}, {stop}] does not touch an image of {length} pixels")
    first, last = max(0, math.ceil(start - 0.5)), min(length, math.ceil(stop - 0.5))
    if first < last:
        return first, last
    return max(0, math.floor(start)), min(length, math.ceil(stop))


# The images of a folder often share a size: their weights are then made once.
@lru_cache(maxsize=64)
def _weights(cells: int, start: float, stop: float, first: int, last: int) -> NDArray[np.float32]:
    """[last - first, cells] weights of one axis; every row sums to 1."""
    pixels = np.arange(first, last, dtype=np.float64)
    pitch = (stop - start) / cells
    if pitch >= 1.0:
        position = np.clip((pixels + 0.5 - start) / pitch - 0.5, 0.0, cells - 1.0)
        weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(cells)))
    else:
        edges = start + pitch * np.arange(cells + 1)
        upper = np.minimum(pixels[:, None] + 1.0, edges[None, 1:])
        lower = np.maximum(pixels[:, None], edges[None, :-1])
        weights = np.maximum(0.0, upper - lower)
        weights /= weights.sum(axis=1, keepdims=True)
    result = weights.astype(np.float32)
    result.setflags(write=False)
    return result


@lru_cache(maxsize=64)
def _strips(cells: int, start: float, stop: float, seen: tuple[int, int, int]) -> Strips | None:
    """Of one axis, by the rules of :func:`_weights`: the middles of cells, and the ends of what the network saw."""
    first, last, length = seen
    pitch = (stop - start) / cells
    if pitch < 1.0:
        return None
    position = np.clip((np.arange(first, last) + 0.5 - start) / pitch - 0.5, -1.0, cells - 1.0)
    between = first + 1 + np.flatnonzero(np.diff(np.floor(position)))
    return np.unique([0, first, *between, last, length]).astype(np.intp)
