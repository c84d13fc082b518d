"""Maps of several methods with the boxes that they draw, and the boxes that somebody marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.render.comparison import Cell, comparison, room_of
from cnnviz.render.grid import in_columns, resize

Picture = NDArray[np.uint8]

TRUE, FOUND, IGNORED = (46, 204, 64), (255, 0, 200), (160, 160, 160)
"""Colours of boxes that were marked, that a map gives, and of regions that count neither way."""
_SHOWN = 420
_TILE = 320
"""The longer side of a picture that is reduced, and of a tile."""
_COLUMNS = 6


@dataclass(frozen=True, eq=False)
class BoxTile:
    """A map on its photograph with boxes.

    Attributes:
        heading: The method.
        caption: What the map explains.
        detail: How well the box fits.
        picture: [h, w, 3], the map over the photograph, at the size of :func:`tile_photo`.
        boxes: With their colours, in pixels of the photograph.
    """

    heading: str
    caption: str
    detail: str
    picture: Picture
    boxes: Sequence[tuple[Box, tuple[int, int, int]]]


def box_figure(
    rgb: Picture, marked: Sequence[tuple[Box, tuple[int, int, int]]], tiles: Sequence[BoxTile], title: str
) -> Picture:
    """The photograph with what was marked, then one tile a map, a row or more for each class; many classes stand in
    several columns, down each in turn.

    Args:
        rgb: [H, W, 3], the photograph.
        marked: Boxes that somebody marked, with their colours.
        tiles: The maps.
        title: Written above.
    """
    size = rgb.shape[1], rgb.shape[0]
    small = tile_photo(rgb)
    detail = "green: marked" if marked else ""
    image = Cell("image", with_boxes(small, marked, size), "", detail)
    classes: list[list[list[Cell | None]]] = []
    for _, group in groupby(tiles, key=lambda tile: tile.caption):
        own = [Cell(t.heading, with_boxes(t.picture, t.boxes, size), t.caption, t.detail) for t in group]
        # As many in each row: none is left alone in the last one.
        across = math.ceil(len(own) / math.ceil(len(own) / _COLUMNS))
        classes.append([list[Cell | None](own[start : start + across]) for start in range(0, len(own), across)])
    widest = max((len(row) for own in classes for row in own), default=0)
    width, height = room_of([image, *(each for own in classes for row in own for each in row if each is not None)])
    block = widest * width, max(map(len, classes), default=1) * height
    stacks = [[row for number in own for row in classes[number]] for own in in_columns(len(classes), block)]
    rows: list[list[Cell | None]] = [[None] for _ in range(max(map(len, stacks), default=1))]
    rows[0] = [image]
    for stack in stacks:
        for place, whole in enumerate(rows):
            own_row = stack[place] if place < len(stack) else []
            whole += [*own_row, *[None] * (widest - len(own_row))]
    return comparison(rows, title)


def tile_photo(rgb: Picture) -> Picture:
    """A photograph at the size of a tile."""
    return reduced(rgb, _TILE)


def reduced(rgb: Picture, longest: int = _SHOWN) -> Picture:
    """A photograph whose longer side is at most ``longest`` pixels."""
    height, width = rgb.shape[:2]
    scale = min(1.0, longest / max(width, height))
    return resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))))


def with_boxes(picture: Picture, boxes: Sequence[tuple[Box, tuple[int, int, int]]], size: tuple[int, int]) -> Picture:
    """The picture with frames just inside the boxes, in their colours between dark lines.

    Args:
        picture: [h, w, 3], the photograph at any size.
        boxes: In pixels of the photograph.
        size: (W, H) of the photograph.
    """
    height, width = picture.shape[:2]
    across, down = width / size[0], height / size[1]
    thick = max(2, round(max(width, height) / 210))
    drawn = picture.copy()  # in NumPy: a figure has dozens of them, and each would go to Pillow and back
    for box, colour in boxes:
        x0, y0, x1, y1 = box.edges
        _frame(drawn, Box.from_edges(x0 * across, y0 * down, x1 * across, y1 * down), colour, thick)
    return drawn


def _frame(picture: Picture, box: Box, colour: tuple[int, int, int], thick: int) -> None:
    """As :func:`cnnviz.render.legend.frame`."""
    left, top, far, below = (round(edge) for edge in box.edges)
    for inset, shade, wide in ((0, (0, 0, 0), 1), (1, colour, thick), (1 + thick, (0, 0, 0), 1)):
        x0, y0, x1, y1 = left + inset, top + inset, far - inset, below - inset
        if x1 - x0 > 1 and y1 - y0 > 1:
            _fill(picture, (x0, y0, x1, min(y0 + wide, y1)), shade)
            _fill(picture, (x0, max(y1 - wide, y0), x1, y1), shade)
            _fill(picture, (x0, y0, min(x0 + wide, x1), y1), shade)
            _fill(picture, (max(x1 - wide, x0), y0, x1, y1), shade)


def _fill(picture: Picture, edges: tuple[int, int, int, int], shade: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = (max(0, edge) for edge in edges)
    picture[y0:y1, x0:x1] = shade
