"""Detectors: the explained box on pictures of its map, and one picture an image with all that is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.records import DetectionScore
from cnnviz.render.box_figure import reduced, with_boxes
from cnnviz.render.detections import ASKED, BoxMap, NumberedBox, detection_figure
from cnnviz.render.overlay import Style, overlay
from cnnviz.render.text import percent

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult, TargetMap


class Detected:
    """The boxes of an image, and the maps of some of them.

    Args:
        done: The image.
    """

    def __init__(self, done: ImageResult) -> None:
        self._done = done
        self._found = [each for each in done.predictions if isinstance(each, DetectionScore)]
        self._maps: list[BoxMap] = []

    def add(self, item: TargetMap, shown: PlacedMap, style: Style) -> None:
        """A map for the picture."""
        picture = boxed(self._done, item, reduced(overlay(self._done.rgb, shown, style)))
        number = getattr(item.target, "number", None)
        scores = [each.score for each in self._found if each.number == number]
        caption = item.target.label if number is None else f"{number}  {item.target.label}"
        self._maps.append(BoxMap(item.method.name, caption, f"score {percent(scores[0])}" if scores else "", picture))

    def figure(self) -> NDArray[np.uint8]:
        """The picture."""
        return boxes_figure(self._done.rgb, self._found, self._done.ref.name, self._maps)


def boxes_figure(
    rgb: NDArray[np.uint8], found: Sequence[DetectionScore], title: str, maps: Sequence[BoxMap] = ()
) -> NDArray[np.uint8]:
    """A photograph [H, W, 3] with all that is found in it, and maps of some of it."""
    boxes = [NumberedBox(each.number, each.class_index, each.label, each.score, Box(*each.box_xywh)) for each in found]
    return detection_figure(reduced(rgb), (rgb.shape[1], rgb.shape[0]), boxes, maps, title)


def how_sure(done: ImageResult, item: TargetMap) -> float | None:
    """How sure the network is of the target of a map, as all pictures say it.

    Of a box that is its score, by which boxes are numbered, and not the probability of its class alone.
    """
    number = getattr(item.target, "number", None)
    scores = [each.score for each in done.predictions if isinstance(each, DetectionScore) and each.number == number]
    return scores[0] if scores else item.target.probability


def asked_boxes(done: ImageResult, item: TargetMap) -> list[tuple[Box, tuple[int, int, int]]]:
    """The box that a map explains, cut off at the border of the photograph, with its colour; none of other maps."""
    if item.box is None:
        return []
    height, width = done.rgb.shape[:2]
    return [(item.box.within((width, height)), ASKED)]


def boxed(done: ImageResult, item: TargetMap, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture of the whole photograph, at any size, with the box that is explained."""
    boxes = asked_boxes(done, item)
    return with_boxes(picture, boxes, (done.rgb.shape[1], done.rgb.shape[0])) if boxes else picture
