"""The bar that says which value has which colour, and where zero is on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.colormap import colormap, is_diverging
from cnnviz.render.overlay import entry
from cnnviz.render.text import font, length

INK = (28, 30, 34)
_PAPER = (255, 255, 255)
_LIGHT = 128.0

Limits = tuple[float, float]


def bar_colours(name: str, limits: Limits, count: int) -> NDArray[np.uint8]:
    """The colours [count, 3] from the lower limit to the upper one: the part of the colour map that these use."""
    first, last = (entry(value, limits, is_diverging(name)) for value in limits)
    return colormap(name)[np.rint(np.linspace(first, last, count)).astype(np.intp)]


def zero_on(limits: Limits, count: int) -> int | None:
    """Pixels from the lower end of a bar of ``count`` pixels to zero; None where that is not between the limits."""
    low, high = limits
    return min(count - 1, round(count * -low / (high - low))) if low < 0.0 < high else None


def lying_bar(page: Image.Image, corner: tuple[int, int], size: tuple[int, int], name: str, limits: Limits) -> None:
    """Draw a bar from left to right. Zero, where it lies between the limits, is written on it, which has no colour
    there; a line marks it where it is too close to an end for that.

    Args:
        page: What it is drawn on.
        corner: Left and top.
        size: Width and height.
        name: The colour map.
        limits: The values at its ends.
    """
    (x, y), (long, high) = corner, size
    colours = bar_colours(name, limits, long)
    page.paste(Image.fromarray(np.ascontiguousarray(np.repeat(colours[None], high, axis=0))), corner)
    zero = zero_on(limits, long)
    if zero is None:
        return
    draw, letters = ImageDraw.Draw(page), max(9, high)
    ink = INK if float(colours[zero].mean()) > _LIGHT else _PAPER
    half = length("0", letters) // 2 + 2
    if half <= zero < long - half:
        draw.text((x + zero, y + high / 2), "0", font=font(letters), fill=ink, anchor="mm")
    else:
        draw.line((x + zero, y, x + zero, y + high - 1), fill=ink)
