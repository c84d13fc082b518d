"""What is drawn on an overlay on request: the box of its largest region, and a band that says what it shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.colormap import colormap, is_diverging
from cnnviz.render.overlay import Style, drawn_colormap, drawn_limits, entry, is_flat
from cnnviz.render.text import fitted, font, number, percent

_PAPER, _INK, _SOFT = (255, 255, 255), (28, 30, 34), (112, 117, 124)
_SIZES = (11, 26)


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
        [H + h, W, 3], h about an eleventh of the width, 17 to 40 pixels.
    """
    width = picture.shape[1]
    size = int(np.clip(round(width / 24), *_SIZES))
    pad, height = max(3, size // 3), size + 2 * max(3, size // 3)
    band = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(band)
    scale = 0 if is_flat(placed) else _paint_scale(band, placed, style, size)
    figure = "" if probability is None else percent(probability)
    room = width - scale - 3 * pad - round(font(size).getlength(f" {figure}"))
    text = fitted(label, size, max(room, size))
    draw.text((pad, pad - 1), text, font=font(size), fill=_INK)
    draw.text((pad + font(size).getlength(f"{text} "), pad - 1), figure, font=font(size), fill=_SOFT)
    return np.concatenate([picture, np.array(band, dtype=np.uint8)])


def _paint_scale(band: Image.Image, placed: PlacedMap, style: Style, size: int) -> int:
    """The colour bar at the right, its ends in numbers. Returns how much room it takes; 0 where there is none."""
    low, high = drawn_limits(placed, style)
    name, pad = drawn_colormap(placed, style), max(3, size // 3)
    small = max(9, size - 3)
    ends = [number(low), number(high)]
    lengths = [round(font(small).getlength(end)) for end in ends]
    long = min(6 * size, band.width // 5)
    taken = long + sum(lengths) + 4 * pad
    if taken > 0.6 * band.width:
        return 0
    x = band.width - taken + pad
    draw = ImageDraw.Draw(band)
    draw.text((x, pad), ends[0], font=font(small), fill=_SOFT)
    x += lengths[0] + pad
    first, last = (entry(value, (low, high), is_diverging(name)) for value in (low, high))
    colours = colormap(name)[np.rint(np.linspace(first, last, long)).astype(np.intp)]
    bar = np.repeat(colours[None], size - 2, axis=0)
    band.paste(Image.fromarray(np.ascontiguousarray(bar)), (x, pad + 2))
    draw.text((x + long + pad, pad), ends[1], font=font(small), fill=_SOFT)
    return taken
