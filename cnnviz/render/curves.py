"""Lines of several methods in one plot, such as accuracy over the threshold."""

from __future__ import annotations

import math
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
# Strokes and gaps in pixels.
_DASHES: tuple[tuple[int, ...], ...] = ((), (8, 4), (2, 4), (10, 4, 2, 4))
_TWIN = (12, 12)
Colour = tuple[int, int, int]


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
    for line, colour, dash in painted:
        points = np.array([at(x, y) for x, y in line.points])
        _draw(canvas, points, colour, 1 if line.beside else 2, dash)
    for row, (line, colour, dash) in enumerate(painted):
        middle = top + 12 + 24 * row
        key = np.array([(left + width + 24, middle), (left + width + 52, middle)], dtype=np.float64)
        _draw(canvas, key, colour, 2 if line.beside else 4, dash)
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
    for row, (line, _, _) in enumerate(painted):
        y = top + 12 + 24 * row
        draw.text((left + width + 60, y), fitted(line.name, 15, _LEGEND - 66), font=font(15), fill=_INK, anchor="lm")
    return np.array(page, dtype=np.uint8)


def _ticks(low: float, high: float, whole: bool) -> list[float]:
    """Where the horizontal axis has figures: four to nine, at round numbers; of what counts something at whole ones."""
    if whole:
        return sorted({float(round(low + share * (high - low))) for share in _SHARES})
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(each for each in (2.5 * power, power, power / 2, power / 4, power / 5) if (high - low) / each >= 3)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def _draw(
    canvas: NDArray[np.uint8], points: NDArray[np.float64], colour: Colour, thick: int, dash: Sequence[int]
) -> None:
    """A line through points [N, 2], in strokes and gaps of so many pixels; without any a whole one."""
    for part in [points] if not dash else _strokes(points, dash):
        fixed = np.rint(part * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(canvas, [fixed], False, colour, thick, cv2.LINE_AA, _SHIFT)


def _strokes(points: NDArray[np.float64], dash: Sequence[int]) -> list[NDArray[np.float64]]:
    """The parts of a line through points that are drawn."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    edges = np.cumsum(np.resize(dash, 2 + 2 * math.ceil(along[-1] / min(dash))))
    found, start = [], 0.0
    for place, end in enumerate(edges):
        if start >= along[-1] and place:
            break
        if place % 2 == 0:
            stop = min(float(end), float(along[-1]))
            places = np.concatenate([[start], along[(along > start) & (along < stop)], [stop]])
            found.append(np.stack([np.interp(places, along, points[:, axis]) for axis in (0, 1)], 1))
        start = float(end)
    return found


def _painted(lines: Sequence[Curve]) -> list[tuple[Curve, Colour, Sequence[int]]]:
    """Each line with its colour and its strokes: those that stand beside the methods in greys, told apart by strokes
    too; a method whose line is that of one before it in strokes, so that both are seen."""
    found: list[tuple[Curve, Colour, Sequence[int]]] = []
    own, beside = 0, 0
    for line in lines:
        if line.beside:
            grey = 100 + 35 * (beside % 4)
            found.append((line, (grey, grey, grey), _DASHES[beside % len(_DASHES)]))
            beside += 1
        else:
            same = any(np.allclose(each.points, line.points, atol=1e-3) for each, _, _ in found if _alike(each, line))
            found.append((line, ImageColor.getrgb(PALETTE[own % len(PALETTE)])[:3], _TWIN if same else ()))
            own += 1
    return found


def _alike(one: Curve, other: Curve) -> bool:
    return len(one.points) == len(other.points) and not one.beside
