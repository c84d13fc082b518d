"""A map of classes over an image: each cell in the colour of its class, and a legend that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.class_colours import OTHER, colours_of_classes
from cnnviz.render.grid import fit, resize
from cnnviz.render.text import font, percent, write

AREA = "share of the area"
"""Heading of the legend's figures."""
_INK, _SOFT = (28, 30, 34), (112, 117, 124)
_MARGIN, _LINE, _LEGEND = 16, 24, 260
_COLOURED = 12
_LONGEST = (240, 640)
_ROWS = 64


def label_map(
    rgb: NDArray[np.uint8],
    classes: NDArray[np.int64],
    centres: tuple[Sequence[float], Sequence[float]],
    names: Mapping[int, str],
    alpha: float = 0.55,
) -> NDArray[np.uint8]:
    """The image under its classes, and beside it the classes by area.

    A pixel belongs to the cell whose centre is nearest to its own.

    Args:
        rgb: [H, W, 3].
        classes: [rows, cols], class index of each cell.
        centres: Row and column of the centre of each row and column of cells, in pixels of the image (0.5 is the
            middle of the first pixel), ascending.
        names: Name of each class that occurs.
        alpha: Weight of the colours.

    Returns:
        [height, width, 3] on white; the twelve classes with the largest area have colours, the rest are grey.
    """
    found = np.unique(classes)
    rows, cols = (nearest_cells(centres[axis], rgb.shape[axis]) for axis in (0, 1))
    area = _areas(rows, cols, classes)
    ranked = sorted(area, key=lambda c: (-area[c], c))
    colours = colours_of_classes(ranked[:_COLOURED])
    lookup = np.array([colours.get(int(c), OTHER) for c in found], dtype=np.float32)
    cells = lookup[np.searchsorted(found, classes)]
    picture = np.empty_like(rgb)
    for top in range(0, len(rgb), _ROWS):  # in strips: in floats a large image would take twelve times its memory
        part = slice(top, top + _ROWS)
        painted = rgb[part] * np.float32(1 - alpha) + cells[rows[part, None], cols[None, :]] * np.float32(alpha)
        picture[part] = np.rint(painted).astype(np.uint8)
    return _with_legend(picture, [(names[c], colours.get(c, OTHER), area[c]) for c in ranked])


def nearest_cells(centres: Sequence[float], length: int) -> NDArray[np.intp]:
    """For each of ``length`` pixels the cell whose centre is nearest; of two, the first."""
    middle = np.arange(length)[:, None] + 0.5
    nearest: NDArray[np.intp] = np.abs(middle - np.asarray(centres, dtype=np.float64)[None, :]).argmin(1)
    return nearest


def areas(
    classes: NDArray[np.int64], centres: tuple[Sequence[float], Sequence[float]], size: tuple[int, int]
) -> dict[int, float]:
    """The share of a picture of (height, width) that each class has, as :func:`label_map` draws it."""
    rows, cols = (nearest_cells(centres[axis], size[axis]) for axis in (0, 1))
    return _areas(rows, cols, classes)


def _areas(rows: NDArray[np.intp], cols: NDArray[np.intp], classes: NDArray[np.int64]) -> dict[int, float]:
    """Share of the image by class."""
    down = np.bincount(rows, minlength=classes.shape[0]) / len(rows)
    across = np.bincount(cols, minlength=classes.shape[1]) / len(cols)
    share = down[:, None] * across[None, :]
    return {int(c): float(share[classes == c].sum()) for c in np.unique(classes)}


def _with_legend(
    picture: NDArray[np.uint8], rows: Sequence[tuple[str, tuple[int, int, int], float]]
) -> NDArray[np.uint8]:
    size = (picture.shape[1], picture.shape[0])
    longest = min(_LONGEST[1], max(_LONGEST[0], *size))
    shown = resize(picture, fit(size, (longest, longest)))
    named, others = rows[:_COLOURED], rows[_COLOURED:]
    lines = list(named)
    if others:
        lines.append((f"{len(others)} other classes", OTHER, sum(share for _, _, share in others)))
    height = max(shown.shape[0], (1 + len(lines)) * _LINE)
    canvas = Image.new("RGB", (shown.shape[1] + _LEGEND + 3 * _MARGIN, height + 2 * _MARGIN), "white")
    canvas.paste(Image.fromarray(shown), (_MARGIN, _MARGIN))
    draw, x = ImageDraw.Draw(canvas), shown.shape[1] + 2 * _MARGIN
    # Beside a class, a bare percentage would be read as its probability.
    draw.text((x + _LEGEND, _MARGIN + 2), AREA, font=font(13), fill=_SOFT, anchor="ra")
    for place, (name, colour, share) in enumerate(lines, 1):
        y = _MARGIN + place * _LINE
        draw.rectangle((x, y + 3, x + 13, y + 16), fill=colour)
        write(draw, (x + 22, y), name, 15, _INK, _LEGEND - 90)
        draw.text((x + _LEGEND, y), percent(share), font=font(15), fill=_SOFT, anchor="ra")
    return np.asarray(canvas)
