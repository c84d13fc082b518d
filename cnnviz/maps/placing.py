"""The maps of an image on its pixels: as they are, and as pictures show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.metrics.derived import is_flat
from cnnviz.render.gradient import magnitude_limit
from cnnviz.render.overlay import Style

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult, TargetMap

# Of maps of single pixels a few values are many times as large as the rest; scaled by them a picture shows nothing.
_OUTLIERS = 99.0
# So many maps are kept for those that equal them: each has the size of the image.
_MOST = 2


class Placing:
    """Places the maps of an image; those that are equal (Eigen-CAM's of all classes) once, so that what is derived of
    one is known of all.

    Args:
        done: The image with its maps.
    """

    def __init__(self, done: ImageResult) -> None:
        self.done = done
        self._keys = [_content(item) for item in done.maps]
        self._left = Counter(self._keys)
        self._kept: dict[Hashable, tuple[PlacedMap, PlacedMap]] = {}

    def at(self, number: int, style: Style) -> tuple[PlacedMap, PlacedMap]:
        """The map of a number, once for each, in any order: as it is, and as pictures show it."""
        key, item = self._keys[number], self.done.maps[number]
        known = self._kept.pop(key) if key in self._kept else None
        placed, shown = known or on_photograph(self.done, item, style)
        self._left[key] -= 1
        if self._left[key] and len(self._kept) < _MOST:
            self._kept[key] = placed, shown
        return replace(placed, raw=item.raw), shown


def _content(item: TargetMap) -> Hashable:
    """Equal for maps of which everything that is placed and measured is equal."""
    if item.raw.ndim != 2:
        return id(item)
    return item.method.signed, item.values.shape, item.values.tobytes(), item.raw.shape, item.raw.tobytes()


def on_photograph(done: ImageResult, item: TargetMap, style: Style) -> tuple[PlacedMap, PlacedMap]:
    """A map on the image's pixels as it is, and as pictures show it."""
    height, width = done.rgb.shape[:2]
    placed = place(item.values, done.geometry.rect, (width, height), signed=item.method.signed)
    shown = without_outliers(placed) if item.raw.ndim == 3 and style.limits is None else placed
    if style.limits is None and is_flat(shown):
        # The same everywhere is nowhere in particular: drawn as such, not as hot all over.
        shown = replace(shown, values=np.zeros_like(shown.values))
    return placed, shown


def without_outliers(placed: PlacedMap) -> PlacedMap:
    """What pictures show of a map of single pixels: cut off at the 99th percentile of its magnitudes."""
    limit = np.float32(magnitude_limit(placed.values, _OUTLIERS))
    return replace(placed, values=np.clip(placed.values, -limit, limit))
