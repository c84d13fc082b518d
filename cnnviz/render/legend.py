"""What is drawn on an overlay on request: the box of its largest region, and a band that says what it shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.color_bar import lying_bar
from cnnviz.render.overlay import Style, drawn_colormap, drawn_limits, is_flat
from cnnviz.render.text import font, length, number, percent, wrapped, write

_PAPER, _INK, _SOFT = (255, 255, 255), (28, 30, 34), (112, 117, 124)
_SIZES, _MOST_LINES = (11, 26), 4


def with_box(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The picture with a frame around the pixels of ``box``: white between two dark lines, just inside it."""
    page = Image.fromarray(picture)
    frame(ImageDraw.Draw(page), box, _PAPER, max(1, round(max(picture.shape[:2]) / 300)))
    return np.array(page, dtype=np.uint8)


def frame(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], thick: int) -> None:
    """Draw a frame just inside the pixels of a box, so many pixels thick, between two dark lines."""
    left, top, x1, y1 = (round(edge) for edge in box.edges)
    right, bottom = x1 - 1, y1 - 1
    for inset, shade, wide in ((0, (0, 0, 0), 1), (1, colour, thick), (1 + thick, (0, 0, 0), 1)):
        if right - inset > left + inset and bottom - inset > top + inset:
            draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=shade, width=wide)


def with_legend(
    picture: NDArray[np.uint8], label: str, probability: float | None, placed: PlacedMap, style: Style
) -> NDArray[np.uint8]:
    """The picture above a band with the label, its probability, and the colours with the values at their ends.

    Args:
        picture: [H, W, 3]; nothing of it is covered.
        label: What is explained.
        probability: 0 to 1, or None.
        placed: The map that was drawn.
        style: How.

    Returns:
        [H + h, W, 3], h about an eleventh of the width, 17 to 40 pixels. Below a picture that is too narrow for one
        line of all that the label is wrapped, and the colours stand under it.
    """
    width = picture.shape[1]
    size = int(np.clip(round(width / 24), *_SIZES))
    pad, step = max(3, size // 3), size + max(3, size // 3)
    figure = "" if probability is None else percent(probability)
    scale = None if is_flat(placed) else _Scale(placed, style, size, pad)
    room = width - 2 * pad
    wide = 0 if scale is None else min(6 * size, width // 5) + scale.words
    tail = pad + length(figure, size) if figure else 0
    beside = length(label, size) + tail + wide + 2 * pad <= room
    lines = [label] if beside else wrapped(label, size, room, _MOST_LINES)
    if length(lines[-1], size) + tail > room:
        lines.append("")
    below = not beside and scale is not None and scale.words + size <= room
    band = Image.new("RGB", (width, pad + (len(lines) + below) * step), _PAPER)
    draw = ImageDraw.Draw(band)
    for place, line in enumerate(lines):
        write(draw, (pad, pad - 1 + place * step), line, size, _INK, room)
    x = pad + (length(lines[-1], size) + pad if lines[-1] else 0)
    write(draw, (x, pad - 1 + (len(lines) - 1) * step), figure, size, _SOFT, room)
    if scale is not None and (beside or below):
        scale.paint(band, (width - pad - wide, pad) if beside else (pad, pad + len(lines) * step))
    return np.concatenate([picture, np.array(band, dtype=np.uint8)])


class _Scale:
    """The colours of a map in a line, with the values at their ends.

    Args:
        placed: The map.
        style: How it is drawn.
        size: Of the letters beside it.
        pad: Between the values and the bar.

    Attributes:
        words: The pixels that the values take, with what lies between them and the bar.
    """

    def __init__(self, placed: PlacedMap, style: Style, size: int, pad: int) -> None:
        self._name, self._limits = drawn_colormap(placed, style), drawn_limits(placed, style)
        self._size, self._pad = size, pad
        self._letters = max(9, size - 3)
        self._ends = [number(value) for value in self._limits]
        self.words = sum(length(end, self._letters) for end in self._ends) + 2 * pad

    def paint(self, band: Image.Image, corner: tuple[int, int]) -> None:
        """Draw it from ``corner`` to the right edge of the band."""
        (x, y), draw = corner, ImageDraw.Draw(band)
        long = band.width - self._pad - x - self.words
        first = length(self._ends[0], self._letters)
        draw.text((x, y), self._ends[0], font=font(self._letters), fill=_SOFT)
        lying_bar(band, (x + first + self._pad, y + 2), (long, self._size - 2), self._name, self._limits)
        draw.text((x + first + 2 * self._pad + long, y), self._ends[1], font=font(self._letters), fill=_SOFT)
