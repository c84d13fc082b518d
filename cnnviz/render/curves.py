"""Lines of several methods in one plot, such as accuracy over the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from cnnviz.render.embedding import PALETTE
from cnnviz.render.text import fitted, font, number, write

_MARGIN, _AXIS, _PLOT, _LEGEND = 24, 64, (620, 380), 250
_INK, _SOFT, _LINE = (28, 30, 34), (112, 117, 124), (216, 219, 223)
_SHIFT = 4
# Of an axis: where it has figures.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curve:
    """A line: points (x, y), of shares with y from 0 to 1.

    ``beside`` says that it is no method but what one must beat: it is drawn thin and grey.
    """

    name: str
    points: Sequence[tuple[float, float]]
    beside: bool = False


def curves(
    lines: Sequence[Curve], title: str, axis: str, limits: tuple[float, float] | None = None, *, whole: bool = False
) -> NDArray[np.uint8]:
    """The plot on white: y from 0 to 100 %, x over the range of the points, names at the right.

    Args:
        lines: At least one, with at least one point each.
        title: Written above.
        axis: What x is.
        limits: The lowest and the highest y, of what is no share; None for shares.
        whole: Whether x counts something, such as epochs: there is nothing between two of them.
    """
    width, height = _PLOT
    left, top = _AXIS, _MARGIN + 46
    rows = max(height, 24 * len(lines))
    canvas = np.full((top + rows + 74, left + width + _LEGEND + _MARGIN, 3), 255, dtype=np.uint8)
    every = [x for line in lines for x, _ in line.points]
    low, high = min(every), max(every)
    span = (high - low) or 1.0
    bottom, rise = (0.0, 1.0) if limits is None else (limits[0], (limits[1] - limits[0]) or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * (x - low) / span, top + height * (1 - (y - bottom) / rise)

    for share in _SHARES:
        canvas[round(at(low, bottom + share * rise)[1]), left : left + width + 1] = _LINE
    painted = _painted(lines)
    for line, colour in painted:
        points = np.rint(np.array([at(x, y) for x, y in line.points]) * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(canvas, [points], False, colour, 1 if line.beside else 2, cv2.LINE_AA, _SHIFT)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 8), title, 19, _INK, canvas.shape[1] - 2 * _MARGIN)
    for share in _SHARES:
        y = bottom + share * rise
        tick = f"{100 * share:.0f} %" if limits is None else number(y)
        draw.text((left - 10, at(low, y)[1]), tick, font=font(14), fill=_SOFT, anchor="rm")
    for x in _ticks(low, high, whole):
        draw.text((at(x, bottom)[0], top + height + 10), f"{x:.3g}", font=font(14), fill=_SOFT, anchor="ma")
    draw.text((left + width / 2, top + height + 40), axis, font=font(15), fill=_INK, anchor="ma")
    for row, (line, colour) in enumerate(painted):
        y = top + 12 + 24 * row
        draw.line((left + width + 24, y, left + width + 52, y), fill=colour, width=2 if line.beside else 4)
        draw.text((left + width + 60, y), fitted(line.name, 15, _LEGEND - 66), font=font(15), fill=_INK, anchor="lm")
    return np.array(page, dtype=np.uint8)


def _ticks(low: float, high: float, whole: bool) -> list[float]:
    """Where the horizontal axis has figures."""
    if whole:
        return sorted({float(round(low + share * (high - low))) for share in _SHARES})
    return [low + share * ((high - low) or 1.0) for share in _SHARES]


def _painted(lines: Sequence[Curve]) -> list[tuple[Curve, tuple[int, int, int]]]:
    """Each line with its colour; those that stand beside the methods in greys."""
    found, own, beside = [], 0, 0
    for line in lines:
        if line.beside:
            grey = 100 + 35 * (beside % 4)
            found.append((line, (grey, grey, grey)))
            beside += 1
        else:
            found.append((line, ImageColor.getrgb(PALETTE[own % len(PALETTE)])[:3]))
            own += 1
    return found
