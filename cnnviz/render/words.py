"""A text with a map under each of its words: one figure an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.grid import fit, paste, resize
from cnnviz.render.text import write

Picture = NDArray[np.uint8]

_MARGIN, _GAP, _TITLE, _WORD, _DETAIL = 24, 10, 44, 30, 24
_CELL, _COLUMNS = 168, 10
_INK, _SOFT = (28, 30, 34), (112, 117, 124)


@dataclass(frozen=True, eq=False)
class WordMap:
    """A word, a line about it, and its map on the photograph [h, w, 3]."""

    word: str
    detail: str
    picture: Picture


def words_figure(photograph: Picture, maps: Sequence[WordMap], text: str, name: str) -> Picture:
    """The text, the photograph and the maps, ten in a row, each under its word.

    Args:
        photograph: [h, w, 3], as large as the maps.
        maps: In the order of the text.
        text: All of it.
        name: Of the photograph.
    """
    cells = [WordMap("", name, photograph), *maps]
    height, width = photograph.shape[:2]
    shown = fit((width, height), (_CELL, _CELL))
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    step = _WORD + shown[1] + _DETAIL + _GAP
    size = (_MARGIN + _TITLE + rows * step + _MARGIN // 2, 2 * _MARGIN + columns * (_CELL + _GAP) - _GAP)
    canvas: Picture = np.full((*size, 3), 255, dtype=np.uint8)
    corners = [
        (_MARGIN + at % columns * (_CELL + _GAP), _MARGIN + _TITLE + at // columns * step) for at in range(len(cells))
    ]
    for cell, (x, y) in zip(cells, corners, strict=True):
        paste(canvas, resize(cell.picture, shown), (x, y + _WORD), (_CELL, shown[1]))
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 6), text, 20, _INK, size[1] - 2 * _MARGIN)
    for cell, (x, y) in zip(cells, corners, strict=True):
        write(draw, (x, y + 4), cell.word, 18, _INK, _CELL)
        write(draw, (x, y + _WORD + shown[1] + 4), cell.detail, 13, _SOFT, _CELL)
    return np.asarray(page)
