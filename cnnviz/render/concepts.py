"""The importance of concepts as bars, in the colours that the concepts have on images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.class_colours import PALETTE
from cnnviz.render.text import write

_INK, _SOFT, _PAPER = (28, 30, 34), (112, 117, 124), (255, 255, 255)
_MARGIN, _ROW, _NAME, _BAR, _VALUE = 14, 26, 90, 420, 60


def importance_chart(title: str, values: Sequence[float]) -> NDArray[np.uint8]:
    """Bars from 0, the largest value first; the longest is as wide as the chart."""
    width = 2 * _MARGIN + _NAME + _BAR + _VALUE
    canvas = Image.new("RGB", (width, 2 * _MARGIN + 26 + _ROW * len(values)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    write(draw, (_MARGIN, _MARGIN - 2), title, 15, _INK, width - 2 * _MARGIN)
    limit = max([*values, 1e-12])
    for row, concept in enumerate(sorted(range(len(values)), key=lambda each: -values[each])):
        y = _MARGIN + 26 + row * _ROW
        write(draw, (_MARGIN, y + 2), f"concept {concept + 1}", 13, _INK, _NAME - 6)
        x, long = _MARGIN + _NAME, round(_BAR * max(0.0, values[concept]) / limit)
        draw.rectangle((x, y, x + max(1, long), y + _ROW - 8), PALETTE[concept])
        write(draw, (x + long + 8, y + 2), f"{values[concept]:.2f}", 13, _SOFT, _VALUE - 8)
    return np.asarray(canvas)
