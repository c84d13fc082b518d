"""Many small maps as one picture: the channels of a layer, the weights of a convolution, each with its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.colormap import AUTO, SIGNED_DEFAULT, UNSIGNED_DEFAULT, colormap, is_diverging
from cnnviz.render.grid import fit, resize
from cnnviz.render.text import font, write

_INK, _SOFT, _PAPER = (28, 30, 34), (112, 117, 124), (255, 255, 255)
_MARGIN, _TITLE, _SIZE = 12, 26, 11
_BAND = 14
# Tiles narrower than this have no room for their numbers.
_ROOM = 26


@dataclass(frozen=True)
class Layout:
    """Where tiles go.

    Attributes:
        columns: Tiles a row.
        cell: Pixels (W, H) of a tile.
        gap: Pixels between tiles.
        labels: Whether every tile has its number above it.
    """

    columns: int
    cell: tuple[int, int]
    gap: int
    labels: bool


def layout(count: int, tile: tuple[int, int], width: int = 960, largest: int = 128) -> Layout:
    """Tiles [h, w] = ``tile`` in about ``width`` pixels, numbered, and grown by whole multiples of their size."""
    columns = max(1, min(count, math.ceil(math.sqrt(1.6 * count)), width // (_ROOM + 4)))
    gap = 2 if columns > 24 else 4
    room = max(4, min(largest, width // columns - gap))
    h, w = tile
    if max(h, w) <= room:
        factor = room // max(h, w)
        cell = (w * factor, h * factor)
    else:
        cell = fit((w, h), (room, room))
    return Layout(columns, cell, gap, cell[0] >= _ROOM)


def coloured(values: NDArray[np.float32], limit: float, name: str, signed: bool) -> NDArray[np.uint8]:
    """Values [h, w] as colours [h, w, 3]: 0 to ``limit``, or -limit to limit if signed, zero in the middle."""
    if name == AUTO:
        name = SIGNED_DEFAULT if signed else UNSIGNED_DEFAULT
    limit = limit if limit > 0 else 1.0
    if is_diverging(name):
        position = 128 + 127 * values / limit
    else:
        position = 255 * (values + limit) / (2 * limit) if signed else 255 * values / limit
    picked: NDArray[np.uint8] = colormap(name)[np.clip(np.rint(position), 0, 255).astype(np.int64)]
    return picked


def tiles(
    pictures: Sequence[NDArray[np.uint8]], numbers: Sequence[int], place: Layout, title: str
) -> NDArray[np.uint8]:
    """Pictures [h, w, 3] in rows, their numbers above them, a title above all."""
    band = _BAND if place.labels else 0
    (w, h), rows = place.cell, -(-len(pictures) // place.columns)
    height = _TITLE + rows * (h + place.gap + band) + 2 * _MARGIN
    width = max(place.columns * (w + place.gap) - place.gap, round(font(15).getlength(title)) + 8) + 2 * _MARGIN
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write(draw, (_MARGIN, _MARGIN - 4), title, 15, _INK, width - 2 * _MARGIN)
    for index, (picture, number) in enumerate(zip(pictures, numbers, strict=True)):
        row, column = divmod(index, place.columns)
        x = _MARGIN + column * (w + place.gap)
        y = _MARGIN + _TITLE + row * (h + place.gap + band)
        if place.labels:
            write(draw, (x, y), str(number), _SIZE, _SOFT, w)
        canvas.paste(Image.fromarray(resize(picture, place.cell)), (x, y + band))
    return np.asarray(canvas)


def table(
    pictures: Sequence[Sequence[NDArray[np.uint8]]], rows: Sequence[int], columns: Sequence[int], cell: int, title: str
) -> NDArray[np.uint8]:
    """A table of pictures, a number before each row and above each column (above every few where they are narrow)."""
    gap = 1 if cell < 16 else 2
    left = _MARGIN + 8 + round(font(_SIZE).getlength(str(max(rows))))
    top = _MARGIN + _TITLE + _BAND
    width = max(left + len(columns) * (cell + gap), round(font(15).getlength(title)) + 8 + _MARGIN) + _MARGIN
    canvas = Image.new("RGB", (width, top + len(rows) * (cell + gap) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write(draw, (_MARGIN, _MARGIN - 4), title, 15, _INK, width - 2 * _MARGIN)
    wide = round(font(_SIZE).getlength(str(max(columns)))) + 4
    step = -(-wide // (cell + gap))
    for at, column in enumerate(columns):
        if at % step == 0:
            write(draw, (left + at * (cell + gap), top - _BAND), str(column), _SIZE, _SOFT, step * (cell + gap))
    every = -(-_SIZE // (cell + gap))
    for at, row in enumerate(rows):
        y = top + at * (cell + gap)
        if at % every == 0:
            write(draw, (_MARGIN, y + max(0, (cell - 14) // 2)), str(row), _SIZE, _SOFT, left - _MARGIN)
        for place, picture in enumerate(pictures[at]):
            shown = Image.fromarray(resize(picture, (cell, cell)))
            canvas.paste(shown, (left + place * (cell + gap), y))
    return np.asarray(canvas)


def stack(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures below each other on white."""
    width = max(picture.shape[1] for picture in pictures)
    out = np.full((sum(picture.shape[0] for picture in pictures), width, 3), 255, dtype=np.uint8)
    y = 0
    for picture in pictures:
        out[y : y + picture.shape[0], : picture.shape[1]] = picture
        y += picture.shape[0]
    return out
