"""What several metrics need of one map, made once: its shares, whether it is flat, its regions above a threshold."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap

Edges = NDArray[np.float64]
"""[n, 4]: x0, y0, x1, y1 of each box."""

# A plateau comes out of interpolation with weights that sum to 1 only to the last bits of float32.
EVEN = 1e-6
# With a longer border, for the size of the mask, labels are faster than contours; every so many rows tell its length.
_LONG, _EVERY = 8, 4

_T = TypeVar("_T")


class _Derived:
    """What was computed of arrays that are still there; safe in threads.

    Several metrics look at one map, and images of one size share their baselines.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._kept: dict[int, tuple[weakref.ref[Any], dict[Any, Any]]] = {}

    def of(self, values: NDArray[Any], key: Any, make: Callable[[], _T]) -> _T:
        """``make()``, or what it gave before for the same array, which must not change, and the same key."""
        number = id(values)
        with self._turn:
            known, found = self._kept.get(number, (None, {}))
            if known is None or known() is not values:
                found = {}
                self._kept[number] = (weakref.ref(values, lambda gone: self._forget(number, gone)), found)
        if key not in found:
            found[key] = make()
        result: _T = found[key]
        return result

    def _forget(self, number: int, gone: weakref.ref[Any]) -> None:
        # No lock: a thread that holds it may be the one in which the array goes. Of another array with its number
        # nothing is forgotten.
        if self._kept.get(number, (None,))[0] is gone:
            self._kept.pop(number, None)


derived = _Derived()


def is_even(values: NDArray[np.float32]) -> bool:
    """Whether a map is the same everywhere, zero or not: it tells no place from another."""
    return _are_even(float(values.min()), float(values.max()))


def _are_even(low: float, high: float) -> bool:
    return high - low <= EVEN * max(abs(low), abs(high))


def limits(placed: PlacedMap) -> tuple[np.float32, np.float32]:
    """The smallest and the largest value of a map on what the network saw."""
    x0, y0, x1, y1 = placed.seen

    def make() -> tuple[np.float32, np.float32]:
        seen = placed.values[y0:y1, x0:x1]
        return seen.min(), seen.max()

    return derived.of(placed.values, ("limits", placed.seen), make)


def is_flat(placed: PlacedMap) -> bool:
    """Whether a map is the same everywhere on what the network saw."""
    low, high = limits(placed)
    return _are_even(float(low), float(high))


def nowhere(placed: PlacedMap) -> str:
    """Why a map lies nowhere, as the end of a sentence about it; empty of one that lies somewhere."""
    if not limits(placed)[1] > 0:
        return "has no positive values"
    return "is the same everywhere" if is_flat(placed) else ""


def total_of(values: NDArray[np.float32]) -> float:
    """The sum of a map [H, W] in float64; OpenCV takes a quarter of the time of NumPy."""
    return float(cv2.sumElems(values)[0])


def shares(placed: PlacedMap) -> NDArray[np.float32]:
    """max(v, 0) / max v [H, W], 0 to 1; zero everywhere where no value is positive."""

    def make() -> NDArray[np.float32]:
        x0, y0, x1, y1 = placed.seen
        lowest, highest = limits(placed)
        if not (highest > 0 and np.isfinite(highest)):
            return np.zeros_like(placed.values)
        height, width = placed.values.shape
        whole = placed.seen == (0, 0, width, height)
        found = np.empty_like(placed.values) if whole else np.zeros_like(placed.values)
        part = found[y0:y1, x0:x1]
        np.divide(placed.values[y0:y1, x0:x1], highest, out=part)
        if lowest < 0:  # no share of a map without negative values is beyond 0 or 1
            np.clip(part, 0.0, 1.0, out=part)
        return found

    return derived.of(placed.values, ("shares", placed.seen), make)


class MaskRegions(NamedTuple):
    """The 8-connected regions of a mask, in no promised order.

    Attributes:
        first: [n, 2] y and x of the first pixel of each in reading order.
        edges: [n, 4] of its box: x0, y0, x1, y1, half-open.
        area: [n] its pixels.
    """

    first: NDArray[np.intp]
    edges: Edges
    area: NDArray[np.float64]

    def largest(self) -> int:
        """The number of the largest, of equals of the first in reading order."""
        return int(np.lexsort((self.first[:, 1], self.first[:, 0], -self.area))[0])


def regions_above(placed: PlacedMap, threshold: float) -> MaskRegions:
    """The regions of a map above a share of its maximum."""

    def make() -> MaskRegions:
        return mask_regions(shares(placed) > np.float32(threshold))

    return derived.of(placed.values, ("regions", threshold, placed.seen), make)


def mask_regions(mask: NDArray[np.bool_]) -> MaskRegions:
    """The regions of a mask [H, W].

    Of masks with short borders by their contours, which is ten times as fast as labelling all pixels.
    """
    plain = mask.view(np.uint8)
    some = mask[::_EVERY]
    if _EVERY * np.count_nonzero(some[:, 1:] != some[:, :-1]) > _LONG * sum(mask.shape):
        return _labelled(plain)
    found, tree = cv2.findContours(plain, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return MaskRegions(np.zeros((0, 2), np.intp), np.zeros((0, 4)), np.zeros(0))
    sizes = np.fromiter(map(len, found), np.intp, len(found))
    starts = np.cumsum(sizes) - sizes
    points = np.concatenate(found).reshape(-1, 2).astype(np.int64)
    following = np.arange(1, len(points) + 1)
    following[starts + sizes - 1] = starts
    x, y = points.T
    twice = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts))
    steps = np.add.reduceat(np.abs(points[following] - points).max(axis=1), starts)
    # Pick's theorem: a contour runs through the pixels of its region, with `steps` of them on it. Within that of a
    # region lie it and its holes, within that of a hole the hole alone.
    parent = np.asarray(tree, dtype=np.intp)[0, :, 3]
    outer = parent < 0
    area = np.where(outer, (twice + steps) / 2 + 1, 0.0)
    np.subtract.at(area, parent[~outer], ((twice - steps) / 2 + 1)[~outer])
    edges = np.column_stack([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts) + 1])
    first = points[starts][:, ::-1]  # OpenCV meets a region at its first pixel
    return MaskRegions(first[outer].astype(np.intp), edges[outer].astype(np.float64), area[outer])


def _labelled(plain: NDArray[np.uint8]) -> MaskRegions:
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(plain, connectivity=8, ltype=cv2.CV_32S)
    found = np.asarray(statistics)[1:]
    edges = np.column_stack([found[:, :2], found[:, :2] + found[:, 2:4]]).astype(np.float64)
    places = np.flatnonzero(plain)[::-1]
    first = np.zeros(len(statistics), np.intp)
    first[np.asarray(labels).ravel()[places]] = places  # what is written last stays: the first place
    rows, columns = np.divmod(first[1:], plain.shape[1])
    return MaskRegions(np.column_stack([rows, columns]), edges, found[:, cv2.CC_STAT_AREA].astype(np.float64))
