"""Pictures of attacks: the noise made visible, clean beside adversarial, and accuracy over epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.colormap import NEUTRAL
from cnnviz.render.grid import fit, paste, resize
from cnnviz.render.text import font, length, percent, write

_MARGIN, _GAP, _HEADING, _CAPTION = 24, 14, 26, 48
_CELL, _LEAST, _MOST_FOR_WORDS = 420, 240, 320
_SMALL, _LARGE = 14, 17
_INK, _SOFT, _LINE, _FILL, _BAND = (28, 30, 34), (112, 117, 124), (216, 219, 223), (66, 105, 208), (217, 225, 246)
_PLOT, _AXIS = (620, 380), 72
_SHIFT = 4

Picture = NDArray[np.uint8]


def noise_picture(clean: Picture, changed: Picture, amplify: float) -> Picture:
    """128 + amplify * (changed - clean), cut off at 0 and 255: what an attack added, centred on grey.

    Args:
        clean: [H, W, 3].
        changed: [H, W, 3].
        amplify: Factor on differences of 8 bits.
    """
    moved = changed.astype(np.int16) - clean
    # A table: photographs are large, and there are only 511 differences.
    table = np.clip(np.rint(NEUTRAL + amplify * np.arange(-255, 256)), 0, 255).astype(np.uint8)
    return np.asarray(table[moved + 255])


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture of a figure with a heading above and two lines below."""

    heading: str
    picture: Picture
    caption: str = ""
    detail: str = ""


def room_of(cells: Sequence[Cell]) -> tuple[int, int]:
    """(W, H) that each cell of a figure takes, with the gap beside and below it."""
    _, (width, height) = _sizes(cells)
    return width + _GAP, _HEADING + height + _CAPTION + _GAP


def _sizes(cells: Sequence[Cell]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(W, H) of all pictures, as the first has it, and of the room of each, in which what is written is whole."""
    height, width = cells[0].picture.shape[:2]
    longest = min(_CELL, max(_LEAST, width, height))
    shown = fit((width, height), (longest, longest))
    written = max(
        max(length(each.caption, _LARGE), *(length(text, _SMALL) for text in (each.heading, each.detail)))
        for each in cells
    )
    return shown, (max(shown[0], _LEAST, min(written, _MOST_FOR_WORDS)), shown[1])


def comparison(rows: Sequence[Sequence[Cell | None]], title: str) -> Picture:
    """Pictures of one size in rows on white.

    Args:
        rows: Cells of one row each; None leaves a place empty. The first row's first cell gives the size.
        title: Written above.
    """
    shown, cell = _sizes([each for row in rows for each in row if each is not None])
    step = _HEADING + cell[1] + _CAPTION
    top = _MARGIN + 34
    size = (top + len(rows) * (step + _GAP), 2 * _MARGIN + len(rows[0]) * (cell[0] + _GAP) - _GAP, 3)
    canvas: Picture = np.full(size, 255, dtype=np.uint8)
    placed = [
        (each, (_MARGIN + column * (cell[0] + _GAP), top + row * (step + _GAP)))
        for row, cells in enumerate(rows)
        for column, each in enumerate(cells)
        if each is not None
    ]
    for each, (x, y) in placed:
        paste(canvas, resize(each.picture, shown), (x, y + _HEADING), cell)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 6), title, 20, _INK, size[1] - 2 * _MARGIN)
    for each, (x, y) in placed:
        write(draw, (x, y + 2), each.heading, _SMALL, _SOFT, cell[0])
        write(draw, (x, y + _HEADING + cell[1] + 4), each.caption, _LARGE, _INK, cell[0])
        write(draw, (x, y + _HEADING + cell[1] + 26), each.detail, _SMALL, _SOFT, cell[0])
    return np.array(page, dtype=np.uint8)


@dataclass(frozen=True)
class Point:
    """Accuracy at an epsilon, with its confidence interval; ``tick`` is how epsilon is written."""

    epsilon: float
    accuracy: float
    interval: tuple[float, float]
    tick: str


def accuracy_curve(points: Sequence[Point], title: str, axis: str) -> Picture:
    """Accuracy from 0 to 100 % over epsilon, with a band for the intervals.

    Args:
        points: By growing epsilon, at least one.
        title: Written above.
        axis: What epsilon is.
    """
    width, height = _PLOT
    left, top = _AXIS, _MARGIN + 46
    canvas: Picture = np.full((top + height + 74, left + width + 2 * _MARGIN, 3), 255, dtype=np.uint8)
    last = max(points[-1].epsilon, 1e-12)

    def at(epsilon: float, share: float) -> tuple[float, float]:
        return left + width * epsilon / last, top + height * (1 - share)

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas[round(at(0, share)[1]), left : left + width + 1] = _LINE
    ends = [at(p.epsilon, p.interval[1]) for p in points] + [at(p.epsilon, p.interval[0]) for p in reversed(points)]
    cv2.fillPoly(canvas, [_fixed(ends)], _BAND, cv2.LINE_AA, _SHIFT)
    line = [at(p.epsilon, p.accuracy) for p in points]
    cv2.polylines(canvas, [_fixed(line)], False, _FILL, 2, cv2.LINE_AA, _SHIFT)
    for x, y in line:
        cv2.circle(canvas, (round(x * 16), round(y * 16)), 5 * 16, _FILL, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 8), title, 19, _INK, canvas.shape[1] - 2 * _MARGIN)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.text((left - 10, at(0, share)[1]), f"{100 * share:.0f} %", font=font(14), fill=_SOFT, anchor="rm")
    _ticks(draw, [(at(p.epsilon, 0)[0], p.tick) for p in points], top + height + 8)
    _values(draw, [(at(p.epsilon, p.accuracy), percent(p.accuracy)) for p in points])
    draw.text((left + width / 2, top + height + 44), axis, font=font(15), fill=_INK, anchor="ma")
    return np.array(page, dtype=np.uint8)


def _fixed(points: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
    return np.asarray(np.rint(np.array(points) * (1 << _SHIFT)), dtype=np.int32)


def _ticks(draw: ImageDraw.ImageDraw, marks: Sequence[tuple[float, str]], y: int) -> None:
    """Below the axis, each unless it would touch the one before."""
    end = -1e9
    for x, text in marks:
        long = font(14).getlength(text)
        if x - long / 2 > end + 4:
            draw.text((x, y), text, font=font(14), fill=_SOFT, anchor="ma")
            end = x + long / 2


def _values(draw: ImageDraw.ImageDraw, marks: Sequence[tuple[tuple[float, float], str]]) -> None:
    """Above and right of the points, where a falling line leaves room; each unless it would touch the one before."""
    end, level = -1e9, -1e9
    for (x, y), text in marks:
        if x + 5 > end + 4 or abs(y - level) > 20:
            draw.text((x + 5, y - 7), text, font=font(13), fill=_INK, anchor="lb")
            end, level = x + 5 + font(13).getlength(text), y
