"""Captioning networks: one picture an image with the map of each word under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap
from cnnviz.records import CaptionScore, TokenScore
from cnnviz.render.box_figure import reduced
from cnnviz.render.overlay import Style, overlay
from cnnviz.render.text import percent
from cnnviz.render.words import WordMap, words_figure

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult, TargetMap


class Written:
    """The text of an image, and the maps of its words.

    Args:
        done: The image.
    """

    def __init__(self, done: ImageResult) -> None:
        self._done = done
        self._maps: list[tuple[int, WordMap]] = []

    def add(self, item: TargetMap, shown: PlacedMap, style: Style) -> None:
        """A map for the picture; the whole text comes last, and what is no word is left out."""
        several = len({each.method.name for each in self._done.maps}) > 1
        target = item.target
        if isinstance(target, TokenScore):
            place, word, detail = target.number, target.label, percent(target.probability)
        elif isinstance(target, CaptionScore):
            place, word, detail = len(self._done.predictions) + 1, "(the whole text)", "the sum"
        else:
            return
        picture = reduced(overlay(self._done.rgb, shown, style))
        self._maps.append((place, WordMap(word, f"{detail}  {item.method.name}" if several else detail, picture)))

    def figure(self) -> NDArray[np.uint8]:
        """The picture."""
        text = " ".join(each.label for each in self._done.predictions)
        maps = [each for _, each in sorted(self._maps, key=lambda pair: pair[0])]
        return words_figure(reduced(self._done.rgb), maps, text, self._done.ref.name)
