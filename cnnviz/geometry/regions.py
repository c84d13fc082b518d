"""Regions of a photograph carried to the cells of a network's output, by area and never by the nearest cell.

A cell belongs to a region by the share of its area that lies in it: a region of one pixel keeps its place and its size
where cells are larger, and nothing falls between cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import Rect

RegionKind = Literal["pred", "all", "truth", "mask", "box", "point"]
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Length:
    """A coordinate in pixels of the photograph, or in per cent of its side."""

    value: float
    percent: bool = False

    def of(self, side: int) -> float:
        """In pixels."""
        return self.value * side / 100 if self.percent else self.value


@dataclass(frozen=True)
class Region:
    """A part of the photograph, as it was asked for.

    Attributes:
        kind: ``pred`` (where the network finds the class), ``all``, ``truth``, ``mask``, ``box`` or ``point``.
        numbers: x, y, width, height of a box; x, y of a point.
        file: Of a mask.
        value: Of a mask of indices: the index that counts; None for all that is not zero.
    """

    kind: RegionKind
    numbers: tuple[Length, ...] = ()
    file: str = ""
    value: int | None = None

    def box(self, size: tuple[int, int]) -> Box:
        """The box, or the pixel that a point lies in, of an image of (W, H)."""
        sides = (size[0], size[1]) * 2
        values = [length.of(side) for length, side in zip(self.numbers, sides, strict=False)]
        if self.kind == "point":
            return Box(int(np.floor(values[0])), int(np.floor(values[1])), 1, 1)
        return Box(*values)


def seen_share(weights: Weights, rect: Rect, area: float) -> float:
    """The share of a region that the network saw, 0 to 1.

    Args:
        weights: [h, w], of each cell of ``rect`` the share that lies in the region.
        rect: The part of the image that the cells cover.
        area: Of the region within the image, in pixels.
    """
    covered = float(weights.mean(dtype=np.float64)) * (rect[2] - rect[0]) * (rect[3] - rect[1])
    return min(1.0, round(covered / area, 6))


def box_weights(box: Box, size: tuple[int, int], rect: Rect, cells: tuple[int, int]) -> Weights:
    """The share of each cell [h, w] that lies in a box of an image of (W, H), whose part ``rect`` the cells cover."""
    x0, y0, x1, y1 = box.edges
    down = _shares(np.array([max(y0, 0.0), min(y1, float(size[1]))]), rect[1], rect[3], cells[0])
    across = _shares(np.array([max(x0, 0.0), min(x1, float(size[0]))]), rect[0], rect[2], cells[1])
    return (down.T @ across).astype(np.float32)


def mask_weights(mask: NDArray[np.bool_], rect: Rect, cells: tuple[int, int]) -> Weights:
    """The share of each cell [h, w] that lies in a mask [H, W] of the image, whose part ``rect`` the cells cover."""
    height, width = mask.shape
    down = _shares(np.arange(height + 1, dtype=np.float64), rect[1], rect[3], cells[0])
    across = _shares(np.arange(width + 1, dtype=np.float64), rect[0], rect[2], cells[1])
    return (down.T.astype(np.float32) @ mask.astype(np.float32) @ across.astype(np.float32)).clip(0, 1)


def _shares(edges: NDArray[np.float64], start: float, stop: float, cells: int) -> NDArray[np.float64]:
    """[pieces, cells]: the share of each cell of [start, stop] that lies in each piece between two edges."""
    borders = np.linspace(start, stop, cells + 1)
    upper = np.minimum(edges[1:, None], borders[None, 1:])
    lower = np.maximum(edges[:-1, None], borders[None, :-1])
    shares: NDArray[np.float64] = np.maximum(upper - lower, 0.0) / ((stop - start) / cells)
    return shares


@dataclass(frozen=True, eq=False)
class Segment:
    """A connected part of the prediction.

    Attributes:
        class_index: What it is predicted as.
        cells: bool [h, w].
    """

    class_index: int
    cells: NDArray[np.bool_]


def segments(labels: NDArray[np.int64], leave_out: Sequence[int], most: int) -> list[Segment]:
    """The connected parts of a map of classes, largest first; cells touch also at corners.

    Args:
        labels: [h, w] class indices; a negative value marks a cell without a class.
        leave_out: Classes without parts: the background.
        most: How many are wanted.
    """
    found: list[tuple[int, int, int, int, NDArray[np.int32]]] = []
    for index in np.unique(labels).tolist():
        if index < 0 or index in leave_out:
            continue
        count, parts, stats, _ = cv2.connectedComponentsWithStats((labels == index).astype(np.uint8), connectivity=8)
        numbered = parts.astype(np.int32)
        found += [(-int(stats[part, cv2.CC_STAT_AREA]), index, part, 0, numbered) for part in range(1, count)]
    found.sort(key=lambda each: each[:3])
    return [Segment(index, parts == part) for _, index, part, _, parts in found[:most]]
