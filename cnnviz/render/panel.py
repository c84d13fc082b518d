"""The panel: image, heatmap and overlay side by side, one row a target.

With the five best classes as rows this is the "top-5 predictions" figure of Zhou et al., "Learning Deep
Features for Discriminative Localization", CVPR 2016. Every row has its own colour bar, because every map has
its own unit; the bar says which values are drawn in which colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.box_figure import with_boxes
from cnnviz.render.color_bar import bar_colours, zero_on
from cnnviz.render.grid import fit, in_columns, paste, resize
from cnnviz.render.overlay import UNSEEN, Style, coloured, drawn_colormap, drawn_limits, is_flat, overlay, resized
from cnnviz.render.text import Colour, fitted, font, length, number, percent, wrapped, write

_MARGIN, _GAP, _ROW_GAP, _COLUMN_GAP = 24, 12, 26, 24
_CAPTION, _HEADING = 30, 28
_BAR, _TICK, BAR_WIDTH = 16, 5, 108
_LEAST_CELL = (150, 110)
_LEAST_SIDE = 240
_INK, _SOFT, _LINE, _FILL = (28, 30, 34), (112, 117, 124), (216, 219, 223), (66, 105, 208)
CAUTION = (180, 35, 24)
"""Of what should be known before a map is believed."""
_TITLE_SIZE, _LABEL_SIZE, _SMALL_SIZE = 20, 17, 13
_PROBABILITY_BAR = (72, 8)
# What is written above pictures: between a label and a method, from line to line, how many lines, and how far words may
# push pictures apart.
_APART, _LINES, _MOST_LINES, _MOST_CAUTION, _MOST_FOR_WORDS = 20, 18, 2, 3, 280


@dataclass(frozen=True)
class PanelRow:
    """One explained target of the image.

    Attributes:
        label: The class as people call it; any text.
        probability: 0 to 1, or None when the model has none.
        placed: The map at the image's size.
        method: What made the map.
        limits: The values in the first and the last colour; None for those of the style or the map.
        score: What the network says of the class before probabilities, or None.
        role: Of an image that the network gets wrong: ``truth`` or ``predicted``.
        boxes: What is explained, where that are boxes, with their colours, in pixels of the image.
        value: The score that is explained, by its name, of what has no probability.
        caution: What should be known before the map is believed; empty where there is nothing.
    """

    label: str
    probability: float | None
    placed: PlacedMap
    method: str
    limits: tuple[float, float] | None = None
    score: float | None = None
    role: str = ""
    boxes: Sequence[tuple[Box, tuple[int, int, int]]] = ()
    value: str = ""
    caution: str = ""


def reduced(row: PanelRow, rows: int, style: Style) -> PanelRow:
    """The row with its map at the size that it has in a panel of so many rows, drawn as the whole map would be.

    Many maps at the size of a photograph would take its memory many times.
    """
    height, width = row.placed.values.shape
    small = resized(row.placed, _shown_size((width, height), rows))
    return replace(row, placed=small, limits=drawn_limits(row.placed, style))


def panel(
    rgb: NDArray[np.uint8],
    rows: Sequence[PanelRow],
    style: Style,
    title: str = "",
    boxes: Sequence[tuple[Box, tuple[int, int, int]]] = (),
) -> NDArray[np.uint8]:
    """The figure on white; many targets stand in several columns, down each in turn.

    Args:
        rgb: [H, W, 3], the upright input image.
        rows: At least one target, in the order of the figure.
        title: Written above; none when empty.
        boxes: Drawn on the image alone, with their colours, in its pixels.

    Returns:
        [height, width, 3]. The pictures' longer side is at most 480 pixels (less with more rows), whatever
        the size of the image; small images are enlarged to 240.
    """
    if not rows:
        raise ValueError("a panel needs at least one row")
    shown = _shown_size((rgb.shape[1], rgb.shape[0]), len(rows))
    cell = max(shown[0], _LEAST_CELL[0]), max(shown[1], _LEAST_CELL[1])
    top = _MARGIN + (_CAPTION + 6 if title else 0)
    across = 3 * cell[0] + 2 * _GAP
    said = cautions(rows, across)
    caption = _CAPTION + _LINES * max(map(len, said))
    step = caption + cell[1] + _ROW_GAP
    block = 3 * (cell[0] + _GAP) + BAR_WIDTH
    columns = in_columns(len(rows), (block + _COLUMN_GAP, step))
    width = 2 * _MARGIN + len(columns) * (block + _COLUMN_GAP) - _COLUMN_GAP
    height = top + _HEADING + len(columns[0]) * step - _ROW_GAP + _MARGIN
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    small = resize(rgb, shown)
    image = with_boxes(small, boxes, (rgb.shape[1], rgb.shape[0])) if boxes else small
    corners = [
        (_MARGIN + place * (block + _COLUMN_GAP), top + _HEADING + below * step + caption)
        for place, own in enumerate(columns)
        for below in range(len(own))
    ]
    steps = [place * (cell[0] + _GAP) for place in range(4)]
    for row, (left, y) in zip(rows, corners, strict=True):
        pictures = (image, *drawn(small, row, style))
        for x, picture in zip(steps, pictures, strict=False):
            paste(canvas, with_boxes(picture, row.boxes, (rgb.shape[1], rgb.shape[0])), (left + x, y), cell)
        _paint_bar(canvas, (left + steps[3], y), cell[1], row.placed, _own(style, row))
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    if title:
        write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE_SIZE, _INK, width - 2 * _MARGIN)
    # Below the pictures, where it fits whatever their width.
    write(draw, (_MARGIN, height - _MARGIN + 4), grey_is(rows), _SMALL_SIZE, _SOFT, width - 2 * _MARGIN)
    for left in dict.fromkeys(left for left, _ in corners):
        for x, heading in zip(steps, ("image", "heatmap", "overlay"), strict=False):
            write(draw, (left + x, top), heading, _SMALL_SIZE, _SOFT, cell[0])
    for row, lines, (left, y) in zip(rows, said, corners, strict=True):
        words = y - _CAPTION - _LINES * len(lines)
        _write_caption(draw, row, (left, words), across)
        _write_lines(draw, (left, words + _CAPTION - 6), lines, (_SMALL_SIZE, _LINES, CAUTION))
        _write_bar(draw, (left + steps[3], y), cell[1], row.placed, _own(style, row))
    return np.array(page, dtype=np.uint8)


def cautions(rows: Sequence[PanelRow], across: int) -> list[list[str]]:
    """For each row the lines of what should be known before its map is believed, so many pixels wide."""
    return [wrapped(row.caution, _SMALL_SIZE, across, _MOST_CAUTION) if row.caution else [] for row in rows]


def grey_is(rows: Sequence[PanelRow]) -> str:
    """What the grey means, where there is any."""
    height, width = rows[0].placed.values.shape
    seen_whole = all(row.placed.seen == (0, 0, width, height) for row in rows)
    return "" if seen_whole else UNSEEN


@dataclass(frozen=True, eq=False)
class PictureRow:
    """A target whose pictures are ready: (heading, [H, W, 3]) each, of one size; the same headings in all rows."""

    row: PanelRow
    pictures: Sequence[tuple[str, NDArray[np.uint8]]]


def picture_panel(rows: Sequence[PictureRow], title: str = "") -> NDArray[np.uint8]:
    """Ready pictures side by side on white, one row a target: such as the four panels of the Guided Grad-CAM paper.

    Where what is written above pictures is wider than they are, they stand further apart, and long words are wrapped.

    Args:
        rows: At least one target, in the order of the figure.
        title: Written above; none when empty.

    Returns:
        [height, width, 3].
    """
    if not rows:
        raise ValueError("a panel needs at least one row")
    first = rows[0].pictures
    height, width = first[0][1].shape[:2]
    shown = _shown_size((width, height), max(len(rows), 2 if len(first) > 3 else 1))
    cell = _wide_enough(rows, max(shown[0], _LEAST_CELL[0])), max(shown[1], _LEAST_CELL[1])
    lefts = [_MARGIN + column * (cell[0] + _GAP) for column in range(len(first))]
    across = lefts[-1] + cell[0] - _MARGIN
    titles = wrapped(title, _TITLE_SIZE, across, _MOST_LINES) if title else []
    headings = [wrapped(heading, _SMALL_SIZE, cell[0], _MOST_LINES) for heading, _ in first]
    below = any(_label_length(row.row) + _APART + length(row.row.method, _SMALL_SIZE) > across for row in rows)
    said = cautions([each.row for each in rows], across)
    caption = _CAPTION + _LINES * (below + max(map(len, said)))
    top = _MARGIN + (_CAPTION * len(titles) + 6 if title else 0)
    begin = top + _HEADING + _LINES * (max(map(len, headings)) - 1)
    step = caption + cell[1] + _ROW_GAP
    canvas = np.full((begin + len(rows) * step - _ROW_GAP + _MARGIN, across + 2 * _MARGIN, 3), 255, dtype=np.uint8)
    tops = [begin + index * step + caption for index in range(len(rows))]
    for row, y in zip(rows, tops, strict=True):
        for x, (_, picture) in zip(lefts, row.pictures, strict=True):
            paste(canvas, resize(picture, shown), (x, y), cell)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    _write_lines(draw, (_MARGIN, _MARGIN - 4), titles, (_TITLE_SIZE, _CAPTION, _INK))
    for x, lines in zip(lefts, headings, strict=True):
        _write_lines(draw, (x, top), lines, (_SMALL_SIZE, _LINES, _SOFT))
    for row, lines, y in zip(rows, said, tops, strict=True):
        words = y - _CAPTION - _LINES * (below + len(lines))
        _write_caption(draw, replace(row.row, method="") if below else row.row, (_MARGIN, words), across)
        words += _CAPTION - 6
        if below:
            write(draw, (_MARGIN, words), row.row.method, _SMALL_SIZE, _SOFT, across)
        _write_lines(draw, (_MARGIN, words + _LINES * below), lines, (_SMALL_SIZE, _LINES, CAUTION))
    seen = grey_is([each.row for each in rows])
    write(draw, (_MARGIN, canvas.shape[0] - _MARGIN + 4), seen, _SMALL_SIZE, _SOFT, across)
    return np.array(page, dtype=np.uint8)


def _wide_enough(rows: Sequence[PictureRow], least: int) -> int:
    """The width of a cell in which headings and labels are written whole; no more than words are worth."""
    count = len(rows[0].pictures)
    labels = max(max(_label_length(row.row), length(row.row.method, _SMALL_SIZE)) for row in rows)
    headings = max(length(heading, _SMALL_SIZE) for heading, _ in rows[0].pictures)
    return max(least, min(_MOST_FOR_WORDS, max(headings, -(-(labels - (count - 1) * _GAP) // count))))


def _write_lines(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], how: tuple[int, int, Colour]
) -> None:
    """Lines under each other: ``how`` is the size of the letters, the distance of two lines and the colour."""
    size, distance, colour = how
    for place, line in enumerate(lines):
        draw.text((corner[0], corner[1] + place * distance), line, font=font(size), fill=colour)


def _shown_size(size: tuple[int, int], rows: int) -> tuple[int, int]:
    """(W, H) of a picture in the panel: smaller the more rows there are, enlarged when tiny."""
    most = 480 if rows == 1 else 400 if rows <= 3 else 320
    longest = min(most, max(_LEAST_SIDE, *size))
    return fit(size, (longest, longest))


def drawn(small: NDArray[np.uint8], row: PanelRow, style: Style) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Heatmap in colour, and overlay, drawn at the panel's size so that lines stay thin."""
    height, width = small.shape[:2]
    style, placed = _own(style, row), row.placed
    own = replace(style, limits=drawn_limits(placed, style), colormap=drawn_colormap(placed, style))
    placed = resized(placed, (width, height))
    over = overlay(small, placed, own)
    # Where the network did not look the heatmap shows what the overlay shows.
    x0, y0, x1, y1 = placed.seen
    heat = over.copy()
    if not is_flat(placed):
        heat[y0:y1, x0:x1] = coloured(replace(placed, values=placed.values[y0:y1, x0:x1]), own)
    return heat, over


