"""Connected regions, at all thresholds, of a map of many maxima: from where the slopes of its pixels lead.

Every pixel leads to the highest of its neighbours (of equals the last in reading order), and by it to a maximum: the
pixels that lead to one are its basin. On its way up no pixel is lower than where it began, so that above a threshold
each pixel is connected to the maximum of its basin, and two basins are connected from the threshold on at which two
neighbours, one of each, are both above it. So regions are the connected parts of a graph of basins, which grows
together as the threshold falls (Kruskal's algorithm); their boxes and areas grow with them, pixel by pixel.

Gives what labelling every pixel at every threshold gives, and looks at each pixel once.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_Levels = NDArray[np.uint8]
_Places = NDArray[np.intp]


class BasinRegions(NamedTuple):
    """Regions above the thresholds k = 0 to 254: by threshold, then from top to bottom, then from left to right.

    Attributes:
        level: [n] k of each.
        edges: [n, 4] of its box: x0, y0, x1, y1, half-open.
        area: [n] its pixels.
    """

    level: _Places
    edges: _Places
    area: _Places


def basin_regions(levels: _Levels) -> BasinRegions:
    """Every 8-connected region of ``levels > k``, for each k.

    Args:
        levels: [H, W], some of them above 0.
    """
    # With zeros around it: the neighbours of a pixel are then so many places away in the flat array.
    framed = np.pad(levels, 1)
    flat, width = framed.ravel(), framed.shape[1]
    basin, count = _basins(framed)
    joins, pixels = _Joins(flat, basin, width), _Sorted(flat)
    # Of each basin the region that it is in, by the number of one of its basins; then what is known of each region.
    own, area = np.arange(count), np.zeros(count, np.intp)
    left, top = (np.full(count, side) for side in levels.shape[::-1])
    right, bottom = np.zeros(count, np.intp), np.zeros(count, np.intp)
    found = []
    for level in range(int(levels.max()) - 1, -1, -1):
        gone, into = joins.at(level + 1, own)
        if len(gone):
            for ends, further in ((left, np.minimum), (top, np.minimum), (right, np.maximum), (bottom, np.maximum)):
                further.at(ends, into, ends[gone])
            np.add.at(area, into, area[gone])
            area[gone] = 0
        places = pixels.at(level + 1)
        regions = own[basin[places]]
        rows, columns = np.divmod(places - width - 1, width)
        np.minimum.at(left, regions, columns)
        np.minimum.at(top, regions, rows)
        np.maximum.at(right, regions, columns + 1)
        np.maximum.at(bottom, regions, rows + 1)
        area += np.bincount(regions, minlength=count)
        there = np.flatnonzero(area)
        # From top to bottom, then from left to right.
        there = there[np.argsort(top[there] * levels.shape[1] + left[there], kind="stable")]
        edges = np.column_stack([left[there], top[there], right[there], bottom[there]])
        found.append((np.full(len(there), level), edges, area[there]))
    return BasinRegions(*(np.concatenate(column) for column in zip(*found[::-1], strict=True)))


def _basins(framed: _Levels) -> tuple[_Places, int]:
    """[n] the number of the basin of each pixel above 0, and how many there are."""
    size, above = framed.size, np.flatnonzero(framed)
    rank = (framed.astype(np.float64) * size).ravel() + np.arange(size)
    highest = np.asarray(cv2.dilate(rank.reshape(framed.shape), np.ones((3, 3), np.uint8))).ravel()
    leads = np.arange(size)
    leads[above] = highest[above].astype(np.intp) % size
    maxima = above[leads[above] == above]
    while True:
        further = leads[leads[above]]
        if np.array_equal(further, leads[above]):
            break
        leads[above] = further
    number = np.zeros(size, np.intp)
    number[maxima] = np.arange(len(maxima))
    return number[leads], len(maxima)


class _Sorted:
    """Places by their levels."""

    def __init__(self, levels: _Levels) -> None:
        self._order = np.argsort(levels, kind="stable")  # of 8 bits: in linear time
        self._ends = np.cumsum(np.bincount(levels, minlength=256))

    def at(self, level: int) -> _Places:
        """Those of a level above 0."""
        return self._order[self._ends[level - 1] : self._ends[level]]


class _Joins:
    """Which basins meet at which level.

    Args:
        flat: [n] the levels of a map within zeros.
        basin: [n] of the pixels above 0.
        width: Of its rows.
    """

    def __init__(self, flat: _Levels, basin: _Places, width: int) -> None:
        parts = []
        for step in (1, width - 1, width, width + 1):
            height = np.minimum(flat[:-step], flat[step:])
            meet = np.flatnonzero((basin[:-step] != basin[step:]) & (height > 0))
            parts.append((height[meet], basin[meet], basin[meet + step]))
        heights, self._one, self._two = (np.concatenate(column) for column in zip(*parts, strict=True))
        self._sorted = _Sorted(heights)

    def at(self, level: int, own: _Places) -> tuple[_Places, _Places]:
        """Regions that end at a level, and those that they become part of; ``own`` [basins] changes with it."""
        places = self._sorted.at(level)
        one, two = own[self._one[places]], own[self._two[places]]
        apart = one != two
        pairs = np.unique(one[apart] * len(own) + two[apart])
        into: dict[int, int] = {}

        def found(region: int) -> int:
            while region in into:
                region = into[region]
            return region

        for a, b in zip(*(side.tolist() for side in np.divmod(pairs, len(own))), strict=True):
            a, b = found(a), found(b)
            if a != b:
                into[a] = b
        gone = np.fromiter(into, np.intp, len(into))
        parts = np.fromiter(map(found, into), np.intp, len(into))
        if len(gone):
            moved = np.arange(len(own))
            moved[gone] = parts
            own[:] = moved[own]
        return gone, parts
