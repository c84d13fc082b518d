"""Connected regions of a map above each of many thresholds, with their boxes.

Labelling the map anew at every threshold takes a hundred times as long as what is asked of it. A region that holds a
single maximum stays in one piece up to that maximum: its boxes and areas at all thresholds follow from the maxima of
its rows and columns and its histogram. Where there are several, the threshold at which it falls apart is found by
bisection: it grows apart with the threshold as long as all its maxima are above. Where the map is made of large cells,
all this is asked of a small grid; where there are many maxima, :mod:`~cnnviz.metrics.localization_basins` takes over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import Strips
from cnnviz.metrics.derived import Edges
from cnnviz.metrics.localization import LEVELS
from cnnviz.metrics.localization_basins import basin_regions
from cnnviz.metrics.localization_cells import Cells, histogram

_Levels = NDArray[np.uint8]

# With more maxima than this, to go through them all at once is faster; grids of corners are small.
_FEW, _FEW_OF_CELLS = 24, 200
# With more corners than this share of the pixels, the pixels are looked at.
_SPARSE = 1 / 16


class Regions(NamedTuple):
    """Regions above thresholds k = 0 to 254.

    Attributes:
        level: [n] k of each.
        edges: [n, 4] of its box: x0, y0, x1, y1, half-open.
        area: [n] its pixels (of ``wsol``: the area that its contour encloses).
    """

    level: NDArray[np.intp]
    edges: Edges
    area: NDArray[np.float64]

    def at(self, rows: NDArray[np.intp]) -> Regions:
        """Some of them."""
        return Regions(self.level[rows], self.edges[rows], self.area[rows])

    def in_order(self) -> Regions:
        """By threshold, then from top to bottom, then from left to right."""
        return self.at(np.lexsort((self.edges[:, 0], self.edges[:, 1], self.level)))

    def by_area(self) -> Regions:
        """By threshold, then the largest first, of equals as they were."""
        return self.at(np.lexsort((-self.area, self.level)))

    def largest(self) -> Regions:
        """Of each threshold the largest region, of equals the first."""
        found = self.by_area()
        return found.at(np.unique(found.level, return_index=True)[1])


def regions(levels: _Levels, values: NDArray[np.float32], strips: tuple[Strips, Strips] | None = None) -> Regions:
    """Every 8-connected region of ``levels > k``, for each k from 0 to 254.

    Args:
        levels: [H, W].
        values: [H, W] what they were made of, growing with it: its maxima tell regions apart.
        strips: Of rows and columns, between which the values are linear; None where they are not.
    """
    cells = None
    if strips is not None and 16 * len(strips[0]) * len(strips[1]) < levels.size * _SPARSE:
        cells = Cells(levels, *strips)
    grid = levels if cells is None else cells.grid
    peaks = _peaks(grid, _maxima(values) if cells is None else cells.maxima)
    if not peaks:
        return NONE
    if len(peaks) > (_FEW if cells is None else _FEW_OF_CELLS):
        level, edges, area = basin_regions(levels)
        return Regions(level, edges.astype(np.float64), area.astype(np.float64))
    return _joined(list(_pieces(_Piece(grid, 0, 0, cells), -1, peaks))).in_order()


NONE = Regions(np.zeros(0, np.intp), np.zeros((0, 4)), np.zeros(0))
"""No region."""


def contours(levels: _Levels) -> Regions:
    """The contours of ``levels > k`` for each k from 0 to 254, as :func:`contours_above` has them."""
    return _joined([contours_above(levels, level) for level in range(LEVELS)])


def contours_above(levels: _Levels, level: int) -> Regions:
    """The contours of ``levels > level`` as ``wsol`` has them: of holes too, in OpenCV's order.

    x1 and y1 are half-open but for the last column and row, and overlaps read them as inclusive. Where there is no
    contour, there is the box of the first pixel.
    """
    _, mask = cv2.threshold(levels, level, 255, cv2.THRESH_BINARY)
    found = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not found:
        return Regions(np.array([level]), np.zeros((1, 4)), np.zeros(1))
    # cv2.boundingRect and cv2.contourArea of all at once: maps of single pixels have thousands of contours.
    sizes = np.fromiter(map(len, found), np.intp, len(found))
    starts = np.cumsum(sizes) - sizes
    points = np.concatenate(found).reshape(-1, 2).astype(np.int64)
    following = np.arange(1, len(points) + 1)
    following[starts + sizes - 1] = starts
    x, y = points.T
    area = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2
    last = np.array([levels.shape[1] - 1, levels.shape[0] - 1])
    far = np.minimum(np.maximum.reduceat(points, starts) + 1, last)
    edges = np.column_stack([np.minimum.reduceat(points, starts), far]).astype(np.float64)
    return Regions(np.full(len(found), level), edges, area)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A connected region: its levels, 0 around it, and where its first pixel lies in the map.

    With ``cells`` all this is of their grid.
    """

    levels: _Levels
    top: int
    left: int
    cells: Cells | None

    def extent(self) -> tuple[_Levels, int, _Levels, int, NDArray[np.float64]]:
        """The highest level in each of its columns, where they begin; of its rows; how many pixels of each level."""
        if self.cells is None:
            highest = self.levels.max(axis=0), self.levels.max(axis=1)
            return highest[0], self.left, highest[1], self.top, histogram(self.levels)
        own = np.zeros(self.cells.grid.shape, dtype=np.bool_)
        height, width = self.levels.shape
        whole = self.levels.shape == own.shape and self.levels is self.cells.grid
        own[self.top : self.top + height, self.left : self.left + width] = True if whole else self.levels > 0
        corners = own[::2, ::2].ravel()
        columns, rows = self.cells.extent(corners)
        return columns, 0, rows, 0, self.cells.pixels(corners)