def bar(height: int, row: PanelRow, style: Style) -> NDArray[np.uint8]:
    """The colour bar of a row with its values, on white [height, BAR_WIDTH, 3]."""
    canvas = np.full((height, BAR_WIDTH, 3), 255, dtype=np.uint8)
    _paint_bar(canvas, (0, 0), height, row.placed, _own(style, row))
    page = Image.fromarray(canvas)
    _write_bar(ImageDraw.Draw(page), (0, 0), height, row.placed, _own(style, row))
    return np.array(page, dtype=np.uint8)


def _own(style: Style, row: PanelRow) -> Style:
    return style if row.limits is None else replace(style, limits=row.limits)


def _paint_bar(
    canvas: NDArray[np.uint8], corner: tuple[int, int], height: int, placed: PlacedMap, style: Style
) -> None:
    """The colour bar, largest value on top: the part of the colour map that the limits use."""
    x, y = corner
    if is_flat(placed):
        canvas[y : y + height, x : x + _BAR] = _LINE
        return
    colours = bar_colours(drawn_colormap(placed, style), drawn_limits(placed, style), height)
    canvas[y : y + height, x : x + _BAR] = colours[::-1][:, None]


def _write_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], height: int, placed: PlacedMap, style: Style
) -> None:
    """The values at the ends of the bar (and at zero), and on signed maps what the two sides mean."""
    x, y = corner[0] + _BAR + 8, corner[1]
    width = BAR_WIDTH - _BAR - 8
    if is_flat(placed):
        write(draw, (x, y - 3), "0 everywhere", _SMALL_SIZE, _SOFT, width)
        return
    low, high = drawn_limits(placed, style)
    bottom = y + height - 14
    write(draw, (x, y - 3), number(high), _SMALL_SIZE, _INK, width)
    write(draw, (x, bottom), number(low), _SMALL_SIZE, _INK, width)
    if not placed.signed:
        return
    # Each side of zero is named where it is tall enough for the word. Zero is marked where it is; close to an end its
    # number stands beside that of the end.
    zero = None
    if (above := zero_on((low, high), height)) is not None:
        row = y + height - 1 - above
        draw.line((corner[0] + _BAR, row, corner[0] + _BAR + _TICK - 1, row), fill=_INK)
        zero = min(max(row - 7, y + 14), bottom - 14)
        write(draw, (x, zero), "0", _SMALL_SIZE, _INK, width)
    if high > 0.0 and (zero is None or zero >= y + 29):
        write(draw, (x, y + 13), "for", _SMALL_SIZE, _SOFT, width)
    if low < 0.0 and (zero is None or zero <= bottom - 32):
        write(draw, (x, bottom - 16), "against", _SMALL_SIZE, _SOFT, width)


