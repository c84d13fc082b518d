"""Connected regions, at all thresholds, of a map of large cells: from the few pixels that decide.

Between the middles of its cells an upsampled map is linear along rows and along columns. In a block of pixels between
four such middles it falls from each pixel to a corner without a gap: above a threshold every pixel is connected to a
corner, and neighbouring corners that are both above it to each other. So regions are connected as in a grid of the
corners, with the smaller of two between neighbours. Two opposite corners above a threshold that the others are not
above (a saddle) are connected or not by the pixels between them, which are looked at. The box of a region reaches as
far as it does in the rows and columns of corners, and its area is the sum of its blocks'.

Gives what labelling every pixel at every threshold gives, for a thousandth of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import Strips

_Levels = NDArray[np.uint8]
_Places = NDArray[np.intp]
_ALL = 256
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_COUNTED = 1 << 24  # OpenCV counts in float32


@dataclass(frozen=True, eq=False)
class Cells:
    """A map in levels, with the strips between which it is linear.

    Attributes:
        levels: [H, W].
        rows, columns: The strips.
    """

    levels: _Levels
    rows: Strips
    columns: Strips

    @cached_property
    def _corners(self) -> tuple[_Places, _Places]:
        """Rows and columns of the first and the last pixels of the strips."""
        return _ends(self.rows), _ends(self.columns)

    @cached_property
    def grid(self) -> _Levels:
        """[2n - 1, 2m - 1]: the levels of the n x m corners, and between them those at which they are connected."""
        down, across = self._corners
        corners = self.levels[np.ix_(down, across)]
        found = np.empty((2 * len(down) - 1, 2 * len(across) - 1), np.uint8)
        found[::2, ::2] = corners
        np.minimum(corners[1:], corners[:-1], out=found[1::2, ::2])
        np.minimum(corners[:, 1:], corners[:, :-1], out=found[::2, 1::2])
        np.minimum(found[1::2, 2::2], found[1::2, :-1:2], out=found[1::2, 1::2])
        for row, column, falling in self._saddles:
            found[2 * row + 1, 2 * column + 1] = self._saddle_level(row, column, falling)
        return found

    @cached_property
    def maxima(self) -> NDArray[np.bool_]:
        """[2n - 1, 2m - 1]: the corners beside which no other is higher, and what is between two of them."""
        corners = self.grid[::2, ::2]
        beside = np.asarray(cv2.dilate(np.ascontiguousarray(corners), _CROSS))
        found = np.zeros(self.grid.shape, dtype=np.bool_)
        found[::2, ::2] = corners >= beside
        found[1::2, ::2] = found[:-2:2, ::2] & found[2::2, ::2]
        found[::2, 1::2] = found[::2, :-2:2] & found[::2, 2::2]
        return found

    @cached_property
    def _saddles(self) -> list[tuple[int, int, bool]]:
        """Blocks with two opposite corners above the others: row, column, whether they are the first and the last."""
        down, across = self._corners
        corners = self.levels[np.ix_(down, across)]
        one, two, three, four = corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]
        falling = np.minimum(one, four) > np.maximum(two, three)
        rising = np.minimum(two, three) > np.maximum(one, four)
        found = np.argwhere(falling | rising).tolist()
        return [(row, column, bool(falling[row, column])) for row, column in found]

    def _saddle_level(self, row: int, column: int, falling: bool) -> int:
        """The lowest threshold at which the two high corners of a block are not connected in it."""
        down, across = self._corners
        block = self.levels[down[row] : down[row + 1] + 1, across[column] : across[column + 1] + 1]
        first, last = ((0, 0), (-1, -1)) if falling else ((0, -1), (-1, 0))
        # Connected by a row or a column that is above the threshold from end to end, or else by single steps.
        level = int(max(np.minimum(block[:, 0], block[:, -1]).max(), np.minimum(block[0], block[-1]).max()))
        while level < min(int(block[first]), int(block[last])):
            labels = np.asarray(cv2.connectedComponents((block > level).view(np.uint8), connectivity=8)[1])
            if labels[first] != labels[last]:
                break
            level += 1
        return level

    @cached_property
    def _lines(self) -> list[tuple[NDArray[np.intp], _Levels]]:
        """For columns, then rows: of each pixel on the lines of corners along the axis its corner, and its level.

        The corner is that of the strip's ends which is higher: as far as the pixel is above a threshold, so is all
        between them.
        """
        down, across = self._corners
        width = len(across)
        values = np.ascontiguousarray(self.levels[down])
        along = np.arange(len(down))[:, None] * width + _higher(values, across)
        turned = np.ascontiguousarray(self.levels[:, across].T)
        upright = _higher(turned, down) * width + np.arange(width)[:, None]
        return [(along, values), (upright, turned)]

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Of each block of pixels its corner [n], and how many pixels it has at each level [n, 256].

        A saddle is two blocks: its rows that are higher to the left, and those that are higher to the right.
        """
        down, across = self._corners
        corners = self.levels[np.ix_(down, across)]
        four = np.stack([corners[row::2, column::2] for row in (0, 1) for column in (0, 1)])
        highest = four.argmax(axis=0)
        rows, columns = np.indices(highest.shape)
        owners = ((2 * rows + highest // 2) * len(across) + 2 * columns + highest % 2).ravel()
        counts = self._counts(*highest.shape)
        parts = [(owners, counts)]
        for row, column, falling in self._saddles:
            if row % 2 or column % 2:
                continue  # between two strips there are no pixels
            block = self.levels[down[row] : down[row + 1] + 1, across[column] : across[column + 1] + 1]
            places = [(row + each // 2) * len(across) + column + each % 2 for each in range(4)]
            left = int(np.count_nonzero(block[:, 0] >= block[:, -1]))
            of_two = [(places[0], block[:left]), (places[3], block[left:])]
            if not falling:
                right = len(block) - int(np.count_nonzero(block[:, 0] > block[:, -1]))
                of_two = [(places[1], block[:right]), (places[2], block[right:])]
            counts[row // 2 * highest.shape[1] + column // 2] = 0.0
            parts += [(np.array([owner]), histogram(part)[None]) for owner, part in of_two if part.size]
        return np.concatenate([owner for owner, _ in parts]), np.concatenate([count for _, count in parts])

    def _counts(self, down: int, across: int) -> NDArray[np.float64]:
        """[down * across, 256]: how many pixels each block has at each level."""
        count = down * across
        rows = np.repeat(np.arange(down) * across, np.diff(self.rows))
        columns = np.repeat(np.arange(across), np.diff(self.columns))
        if count <= _ALL and self.levels.size <= _COUNTED:
            block = rows.astype(np.uint8)[:, None] + columns.astype(np.uint8)
            found = cv2.calcHist([block, self.levels], [0, 1], None, [count, _ALL], [0, count, 0, _ALL])
            return np.asarray(found, dtype=np.float64)
        place = (rows[:, None] + columns) * _ALL + self.levels
        return np.bincount(place.ravel(), minlength=count * _ALL).reshape(count, _ALL).astype(np.float64)

    def extent(self, corners: NDArray[np.bool_]) -> tuple[_Levels, _Levels]:
        """The highest level in each column [W] and in each row [H] of the region of some corners [n * m]."""
        (of_columns, along), (of_rows, down) = self._lines
        return (
            np.where(corners[of_columns], along, np.uint8(0)).max(axis=0),
            np.where(corners[of_rows], down, np.uint8(0)).max(axis=0),
        )

    def pixels(self, corners: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[256]: how many pixels the region of some corners has at each level."""
        owners, counts = self._blocks
        found: NDArray[np.float64] = counts[corners[owners]].sum(axis=0)
        return found


def histogram(levels: _Levels) -> NDArray[np.float64]:
    """[256]: how many pixels there are of each level."""
    if levels.size > _COUNTED:
        return np.bincount(levels.ravel(), minlength=_ALL).astype(np.float64)
    return np.asarray(cv2.calcHist([levels], [0], None, [_ALL], [0, _ALL]), dtype=np.float64).ravel()


def _ends(strips: Strips) -> _Places:
    return np.column_stack([strips[:-1], strips[1:] - 1]).ravel()


def _higher(lines: _Levels, ends: _Places) -> NDArray[np.intp]:
    """Of each pixel of some lines [n, L] the number of that end of its strip which is higher."""
    strip = np.repeat(np.arange(len(ends) // 2), ends[1::2] - ends[::2] + 1)
    chosen = 2 * np.arange(len(ends) // 2) + (lines[:, ends[1::2]] > lines[:, ends[::2]])
    return np.asarray(chosen[:, strip], dtype=np.intp)
