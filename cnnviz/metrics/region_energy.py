"""Where a map lies: the share of its positive values in regions of the photograph, and whether its maximum is there.

A region is ``truth`` (where the annotations mark the class: by masks, or by boxes where there are none), ``background``
(all that the network saw and that is not marked as any object of the class), or a rectangle x0/y0/x1/y1 in fractions of
width and height. A map without positive values has no energy anywhere: its shares are None. Such a map, and one that
is the same everywhere, is largest nowhere: whether its maximum is inside is None. (In the pointing game, which asks a
method to find the object, both miss.) Of each region the share that the network saw stands beside: no map can lie on
the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage, Row, RunSummary
from cnnviz.metrics.derived import is_even, total_of
from cnnviz.metrics.seen_region import BACKGROUND, TRUTH, SeenRegion, share_seen
from cnnviz.registry.localization_metrics import RegionEnergyOptions
from cnnviz.registry.metric_specs import MetricSpec

_FOUND = 0.5


def score(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: RegionEnergyOptions) -> dict[str, Any]:
    """The shares, in the order of ``regions``: see the top of the module."""
    values = np.maximum(placed.values, 0)
    if truth is not None and truth.ignored is not None:
        values[truth.ignored] = 0
    total = total_of(values)
    x0, y0, x1, y1 = placed.seen
    flat = total <= 0 or is_even(placed.values[y0:y1, x0:x1])
    inside = object_region(truth, image, params.objects)
    energies: list[float | None] = []
    seen: list[float | None] = []
    regions = params.regions.split(";")
    for region in regions:
        mask = region_mask(region, values.shape, inside)
        energies.append(None if mask is None or total <= 0 else total_of(values * mask) / total)
        seen.append(None if mask is None else share_seen(mask, placed.seen))
    found: dict[str, Any] = {"regions": regions, "energies": energies, "seen": seen, "peak_inside": None}
    if inside is not None and inside.any() and not flat:
        found["peak_inside"] = _is_near(values, inside, params.tolerance)
    return found


def object_region(truth: Truth | None, image: ExplainedImage, objects: str) -> NDArray[np.bool_] | None:
    """bool [H, W]: where the object is; None where nothing says so, or nothing of the class is marked."""
    if truth is None:
        return None
    if objects == "box":
        return _own_box(truth, image)
    marked = (*truth.object_labels, *truth.masks)
    labels = tuple(dict.fromkeys(marked)) if objects == "any" else tuple(x for x in image.truth_labels if x in marked)
    if not labels:
        return None
    return truth.region_of(labels)


def _own_box(truth: Truth, image: ExplainedImage) -> NDArray[np.bool_] | None:
    """bool [H, W]: the marked box that is found by the detector's box which the map explains."""
    found = getattr(image.target, "box_xywh", None)
    marked = truth.boxes_of(image.truth_labels)
    if found is None or not marked:
        return None
    own = Box(*found)
    best = max(marked, key=own.iou)
    if own.iou(best) < _FOUND:
        return None
    mask = np.zeros((truth.size[1], truth.size[0]), dtype=np.bool_)
    mask[best.pixels(truth.size)] = True
    return mask


def region_mask(region: str, shape: tuple[int, ...], inside: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """bool [H, W] of a region; None for one of the object where it is not known."""
    if region == TRUTH:
        return inside
    if region == BACKGROUND:
        return None if inside is None else ~inside
    return rectangle(region, (shape[0], shape[1]))


def rectangle(region: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [H, W]: the pixels with their centres in x0,y0,x1,y1, in fractions of width and height."""
    x0, y0, x1, y1 = map(float, region.replace("/", ",").split(","))
    rows = (np.arange(shape[0]) + 0.5) / shape[0]
    cols = (np.arange(shape[1]) + 0.5) / shape[1]
    return np.logical_and.outer((rows >= y0) & (rows < y1), (cols >= x0) & (cols < x1))


def _is_near(values: NDArray[np.float32], inside: NDArray[np.bool_], tolerance: float) -> bool:
    """Whether the first largest pixel is in the region, or at most so many pixels beside it."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    if inside[row, column]:
        return True
    reach = int(min(tolerance, max(inside.shape)))
    top, left = max(0, int(row) - reach), max(0, int(column) - reach)
    rows, columns = np.nonzero(inside[top : int(row) + reach + 1, left : int(column) + reach + 1])
    return bool(((rows + top - row) ** 2 + (columns + left - column) ** 2 <= tolerance**2).any())


def summarize(rows: Iterable[Row], spec: MetricSpec, params: RegionEnergyOptions) -> RunSummary:
    """No figures: that the network did not see all of a region, where it did not."""
    found: dict[str, SeenRegion] = {}
    images: set[tuple[str, str]] = set()
    for row in rows:
        for region, seen in zip(
            (row.scores or {}).get("regions", ()), (row.scores or {}).get("seen", ()), strict=False
        ):
            if region != BACKGROUND and seen is not None and (region, row.image) not in images:
                images.add((region, row.image))
                found.setdefault(region, SeenRegion()).add(seen)
    said = [f"{text}; --view whole shows it all" for region, own in found.items() if (text := own.hidden(region))]
    return RunSummary(None, tuple(f"{spec.title}: {text}" for text in said), tuple((spec.title, text) for text in said))
