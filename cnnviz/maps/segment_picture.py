"""Networks with scores at positions: on what the evidence lies, and one picture an image that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap, Rect
from cnnviz.geometry.placement import place as placed_on
from cnnviz.metrics.evidence import classes_at_pixels, evidence_by_class
from cnnviz.records import RegionScore
from cnnviz.render.class_colours import OTHER, Colour
from cnnviz.render.grid import resize
from cnnviz.render.overlay import Style, overlay, with_unseen
from cnnviz.render.segments import (
    Bar,
    SegmentTile,
    areas_of,
    colours_by_area,
    enlarged,
    painted,
    roomy,
    segment_figure,
    with_outline,
)
from cnnviz.render.text import percent

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult, TargetMap

_MOST = 8


class Segmented:
    """The prediction of an image with scores at positions, and the evidence of its maps on it.

    Args:
        done: The image.
        labels: Class names by index.
    """

    def __init__(self, done: ImageResult, labels: Sequence[str]) -> None:
        self._done, self._labels = done, labels
        self._at: NDArray[np.int64] | None = None
        self._areas: dict[int, float] = {}
        self._colours: dict[int, Colour] = {}
        self._tiles: list[SegmentTile] = []

    def evidence(self, placed: PlacedMap) -> list[dict[str, Any]]:
        """What the record says of a map: the classes on which it lies, largest share first, eight at most."""
        found = evidence_by_class(placed, self._classes(placed))[:_MOST]
        return [
            {
                "class_index": each.class_index,
                "label": self._labels[each.class_index],
                "share": round(each.share, 6),
                "area": round(each.area, 6),
            }
            for each in found
        ]

    def _classes(self, placed: PlacedMap) -> NDArray[np.int64]:
        if self._at is None:
            assert self._done.classes is not None
            self._at = classes_at_pixels(self._done.classes, self._done.geometry.rect, placed)
            left, top, right, bottom = placed.seen
            self._areas = areas_of(self._at, (right - left) * (bottom - top))
            self._colours = colours_by_area(self._areas)
        return self._at

    def add(self, item: TargetMap, shown: PlacedMap, evidence: Sequence[dict[str, Any]], style: Style) -> None:
        """A map for the picture."""
        assert self._at is not None
        bars = [
            Bar(row["label"], self._colours.get(row["class_index"], OTHER), row["share"], row["area"])
            for row in evidence
        ]
        area = outlined_area(item, self._done.geometry.rect, shown)
        detail = "" if area is None else f"outlined: {percent(area)} of what was seen"
        detail = detail if item.outline is not None else "asked of all of it"
        caption = with_region(item)
        picture = outlined(self._done, item, roomy(overlay(self._done.rgb, shown, style)))
        self._tiles.append(SegmentTile(item.method.name, caption, detail, picture, bars))

    def figure(self) -> NDArray[np.uint8]:
        """The picture."""
        assert self._at is not None
        small, areas, colours = roomy(self._done.rgb), self._areas, self._colours
        at = enlarged(self._at, (small.shape[1], small.shape[0]))
        ranked = sorted(areas, key=lambda index: -areas[index])
        names = [Bar(self._labels[index], colours[index], 0.0, areas[index]) for index in ranked]
        rect, size = self._done.geometry.rect, self._done.geometry.image_size
        prediction = with_unseen(painted(small, at, colours), small, rect, size)
        return segment_figure(small, prediction, names, self._tiles, self._done.ref.name)


def with_region(item: TargetMap) -> str:
    """The class of a map, and the region of it that was asked about where it was not all that is found of it."""
    region = getattr(item.target, "region", "pred")
    return item.target.label if region == "pred" else f"{item.target.label} @{region}"


def outlined_area(item: TargetMap, rect: Rect, shown: PlacedMap) -> float | None:
    """The share of the region that is asked about in what was seen of the photograph; None where there is none.

    Positions that the network predicts are counted in pixels, as the list of classes counts them: in its own cells,
    some of which may lie beside the photograph, one class would have two figures. Of other regions the share of a cell
    is known, and says more than pixels.
    """
    target = item.target
    if item.outline is None or not isinstance(target, RegionScore):
        return None
    left, top, right, bottom = shown.seen
    seen = (right - left) * (bottom - top)
    if target.region == "pred" or target.region.startswith("segment:"):
        inside = classes_at_pixels((item.outline > 0).astype(np.int64), rect, shown)
        return float(np.count_nonzero(inside == 1) / seen)
    x0, y0, x1, y1 = rect
    return min(1.0, target.region_area * (x1 - x0) * (y1 - y0) / seen)


def outlined(done: ImageResult, item: TargetMap, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture of the whole photograph, at any size, with the border of the region that is asked about."""
    if item.outline is None:
        return picture
    height, width = done.rgb.shape[:2]
    inside = placed_on(item.outline, done.geometry.rect, (width, height), signed=False).values
    small = resize((inside >= 0.5).astype(np.uint8) * 255, (picture.shape[1], picture.shape[0]))
    return with_outline(picture, small >= 128)
