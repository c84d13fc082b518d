"""What a detector finds, numbered, and the maps of its boxes: one figure an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.render.class_colours import colours_of_classes
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.legend import frame
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
    class_index: int
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


def class_colours(boxes: Sequence[NumberedBox]) -> dict[int, Colour]:
    """A colour for each class, as ``colours_of_classes`` has them, that of the best box asked first."""
    return colours_of_classes(list(dict.fromkeys(each.class_index for each in boxes)))


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
    rgb: Picture, size: tuple[int, int], boxes: Sequence[NumberedBox], colours: Mapping[int, Colour]
) -> Picture:
    """The photograph with every box in the colour of its class, its number in a corner; the best on top."""
    height, width = rgb.shape[:2]
    across, down = width / size[0], height / size[1]
    page = Image.fromarray(rgb)
    draw = ImageDraw.Draw(page)
    places = []
    for each in boxes:
        x0, y0, x1, y1 = each.box.edges
        places.append(Box.from_edges(x0 * across, y0 * down, x1 * across, y1 * down).within((width, height)))
    for each, place in zip(reversed(boxes), reversed(places), strict=True):
        frame(draw, place, colours[each.class_index], 2)
    # The best box has its number where it likes; the tags lie on all frames, so that none is crossed by a line.
    taken: list[Box] = []
    for each, place in zip(boxes, places, strict=True):
        tag = _tag_of(str(each.number), place, (width, height), taken)
        taken.append(tag)
        colour, ink = colours[each.class_index], (255, 255, 255)
        draw.rectangle(tag.edges, fill=colour, outline=(0, 0, 0))
        draw.text((tag.x + 3, tag.y + 1), str(each.number), font=font(_TAG), fill=_INK if sum(colour) > 330 else ink)
    return np.array(page, dtype=np.uint8)


def _tag_of(text: str, box: Box, size: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Where a number stands: in that corner of its box where it hides least of the numbers that are there."""
    wide, high = round(font(_TAG).getlength(text)) + 6, _TAG + 4
    x0, y0, x1, y1 = (round(edge) for edge in box.edges)
    corners = [(x0, y0), (x1 - wide, y0), (x0, y1 - high), (x1 - wide, y1 - high)]
    within = [
        Box(max(0, min(x, size[0] - wide - 1)), max(0, min(y, size[1] - high - 1)), wide, high) for x, y in corners
    ]
    return min(within, key=lambda tag: sum(_shared(tag, other) for other in taken))


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes share, and one pixel around them."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.edges, b.edges
    return max(0.0, min(ax1, bx1) - max(ax0, bx0) + 1) * max(0.0, min(ay1, by1) - max(ay0, by0) + 1)


def _names(boxes: Sequence[NumberedBox], colours: Mapping[int, Colour], size: tuple[int, int]) -> Picture:
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    room = max(1, (size[1] - _LINE) // _LINE)
    columns = 1 if len(boxes) <= room else 2
    width = size[0] // columns
    for place, each in enumerate(boxes[: columns * room]):
        x, y = place // room * width, 4 + place % room * _LINE
        draw.rectangle((x, y + 2, x + 13, y + 15), fill=colours[each.class_index])
        write(draw, (x + 22, y), f"{each.number}  {each.label}", 14, _INK, width - 90)
        draw.text((x + width - 12, y), percent(each.score), font=font(14), fill=_SOFT, anchor="ra")
    if len(boxes) > columns * room:
        write(draw, (22, 4 + room * _LINE), f"and {len(boxes) - columns * room} more", 13, _SOFT, size[0] - 22)
    return np.asarray(page)
