"""Scores of concepts as bars beside those of random vectors, and the derivatives of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.grid import thumbnail
from cnnviz.render.text import percent, write

Score = tuple[float, Sequence[float]]
_INK, _SOFT, _PAPER, _LINE = (28, 30, 34), (112, 117, 124), (255, 255, 255), (214, 217, 221)
_CONCEPT, _FAINT, _RANDOM, _AGAINST = (31, 119, 180), (160, 196, 222), (176, 180, 186), (214, 96, 77)
_MARGIN, _BAR, _GROUP, _NAME, _LONG, _VALUE = 14, 16, 50, 150, 380, 150
_SIDE, _ROW = 480, 20


@dataclass(frozen=True)
class Bars:
    """A concept: its mean score with an interval, and the random vectors' own."""

    name: str
    significant: bool
    concept: Score
    random: Score


def score_chart(title: str, rows: Sequence[Bars]) -> NDArray[np.uint8]:
    """Two bars a concept from 0 to 1, with intervals; an asterisk where they differ significantly."""
    width, top = 2 * _MARGIN + _NAME + _LONG + _VALUE, _MARGIN + 30
    canvas = Image.new("RGB", (width, top + _GROUP * len(rows) + 48), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write(draw, (_MARGIN, _MARGIN - 2), title, 15, _INK, width - 2 * _MARGIN)
    left, bottom = _MARGIN + _NAME, top + _GROUP * len(rows)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + round(tick * _LONG)
        draw.line((x, top - 4, x, bottom), _LINE)
        write(draw, (x - 10, bottom + 2), f"{tick:g}", 11, _SOFT, 40)
    for number, row in enumerate(rows):
        y = top + _GROUP * number
        write(draw, (_MARGIN, y + 2), row.name, 13, _INK, _NAME - 10)
        end = _bar(draw, (left, y + 2), row.concept, _CONCEPT if row.significant else _FAINT)
        verdict = "*" if row.significant else "not significant"
        write(draw, (end + 8, y + 1), f"{row.concept[0]:.2f} {verdict}", 13, _INK, width - end - 10)
        end = _bar(draw, (left, y + 4 + _BAR), row.random, _RANDOM)
        write(draw, (end + 8, y + 3 + _BAR), f"{row.random[0]:.2f} random", 12, _SOFT, width - end - 10)
    words = "* differs from random vectors (t test, Bonferroni); lines are 95 % intervals of the mean"
    write(draw, (_MARGIN, bottom + 22), words, 11, _SOFT, width - 2 * _MARGIN)
    return np.asarray(canvas)


def _bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int], score: Score, colour: tuple[int, int, int]) -> int:
    """A bar with its interval; where it ends."""
    (x, y), (value, (low, high)) = corner, score
    draw.rectangle((x, y, x + max(1, round(value * _LONG)), y + _BAR), colour)
    first, last, middle = x + round(low * _LONG), x + round(high * _LONG), y + _BAR // 2
    draw.line((first, middle, last, middle), _INK)
    for end in (first, last):
        draw.line((end, middle - 4, end, middle + 4), _INK)
    return max(last, x + round(value * _LONG))


def derivative_figure(rgb: NDArray[np.uint8], rows: Sequence[tuple[str, float, float]]) -> NDArray[np.uint8]:
    """The image, and a bar to the right (blue) or left (red) for each (concept, derivative, share of positive ones).

    The longest bar of the image is as long as there is room.
    """
    shown = thumbnail(rgb, _SIDE)
    canvas = Image.new("RGB", (_SIDE, shown.shape[0] + 8 + _ROW * len(rows)), _PAPER)
    canvas.paste(Image.fromarray(shown), ((_SIDE - shown.shape[1]) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    limit = max([abs(value) for _, value, _ in rows] + [1e-30])
    for number, (name, value, positive) in enumerate(rows):
        y, middle = shown.shape[0] + 8 + _ROW * number, 250
        write(draw, (2, y), name, 12, _INK, 180)
        end = middle + round(60 * value / limit)
        draw.rectangle((min(middle, end), y + 2, max(middle, end), y + 14), _CONCEPT if value > 0 else _AGAINST)
        write(draw, (322, y), f"{value:+.2g}; above 0: {percent(positive)}", 11, _SOFT, _SIDE - 324)
    return np.asarray(canvas)
