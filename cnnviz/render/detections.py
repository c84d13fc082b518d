"""What a detector finds, numbered, and the maps of its boxes: one figure an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.legend import frame
from cnnviz.render.segments import colours_by_rank
from cnnviz.render.text import font, percent, write

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

ASKED: Colour = (255, 204, 0)
"""Colour of the box that a map explains."""
_INK, _SOFT = (28, 30, 34), (112, 117, 124)
_LINE, _TAG, _COLUMNS = 26, 13, 3


@dataclass(frozen=True)
class NumberedBox:
    """A box that was found, in pixels of the photograph."""

    number: int
    label: str
    score: float
    box: Box


@dataclass(frozen=True, eq=False)
class BoxMap:
    """A map on its photograph with the box that it explains."""

    heading: str
    caption: str
    detail: str
    picture: Picture


def class_colours(boxes: Sequence[NumberedBox]) -> dict[str, Colour]:
    """A colour for each class, the best box's first; grey for those that are more than there are colours."""
    return colours_by_rank(list(dict.fromkeys(each.label for each in boxes)))


def detection_figure(
    rgb: Picture, size: tuple[int, int], boxes: Sequence[NumberedBox], maps: Sequence[BoxMap], title: str
) -> Picture:
    """The photograph with its boxes, their names and scores, then the maps.

    Args:
        rgb: [h, w, 3], the photograph at any size.
        size: (W, H) of the photograph.
        boxes: Best first.
        maps: As large as ``rgb``.
        title: Written above.
    """
    colours = class_colours(boxes)
    shown = rgb.shape[1], rgb.shape[0]
    cells = [
        Cell("boxes", numbered(rgb, size, boxes, colours), "", ""),
        Cell("by score", _names(boxes, colours, shown), "", ""),
        *(Cell(each.heading, each.picture, each.caption, each.detail) for each in maps),
    ]
    rows: list[list[Cell | None]] = [list(cells[at : at + _COLUMNS]) for at in range(0, len(cells), _COLUMNS)]
    return comparison([[*row, *[None] * (_COLUMNS - len(row))] for row in rows], title)


def numbered(
    rgb: Picture, size: tuple[int, int], boxes: Sequence[NumberedBox], colours: Mapping[str, Colour]
) -> Picture:
    """The photograph with every box in the colour of its class, its number in a corner; the best on top."""
    height, width = rgb.shape[:2]
    across, down = width / size[0], height / size[1]
    page = Image.fromarray(rgb)
    draw = ImageDraw.Draw(page)
    for each in reversed(boxes):
        x0, y0, x1, y1 = each.box.edges
        inside = Box.from_edges(x0 * across, y0 * down, x1 * across, y1 * down).within((width, height))
        colour = colours[each.label]
        frame(draw, inside, colour, 2)
        text = str(each.number)
        room = round(font(_TAG).getlength(text)) + 6
        x, y = min(round(inside.x), width - room), min(round(inside.y), height - _TAG - 5)
        draw.rectangle((x, y, x + room, y + _TAG + 4), fill=colour, outline=(0, 0, 0))
        draw.text((x + 3, y + 1), text, font=font(_TAG), fill=_INK if sum(colour) > 330 else (255, 255, 255))
    return np.array(page, dtype=np.uint8)


def _names(boxes: Sequence[NumberedBox], colours: Mapping[str, Colour], size: tuple[int, int]) -> Picture:
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    room = max(1, (size[1] - _LINE) // _LINE)
    columns = 1 if len(boxes) <= room else 2
    width = size[0] // columns
    for place, each in enumerate(boxes[: columns * room]):
        x, y = place // room * width, 4 + place % room * _LINE
        draw.rectangle((x, y + 2, x + 13, y + 15), fill=colours[each.label])
        write(draw, (x + 22, y), f"{each.number}  {each.label}", 14, _INK, width - 90)
        draw.text((x + width - 12, y), percent(each.score), font=font(14), fill=_SOFT, anchor="ra")
    if len(boxes) > columns * room:
        write(draw, (22, 4 + room * _LINE), f"and {len(boxes) - columns * room} more", 13, _SOFT, size[0] - 22)
    return np.asarray(page)
