"""``--save boxes``: one picture an image, of its maps with their boxes and the boxes that were marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.maps.detection_picture import how_sure
from cnnviz.render.box_figure import FOUND, IGNORED, TRUE, BoxTile, Picture
from cnnviz.render.overlay import Style, drawn_limits, overlay, resized
from cnnviz.render.text import percent
from cnnviz.report.record_words import target_value

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult, TargetMap


def pictured(done: ImageResult) -> list[bool]:
    """Which maps are in the picture: those of classes that are marked on the image, else those of the first one."""
    marked = [bool(true_labels(done.truth, item)) for item in done.maps]
    return marked if any(marked) else [item.slug == done.maps[0].slug for item in done.maps]


def true_labels(truth: Truth | None, item: TargetMap) -> tuple[str, ...]:
    """The labels of the image that mean the class of a map."""
    return () if truth is None else tuple(label for label in item.truth_labels if label in truth.labels)


def box_tile(
    small: Picture, done: ImageResult, item: TargetMap, shown: PlacedMap, scores: Mapping[str, Any], style: Style
) -> BoxTile:
    """A map with its box and those that were marked as its class; ``small`` is the photograph as tiles have it."""
    found = scores.get("box_localization") or scores
    box = found.get("box_xywh")
    labels = true_labels(done.truth, item)
    boxes = [each for each in marked(done.truth) if not labels or each[2] in labels]
    frames = [(each, colour) for each, colour, _ in boxes]
    others = found.get("boxes_xywh") or ()
    frames += [(Box(*each), FOUND) for each in (others or ([] if box is None else [box]))]
    share = how_sure(done, item)
    said = percent(share) or target_value(asdict(item.target))
    sure = f" {said}" if said else ""
    iou = found.get("iou")
    detail = "no box: the map is flat" if box is None else "pink: box of the map"
    if len(others) > 1:
        detail = f"pink: {len(others)} boxes of the map"
    if iou is not None and box is not None:
        detail += f", IoU {iou:.2f}"
    # Drawn as the whole map would be, but only as large as it is shown.
    own = replace(style, limits=drawn_limits(shown, style))
    picture = overlay(small, resized(shown, (small.shape[1], small.shape[0])), own)
    return BoxTile(item.method.name, f"{item.target.label}{sure}", detail, picture, frames)


def marked(truth: Truth | None) -> list[tuple[Box, tuple[int, int, int], str]]:
    """What somebody marked on an image: boxes, their colours, their labels."""
    if truth is None:
        return []
    return [(each.box, IGNORED if each.ignore else TRUE, each.label) for each in truth.objects]
