"""Parts of images as colours: one colour a factor, the same in all images, and a legend of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.placement import Rect, place, seen_part
from cnnviz.render.class_colours import PALETTE
from cnnviz.render.grid import thumbnail
from cnnviz.render.overlay import UNSEEN, with_unseen
from cnnviz.render.patches import square
from cnnviz.render.text import percent, wrapped, write

Picture = NDArray[np.uint8]
MOST = len(PALETTE)
"""Factors that have a colour of their own."""
_INK, _SOFT, _PAPER = (28, 30, 34), (112, 117, 124), (255, 255, 255)
_LONGEST, _MARGIN, _LINE, _WORDS = 640, 14, 22, 250
_SMALL, _MOST_LINES, _ENTRY = 11, 4, 78
_STRONGEST = 0.8


@dataclass(frozen=True, eq=False)
class FactorRow:
    """A row of the legend: ``facts`` are lines of text, ``crops`` pictures, strongest first."""

    title: str
    facts: Sequence[str]
    crops: Sequence[Picture]


def painted(rgb: Picture, weights: NDArray[np.float32], rect: Rect) -> Picture:
    """The image in grey under the colour of each pixel's strongest factor, strongest colour at the largest weight.

    What the cells do not cover is drawn as in all pictures: light, outside a frame.

    Args:
        rgb: [H, W, 3].
        weights: [K, h, w], at least 0.
        rect: The part of the image that the cells cover.

    Returns:
        [height, width, 3], the longer side at most 640 pixels.
    """
    shown = thumbnail(rgb, _LONGEST)
    share = shown.shape[1] / rgb.shape[1], shown.shape[0] / rgb.shape[0]
    around = (rect[0] * share[0], rect[1] * share[1], rect[2] * share[0], rect[3] * share[1])
    size = shown.shape[1], shown.shape[0]
    maps = np.stack([place(each, around, size, signed=False).values for each in weights])
    strongest = maps.argmax(axis=0)
    opacity = _STRONGEST * maps.max(axis=0)[..., None] / (float(maps.max()) or 1.0)
    grey = shown @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    colours = np.array(PALETTE, dtype=np.float32)[strongest]
    mixed: Picture = np.rint(grey[..., None] * (1 - opacity) + colours * opacity).astype(np.uint8)
    return with_unseen(mixed, shown, rect, (rgb.shape[1], rgb.shape[0]))


def what_figures_are(said: str, rect: Rect, size: tuple[int, int]) -> str:
    """What is written below a figure: what its shares are, and what is grey where the cells do not cover the image."""
    return said if seen_part(rect, size) == (0, 0, *size) else f"{said}; {UNSEEN}"


def factor_figure(rgb: Picture, coloured: Picture, areas: Sequence[float], said: str) -> Picture:
    """The image, the same in colours, and below them which colour is which factor, with its share of the area.

    Args:
        rgb: [H, W, 3].
        coloured: As :func:`painted` makes it.
        areas: Share of each factor.
        said: Written below all: what these are.
    """
    height, width = coloured.shape[:2]
    room = max(2 * width + _MARGIN, _ENTRY * min(len(areas), 5))
    lines = -(-len(areas) // max(1, room // _ENTRY))
    words, top = wrapped(said, _SMALL, room, _MOST_LINES), height + 8 + lines * _LINE
    canvas = Image.new("RGB", (room, top + len(words) * (_SMALL + 5)), _PAPER)
    canvas.paste(Image.fromarray(thumbnail(rgb, max(width, height))), (0, 0))
    canvas.paste(Image.fromarray(coloured), (width + _MARGIN, 0))
    draw = ImageDraw.Draw(canvas)
    for factor, area in enumerate(areas):
        line, column = divmod(factor, max(1, room // _ENTRY))
        x, y = column * _ENTRY, height + 8 + line * _LINE
        draw.rectangle((x, y + 2, x + 13, y + 15), PALETTE[factor])
        write(draw, (x + 18, y + 2), f"{factor + 1}: {percent(area)}", _SMALL, _INK if area else _SOFT, _ENTRY - 20)
    for line, text in enumerate(words):
        write(draw, (0, top + line * (_SMALL + 5)), text, _SMALL, _SOFT, room)
    return np.asarray(canvas)


def factor_legend(title: str, rows: Sequence[FactorRow], side: int = 112) -> Picture:
    """One row a factor: its colour, what it says, its strongest patches."""
    most = max([1, *(len(row.crops) for row in rows)])
    high = max([side, *(24 + 18 * len(row.facts) for row in rows)])
    width = 2 * _MARGIN + 30 + _WORDS + most * (side + 4)
    canvas = Image.new("RGB", (width, 2 * _MARGIN + 26 + len(rows) * (high + 8)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write(draw, (_MARGIN, _MARGIN - 2), title, 15, _INK, width - 2 * _MARGIN)
    for number, row in enumerate(rows):
        x, y = _MARGIN, _MARGIN + 26 + number * (high + 8)
        draw.rectangle((x, y, x + 19, y + high - 1), PALETTE[number])
        write(draw, (x + 30, y), row.title, 14, _INK, _WORDS - 12)
        for line, fact in enumerate(row.facts):
            write(draw, (x + 30, y + 22 + 18 * line), fact, 12, _SOFT, _WORDS - 12)
        for column, crop in enumerate(row.crops):
            shown = square(thumbnail(crop, side), side)[0]
            canvas.paste(Image.fromarray(shown), (x + 30 + _WORDS + column * (side + 4), y))
    return np.asarray(canvas)
