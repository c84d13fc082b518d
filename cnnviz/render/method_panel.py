"""The panel of several methods: the image, then a cell for each method; a row for each target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.box_figure import with_boxes
from cnnviz.render.color_bar import lying_bar
from cnnviz.render.grid import fit, in_columns, paste, resize
from cnnviz.render.overlay import Style, drawn_colormap, drawn_limits, is_flat
from cnnviz.render.panel import CAUTION, PanelRow, cautions, drawn, grey_is
from cnnviz.render.text import number, percent, write

_MARGIN, _GAP, _ROW_GAP, _COLUMN_GAP = 24, 12, 20, 36
_TITLE, _SAID, _LABEL, _HEADING, _DETAIL, _FOOT = 28, 26, 28, 20, 20, 22
_COLUMNS, _LEAST_WIDTH, _WORDS, _LINE = 5, 150, 13, 16
# The line that says what colours mean: its height, and a bar in it.
_COLOURS, _BAR = 22, (72, 12)
_INK, _SOFT, _PAPER = (28, 30, 34), (112, 117, 124), (243, 244, 246)
_OWN_RANGE = "each map has a range of values of its own"

Picture = NDArray[np.uint8]
Boxes = Sequence[tuple[Box, tuple[int, int, int]]]


@dataclass(frozen=True, eq=False)
class Cell:
    """What one method says of a target.

    Attributes:
        heading: The method as people write it.
        row: Its map; None where there is none.
        picture: What is shown in the place of an overlay: raw values that are a picture of their own.
        why: Why there is no map; or what else should be known of it.
    """

    heading: str
    row: PanelRow | None = None
    picture: Picture | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class CellRow:
    """A target, how sure the network is of it, and its cells: the same methods in every row.

    ``boxes`` are what is explained, where that are boxes, in pixels of the image.
    """

    label: str
    probability: float | None
    cells: Sequence[Cell]
    boxes: Boxes = ()


def method_panel(
    rgb: Picture, rows: Sequence[CellRow], style: Style, words: tuple[str, str], boxes: Boxes = ()
) -> Picture:
    """The figure on white: more than five methods go on below, under the first of them, and many targets stand in
    several columns, down each in turn.

    Args:
        rgb: [H, W, 3], the upright input image.
        rows: At least one target, in the order of the figure.
        style: How maps are drawn.
        words: The title, and what is said of the image below it.
        boxes: Drawn on the image alone, with their colours, in its pixels.

    Returns:
        [height, width, 3]. The pictures' longer side is at most 320 pixels, 240 with more than four methods.
    """
    lines = [_lines(row) for row in rows]
    columns = max(len(line) for own in lines for line in own) + 1
    longest = min(320 if columns <= 5 and len(lines) * len(lines[0]) < 4 else 240, max(200, *rgb.shape[:2]))
    shown = fit((rgb.shape[1], rgb.shape[0]), (longest, longest))
    cell = max(shown[0], _LEAST_WIDTH), shown[1]
    block = columns * (cell[0] + _GAP) - _GAP
    shown_maps = [(each.row, each.picture) for row in rows for each in row.cells if each.row is not None]
    maps = [row for row, _ in shown_maps]
    said = _LINE * max((len(lines) for lines in cautions(maps, cell[0])), default=0)
    below = _HEADING + cell[1] + _DETAIL + said + _ROW_GAP
    stacks = in_columns(len(rows), (block + _COLUMN_GAP, _LABEL + len(lines[0]) * below))
    width = 2 * _MARGIN + len(stacks) * (block + _COLUMN_GAP) - _COLUMN_GAP
    begin = _MARGIN + _TITLE + (_SAID if words[1] else 0)
    coloured = [row.placed for row, picture in shown_maps if picture is None and not is_flat(row.placed)]
    foot = _FOOT + _COLOURS * bool(coloured)
    height = begin + max(sum(_LABEL + len(lines[row]) * below for row in stack) for stack in stacks) + foot
    page = Image.fromarray(np.full((height, width, 3), 255, dtype=np.uint8))
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 4), words[0], 20, _INK, width - 2 * _MARGIN)
    write(draw, (_MARGIN, _MARGIN - 4 + _TITLE), words[1], 16, _INK, width - 2 * _MARGIN)
    pictures = _Pictures(rgb, resize(rgb, shown), boxes, style, cell, below)
    for place, stack in enumerate(stacks):
        top = begin
        for row in stack:
            pictures.draw(page, rows[row], lines[row], (_MARGIN + place * (block + _COLUMN_GAP), top))
            top += _LABEL + len(lines[row]) * below
    _write_colours(page, coloured, style, height - foot - 8)
    told = [_OWN_RANGE] if style.limits is None else []
    told += [grey_is(maps)] if maps else []
    write(draw, (_MARGIN, height - _FOOT - 8), "; ".join(filter(None, told)), 13, _SOFT, width - 2 * _MARGIN)
    return np.array(page, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class _Pictures:
    """How targets are drawn: the image and its size in the panel, what is drawn on it alone, the room of a cell, and
    the distance of two lines of cells.
    """

    rgb: Picture
    small: Picture
    boxes: Boxes
    style: Style
    cell: tuple[int, int]
    below: int

    def draw(self, page: Image.Image, row: CellRow, lines: Sequence[Sequence[Cell]], corner: tuple[int, int]) -> None:
        """The label of a target, the image, and its cells line by line."""
        (left, top), cell, draw = corner, self.cell, ImageDraw.Draw(page)
        size, shown = self.rgb.shape[1::-1], self.small.shape[1::-1]
        across = (1 + max(map(len, lines))) * (cell[0] + _GAP) - _GAP
        sure = "" if row.probability is None else f" {percent(row.probability)}"
        write(draw, corner, f"{row.label}{sure}", 17, _INK, across)
        top += _LABEL
        write(draw, (left, top), "image", 13, _SOFT, cell[0])
        image = with_boxes(with_boxes(self.small, self.boxes, size), row.boxes, size)
        _put(page, image, (left, top + _HEADING), cell)
        for line in lines:
            for place, each in enumerate(line, 1):
                x = left + place * (cell[0] + _GAP)
                _draw_cell(page, each, (self.small, self.style), (x, top), cell)
                if each.row is not None and row.boxes:
                    region = (x + (cell[0] - shown[0]) // 2, top + _HEADING)
                    crop = np.array(page.crop((*region, region[0] + shown[0], region[1] + shown[1])))
                    page.paste(Image.fromarray(with_boxes(crop, row.boxes, size)), region)
            top += self.below


def _write_colours(page: Image.Image, coloured: Sequence[PlacedMap], style: Style, y: int) -> None:
    """A bar for each kind of map that is drawn: how the colours go from the smallest value to the largest."""
    x, draw = _MARGIN, ImageDraw.Draw(page)
    kinds = {placed.signed: drawn_colormap(placed, style) for placed in coloured}
    for signed, name in sorted(kinds.items()):
        low, first, last = (-1.0, "against", "for") if signed else (0.0, "0", "most")
        x += write(draw, (x, y), first, _WORDS, _SOFT, page.width) + 6
        lying_bar(page, (x, y + 3), _BAR, name, (low, 1.0))
        x += _BAR[0] + 6
        x += write(draw, (x, y), last, _WORDS, _SOFT, page.width) + 20


def _lines(row: CellRow) -> list[Sequence[Cell]]:
    """Cells by line: as even as they come, so that none stands alone."""
    count = -(-len(row.cells) // _COLUMNS)
    most = -(-len(row.cells) // count)
    return [row.cells[start : start + most] for start in range(0, len(row.cells), most)]


def _draw_cell(
    page: Image.Image, each: Cell, on: tuple[Picture, Style], corner: tuple[int, int], cell: tuple[int, int]
) -> None:
    """The name of a method, its map, and the values between which it is drawn; or why there is none."""
    (small, style), (x, y), draw = on, corner, ImageDraw.Draw(page)
    write(draw, corner, each.heading, 14, _INK, cell[0])
    y += _HEADING
    if each.row is None:
        draw.rectangle((x, y, x + cell[0] - 1, y + cell[1] - 1), fill=_PAPER)
        # The font has about two letters in its height.
        for number_of, line in enumerate(wrap(f"left out: {each.why}", max(8, cell[0] * 2 // _WORDS - 4))):
            if 10 + (number_of + 1) * 17 <= cell[1]:
                write(draw, (x + 8, y + 8 + number_of * 17), line, _WORDS, _SOFT, cell[0] - 16)
        return
    over = drawn(small, each.row, style)[1] if each.picture is None else resize(each.picture, small.shape[1::-1])
    _put(page, over, (x, y), cell)
    if each.picture is None:
        limits = each.row.limits or drawn_limits(each.row.placed, style)
        ends = " to ".join(number(value) for value in limits)
        told = "zero everywhere" if is_flat(each.row.placed) else ends
    else:
        told = "grey is zero"
    write(draw, (x, y + cell[1] + 3), ", ".join(filter(None, (told, each.why))), _WORDS, _SOFT, cell[0])
    for place, line in enumerate(cautions([each.row], cell[0])[0]):
        write(draw, (x, y + cell[1] + _DETAIL + place * _LINE), line, _WORDS, CAUTION, cell[0])


def _put(page: Image.Image, picture: Picture, corner: tuple[int, int], cell: tuple[int, int]) -> None:
    canvas = np.full((cell[1], cell[0], 3), 255, dtype=np.uint8)
    paste(canvas, picture, (0, 0), cell)
    page.paste(Image.fromarray(canvas), corner)
