"""The figures of one map: the "scores" of a record.

With v the placed map at the image's size, S the pixels that the network saw, v+ = max(v, 0) and m = max v:

* ``min``, ``max``, ``mean``: of the raw map, in its own unit.
* ``peak``: [x, y], the pixel where v = m. Where several pixels tie (closer to m than float32 can tell) the
  largest 8-connected region of them counts, of equals the one that reading order meets first; the peak is its
  pixel nearest to its centroid, again the first of equals.
* ``box_xywh``: bounding box of the largest 8-connected region with v > 0.2 m, the first of equals (Zhou et
  al., "Learning Deep Features for Discriminative Localization", CVPR 2016).
* ``energy_in_box``: sum of v+ in that box over the sum of v+.
* ``entropy``: -sum p ln p / ln |S| with p = v+ / sum v+: 0 for a single pixel, 1 for an even map.
* ``area_above_half``: share of S where v >= m / 2.

Where no value is positive, or v is the same everywhere, all but the raw figures are None. ``flat`` is True when v is
zero or the same everywhere (else there is no ``flat``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage
from cnnviz.metrics.derived import EVEN, derived, is_flat, limits, regions_above, shares, total_of
from cnnviz.registry.metrics import MapStatisticsOptions

BOX_SHARE = 0.2
UNDEFINED: Mapping[str, None] = dict.fromkeys(("peak", "box_xywh", "energy_in_box", "entropy", "area_above_half"))
"""What is said of maps that have no positive value, or are the same everywhere."""
_TIE = 1.0 - EVEN
# Of what rounding may lift to a tie. Grids with more corners than one in so many pixels are not worth the while.
_NEARLY, _SPARSE = 1.0 - 4 * EVEN, 64
_TINY = np.finfo(np.float32).tiny
# Maps are gone through in strips, which stay in the processor's cache.
_STRIP_PIXELS = 1 << 16


def score(
    placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: MapStatisticsOptions
) -> dict[str, object]:
    """The metric: see the top of the module. Raw figures are those of ``placed.raw``, if it is known."""
    return map_scores(placed.values if placed.raw is None else placed.raw, placed)


def map_scores(raw: NDArray[np.float32], placed: PlacedMap) -> dict[str, object]:
    """The scores of one map as plain JSON values, coordinates in pixels of the input image.

    Args:
        raw: The method's own output, any shape, unscaled.
        placed: The same map on the image.
    """
    own = {"min": _finite(raw.min()), "max": _finite(raw.max()), "mean": _finite(raw.mean(dtype=np.float64))}
    return {**own, **derived.of(placed.values, ("statistics", placed.seen), lambda: _of_placed(placed))}


def _of_placed(placed: PlacedMap) -> dict[str, object]:
    """What does not depend on the map's own cells."""
    scores: dict[str, object] = {}
    x0, y0, x1, y1 = placed.seen
    highest = float(limits(placed)[1])
    if is_flat(placed) or not (math.isfinite(highest) and highest > 0.0):
        scores.update(UNDEFINED)
        if is_flat(placed):
            scores["flat"] = True
        return scores
    # In units of the maximum: sums and logarithms stay in range whatever the unit of the map is.
    whole = shares(placed)
    share = whole[y0:y1, x0:x1]
    total = total_of(share)
    regions = regions_above(placed, BOX_SHARE)
    left, top, right, bottom = regions.edges[regions.largest()].astype(int).tolist()
    inside = total_of(whole[top:bottom, left:right])
    column, row = _peak_of(placed, share)
    scores["peak"] = [x0 + column, y0 + row]
    scores["box_xywh"] = Box.from_edges(left, top, right, bottom).xywh
    scores["energy_in_box"] = min(1.0, inside / total)
    scores["entropy"] = _entropy(share, total)
    scores["area_above_half"] = int(np.count_nonzero(share >= np.float32(0.5))) / share.size
    return scores


def _finite(value: np.floating) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _largest_region(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest 8-connected region of a mask that is not empty."""
    # Half the memory is half the time; no two regions share a 2x2 block, which bounds their number.
    few = ((mask.shape[0] + 1) // 2) * ((mask.shape[1] + 1) // 2) < 65535
    _, found, statistics, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=8, ltype=cv2.CV_16U if few else cv2.CV_32S
    )
    labels, stats = np.asarray(found), np.asarray(statistics)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    largest = np.flatnonzero(areas == areas.max())
    label = int(largest[0])
    if len(largest) > 1:
        # OpenCV numbers regions in no promised order: the first pixel in reading order decides.
        label = int(labels.flat[np.flatnonzero(np.isin(labels, largest))[0]])
    return np.asarray(labels == label, dtype=np.bool_)


def _peak_of(placed: PlacedMap, share: NDArray[np.float32]) -> tuple[int, int]:
    """x, y of the maximum on what the network saw.

    Between its strips a map is linear along both axes: what ties with the maximum lies in blocks with a corner that
    does. Only they are looked at, where the other values are not so large that interpolation could lose a tie.
    """
    low, high = limits(placed)
    if placed.strips is None or len(placed.strips[0]) * len(placed.strips[1]) * _SPARSE > share.size:
        return _peak(share)
    if -low > high:
        return _peak(share)
    x0, y0, x1, y1 = placed.seen
    rows, columns = (
        each[(each >= first) & (each <= last)] - first
        for each, first, last in zip(placed.strips, (y0, x0), (y1, x1), strict=True)
    )
    down, across = (np.column_stack([each[:-1], each[1:] - 1]).ravel() for each in (rows, columns))
    places, beside = np.nonzero(share[np.ix_(down, across)] >= np.float32(_NEARLY))
    top, bottom = rows[places.min() // 2], rows[places.max() // 2 + 1]
    left, right = columns[beside.min() // 2], columns[beside.max() // 2 + 1]
    column, row = _peak(share[top:bottom, left:right])
    return int(left) + column, int(top) + row


def _peak(share: NDArray[np.float32]) -> tuple[int, int]:
    """x, y of the maximum, of a map divided by it."""
    ties = np.flatnonzero(share >= np.float32(_TIE))
    if len(ties) == 1:
        row, column = divmod(int(ties[0]), share.shape[1])
        return column, row
    rows, columns = np.divmod(ties, share.shape[1])
    top, left = int(rows.min()), int(columns.min())
    mask = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), dtype=np.bool_)
    mask[rows - top, columns - left] = True
    rows, columns = np.nonzero(_largest_region(mask))
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return left + int(columns[nearest]), top + int(rows[nearest])


def _entropy(share: NDArray[np.float32], total: float) -> float:
    """Shannon entropy of share / total over that of an even map; of a single pixel 0."""
    if share.size == 1:
        return 0.0
    rows = max(1, _STRIP_PIXELS // share.shape[1])
    weighted = sum(_weighted(share[top : top + rows]) for top in range(0, len(share), rows))
    return min(1.0, max(0.0, (math.log(total) - weighted / total) / math.log(share.size)))


def _weighted(share: NDArray[np.float32]) -> float:
    # OpenCV's logarithm takes a sixth of the time of NumPy's.
    logarithms = np.maximum(share, _TINY)
    cv2.log(logarithms, logarithms)
    return total_of(np.multiply(share, logarithms, out=logarithms))