class _Peak(NamedTuple):
    """A maximum, or a plateau that may be one: a region has it where it is above the threshold."""

    level: int
    row: int
    column: int


def _peaks(levels: _Levels, maxima: NDArray[np.bool_]) -> list[_Peak]:
    """The maxima above zero, once for each connected plateau; the lowest first."""
    mask = (maxima & (levels > 0)).view(np.uint8)
    found, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [contour[0, 0] for contour, place in zip(found, tree[0], strict=True) if place[3] < 0] if found else []
    return sorted(_Peak(int(levels[row, column]), int(row), int(column)) for column, row in outer)


def _maxima(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where no neighbour is higher."""
    return np.asarray(values >= np.asarray(cv2.dilate(values, np.ones((3, 3), np.uint8))), dtype=np.bool_)


def _pieces(piece: _Piece, lowest: int, peaks: list[_Peak]) -> Iterator[Regions]:
    """The regions of a piece that is connected at the threshold ``lowest``, from there on."""
    for place, peak in enumerate(peaks[:-1]):
        last = peak.level - 1  # all peaks from this one on are above
        if last < lowest or _is_connected(piece, last):
            continue  # it is no region of its own
        low, high = lowest, last  # connected at low, not at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _is_connected(piece, middle) else (low, middle)
        yield _of_piece(piece, lowest, low)
        for part, own in _fallen_apart(piece, high, peaks[place:]):
            yield from _pieces(part, high, own)
        return
    yield _of_piece(piece, lowest, peaks[-1].level - 1)


def _is_connected(piece: _Piece, level: int) -> bool:
    _, mask = cv2.threshold(piece.levels, level, 1, cv2.THRESH_BINARY)
    found, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return sum(1 for place in tree[0] if place[3] < 0) == 1 if found else True


def _fallen_apart(piece: _Piece, level: int, peaks: list[_Peak]) -> Iterator[tuple[_Piece, list[_Peak]]]:
    """The connected pieces above a threshold, each with its peaks."""
    above = (piece.levels > level).view(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8, ltype=cv2.CV_32S)
    for number, (x0, y0, across, down, _) in enumerate(np.asarray(statistics)[1:].tolist(), 1):
        x1, y1 = x0 + across, y0 + down
        part = np.where(labels[y0:y1, x0:x1] == number, piece.levels[y0:y1, x0:x1], np.uint8(0))
        own = [
            _Peak(each.level, each.row - y0, each.column - x0)
            for each in peaks
            if labels[each.row, each.column] == number
        ]
        yield _Piece(part, piece.top + y0, piece.left + x0, piece.cells), own


def _of_piece(piece: _Piece, first: int, last: int) -> Regions:
    """Boxes and areas of a piece that is connected at the thresholds ``first`` to ``last``."""
    level = np.arange(max(first, 0), last + 1)
    edges = []
    columns, left, rows, top, pixels = piece.extent()
    for highest, start in ((columns, left), (rows, top)):
        near = np.searchsorted(np.maximum.accumulate(highest), level, side="right")
        far = np.searchsorted(np.maximum.accumulate(highest[::-1]), level, side="right")
        edges.append((start + near, start + len(highest) - far))
    (x0, x1), (y0, y1) = edges
    above = pixels[::-1].cumsum()[::-1]
    return Regions(level, np.column_stack([x0, y0, x1, y1]).astype(np.float64), above[level + 1])


def _joined(parts: Sequence[Regions]) -> Regions:
    level, edges, area = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Regions(level.astype(np.intp), edges, area)