def _label_length(row: PanelRow) -> int:
    """The pixels that a label takes, with its probability, or what else is explained of it."""
    if row.probability is None:
        return length(row.label, _LABEL_SIZE) + (14 + length(row.value, _LABEL_SIZE) if row.value else 0)
    return length(row.label, _LABEL_SIZE) + _PROBABILITY_BAR[0] + 30 + length(percent(row.probability), _LABEL_SIZE)


def _write_caption(draw: ImageDraw.ImageDraw, row: PanelRow, corner: tuple[int, int], width: int) -> None:
    """Label and probability on the left, the method on the right."""
    x, y = corner
    method = fitted(row.method, _SMALL_SIZE, max(width // 3, width - _label_length(row) - _APART))
    used = font(_SMALL_SIZE).getlength(method)
    draw.text((x + width - used, y + 6), method, font=font(_SMALL_SIZE), fill=_SOFT)
    figure = "" if row.probability is None else percent(row.probability)
    room = width - int(used) - (_APART if method else 0)
    if figure:
        room -= int(font(_LABEL_SIZE).getlength(figure)) + _PROBABILITY_BAR[0] + 30
    elif row.value:
        room -= length(row.value, _LABEL_SIZE) + 14
    x += write(draw, (x, y), row.label, _LABEL_SIZE, _INK, max(room, 60)) + 14
    if row.probability is None:
        draw.text((x, y), row.value, font=font(_LABEL_SIZE), fill=_SOFT)
        return
    wide, thickness = _PROBABILITY_BAR
    bar_top = y + 8
    draw.rectangle((x, bar_top, x + wide - 1, bar_top + thickness - 1), fill=_LINE)
    filled = round(wide * min(max(row.probability, 0.0), 1.0))
    if filled:
        draw.rectangle((x, bar_top, x + filled - 1, bar_top + thickness - 1), fill=_FILL)
    draw.text((x + wide + 8, y), figure, font=font(_LABEL_SIZE), fill=_SOFT)
