"""The panel of an image that a network gets wrong: the maps of what it shows and of what it is taken for, side by side.

The maps of a method are drawn in one range of values, which the bar at the end has, so that colours can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.boxes import Box
from cnnviz.render.box_figure import with_boxes
from cnnviz.render.grid import fit, paste, resize
from cnnviz.render.overlay import Style, is_flat
from cnnviz.render.panel import BAR_WIDTH, CAUTION, PanelRow, bar, cautions, drawn, grey_is
from cnnviz.render.text import number, percent, write

_MARGIN, _GAP, _ROW_GAP = 24, 14, 22
_TITLE, _HEADING, _LABEL, _DETAIL = 36, 22, 26, 24
_LEAST_CELL = (200, 110)
_COLUMNS, _LINE = 4, 16
_INK, _SOFT = (28, 30, 34), (112, 117, 124)
_ONE_RANGE = "the maps of a method share one range of values"

Picture = NDArray[np.uint8]


def mistake_panel(
    rgb: Picture,
    rows: Sequence[Sequence[PanelRow]],
    style: Style,
    title: str,
    boxes: Sequence[tuple[Box, tuple[int, int, int]]] = (),
) -> Picture:
    """The figure on white: the image, then a column for each class; more than four go on below.

    Args:
        rgb: [H, W, 3], the upright input image.
        rows: The maps of one method each, of the same classes in the same order, and with the same ``limits``.
        style: How they are drawn.
        title: Written above.
        boxes: Drawn on the image alone, with their colours, in its pixels.

    Returns:
        [height, width, 3].
    """
    lines = [row[start : start + _COLUMNS] for row in rows for start in range(0, len(row), _COLUMNS)]
    columns = max(map(len, lines)) + 1
    shown = shown_size((rgb.shape[1], rgb.shape[0]), columns)
    cell = max(shown[0], _LEAST_CELL[0]), max(shown[1], _LEAST_CELL[1])
    lefts = [_MARGIN + column * (cell[0] + _GAP) for column in range(columns + 1)]
    said = max((len(each) for row in rows for each in cautions(row, cell[0])), default=0)
    words = _HEADING + _LABEL + _DETAIL + _LINE * said
    step = words + cell[1] + _ROW_GAP
    width = lefts[-1] + BAR_WIDTH + _MARGIN
    canvas: Picture = np.full((_MARGIN + _TITLE + len(lines) * step + _MARGIN, width, 3), 255, dtype=np.uint8)
    small = resize(rgb, shown)
    image = with_boxes(small, boxes, (rgb.shape[1], rgb.shape[0])) if boxes else small
    tops = [_MARGIN + _TITLE + index * step for index in range(len(lines))]
    for row, top in zip(lines, tops, strict=True):
        pictures = [image, *(drawn(small, each, style)[1] for each in row)]
        for x, picture in zip(lefts, pictures, strict=False):
            paste(canvas, picture, (x, top + words), cell)
        # A map that is zero everywhere has no colours to tell of.
        first = next((each for each in row if not is_flat(each.placed)), row[0])
        canvas[top + words : top + words + cell[1], lefts[-1] : lefts[-1] + BAR_WIDTH] = bar(cell[1], first, style)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 6), title, 20, _INK, width - 2 * _MARGIN)
    told = "; ".join(filter(None, (_ONE_RANGE, grey_is([each for row in rows for each in row]))))
    write(draw, (_MARGIN, canvas.shape[0] - _MARGIN - 4), told, 13, _SOFT, width - 2 * _MARGIN)
    for row, top in zip(lines, tops, strict=True):
        write(draw, (_MARGIN, top), "image", 13, _SOFT, cell[0])
        write(draw, (_MARGIN, top + _HEADING + _LABEL), row[0].method, 13, _SOFT, cell[0])
        for x, each in zip(lefts[1:], row, strict=False):
            _write_words(draw, each, (x, top), cell[0])
    return np.array(page, dtype=np.uint8)


def shown_size(size: tuple[int, int], columns: int) -> tuple[int, int]:
    """(W, H) of a picture in the panel: smaller the more columns there are, enlarged when tiny."""
    longest = min(400 if columns <= 3 else 300, max(240, *size))
    return fit(size, (longest, longest))


def _write_words(draw: ImageDraw.ImageDraw, row: PanelRow, corner: tuple[int, int], width: int) -> None:
    """What the class is to the image, its name, and what the network says of it."""
    x, y = corner
    write(draw, (x, y), row.role, 13, CAUTION if row.role == "predicted" else _SOFT, width)
    write(draw, (x, y + _HEADING - 4), row.label, 18, _INK, width)
    share = [] if row.probability is None else [percent(row.probability)]
    score = [] if row.score is None else [f"score {number(row.score)}"]
    said = ", ".join([*share, *score]) or f"{row.method} looks at no class"
    write(draw, (x, y + _HEADING + _LABEL), said, 13, _SOFT, width)
    for place, line in enumerate(cautions([row], width)[0]):
        write(draw, (x, y + _HEADING + _LABEL + _DETAIL - 6 + place * _LINE), line, 13, CAUTION, width)
