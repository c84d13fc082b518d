"""Pictures of an embedding: the scatter with its legend, the grid of thumbnails, the sheet of neighbours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.grid import fit, paste, resize
from cnnviz.render.text import font, printable, write

PALETTE = ("#4269d0", "#efa20f", "#e4462f", "#2ba89b", "#3a9a4b", "#f277ae", "#9a57e8", "#7b5a41", "#8fbbf0", "#a5b532")
"""Colours of the categories; the next ten have the same colours as diamonds."""
MOST_CATEGORIES = 2 * len(PALETTE)
OTHER_COLOUR = "#a3a8ae"

_PANEL, _MARGIN, _GAP, _HEAD, _LINE = 760, 28, 28, 40, 26
_INK, _SOFT, _FRAME = (28, 30, 34), (112, 117, 124), (216, 219, 223)
_SAME, _DIFFERENT = (58, 154, 75), (228, 70, 47)
_TOP = _MARGIN + _HEAD
_ANNOTATED, _LABEL = 250, 12
_SHIFT = 4  # bits of a fraction of a pixel, as OpenCV draws

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Categories:
    """Labels sorted into those with a colour of their own and the rest.

    Attributes:
        names: At most 20, in natural order; category k has colour ``k % 10`` and is a diamond from 10 on.
        counts: Number of items of each.
        of: [N] category of each item, -1 for the rest.
        rest: What the rest is called; empty when there is none.
        labels: The label of each item, or None.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    of: NDArray[np.int64]
    rest: str
    labels: tuple[str | None, ...]

    def colour(self, category: int) -> str:
        return PALETTE[category % len(PALETTE)] if category >= 0 else OTHER_COLOUR

    def is_diamond(self, category: int) -> bool:
        return category >= len(PALETTE)


def categorize(labels: Sequence[str | None], most: int = MOST_CATEGORIES) -> Categories:
    """Give the most frequent labels a colour of their own.

    With more labels than colours, one that a single item bears gets none: its name says more beside its point.
    """
    counts = Counter(label for label in labels if label is not None)
    chosen = sorted(counts, key=lambda label: (-counts[label], _natural(label)))
    if len(chosen) > most:
        chosen = [label for label in chosen if counts[label] > 1][:most]
    names = tuple(sorted(chosen, key=_natural))
    place = {name: k for k, name in enumerate(names)}
    of = np.array([-1 if label is None else place.get(label, -1) for label in labels], dtype=np.int64)
    others, unlabelled = len(counts) - len(names), sum(label is None for label in labels)
    said = [f"{others} {'other ' * bool(names)}label{'s' * (others > 1)}"] if others else []
    said += ["no label"] if unlabelled else []
    return Categories(names, tuple(counts[name] for name in names), of, " and ".join(said), tuple(labels))


def colour_heading(kind: str, categories: Categories) -> str:
    """What the colours mean; or why every point is grey.

    Args:
        kind: ``label`` or ``prediction``.
        categories: Of the points.
    """
    if categories.names or all(label is None for label in categories.labels):
        return f"colour: {kind}"
    count = len({label for label in categories.labels if label is not None})
    return f"no colours: {count} different {kind}s, of one image each, are more than the {MOST_CATEGORIES} colours"


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return (*((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts), (2, 0, text))


@dataclass(frozen=True, eq=False)
class View:
    """A projection: its name and its points [N, 2], the second coordinate upwards."""

    title: str
    points: NDArray[np.float64]


def placed(points: NDArray[np.float64], room: float = 0.04) -> NDArray[np.float64]:
    """Points in the unit square, one scale for both axes, the second coordinate downwards, ``room`` at the edges."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max())
    scale = (1.0 - 2.0 * room) / extent if extent > 0 else 0.0
    centred = (points - (low + high) / 2.0) * scale
    return np.asarray(np.column_stack((0.5 + centred[:, 0], 0.5 - centred[:, 1])))


def scatter(views: Sequence[View], categories: Categories, heading: str) -> Picture:
    """Projections side by side, with one legend.

    Args:
        views: At least one.
        categories: Of their points.
        heading: What the colours mean; stands above the legend.
    """
    named = zip(categories.names, categories.counts, strict=True)
    entries = [(k, f"{name} ({count})") for k, (name, count) in enumerate(named)]
    entries += [(-1, categories.rest)] if categories.rest else []
    width = 2 * _MARGIN + len(views) * (_PANEL + _GAP) - _GAP
    columns = max(1, (width - 2 * _MARGIN) // 250)
    rows = -(-len(entries) // columns)
    top = _MARGIN + _HEAD + _PANEL + _GAP
    canvas: Picture = np.full((top + _HEAD + rows * _LINE + _MARGIN // 2, width, 3), 255, dtype=np.uint8)
    lefts = [_MARGIN + place * (_PANEL + _GAP) for place in range(len(views))]
    corners = [(left, _MARGIN + _HEAD) for left in lefts]
    where = [placed(view.points) * (_PANEL - 1) + corner for view, corner in zip(views, corners, strict=True)]
    for corner, points in zip(corners, where, strict=True):
        cv2.rectangle(canvas, corner, (corner[0] + _PANEL - 1, corner[1] + _PANEL - 1), _FRAME, 1)
        _draw_points(canvas, points, categories)
    boxes = [
        (_MARGIN + (k % columns) * ((width - 2 * _MARGIN) // columns), top + _HEAD + (k // columns) * _LINE)
        for k in range(len(entries))
    ]
    for (category, _), (x, y) in zip(entries, boxes, strict=True):
        _mark(canvas, (x + 8.0, y + 10.0), 7.0, category, categories)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    for view, left, points in zip(views, lefts, where, strict=True):
        write(draw, (left, _MARGIN), view.title, 20, _INK, _PANEL)
        _annotate(draw, points, categories, left)
    write(draw, (_MARGIN, top), heading, 17, _INK, width - 2 * _MARGIN)
    for (_, text), (x, y) in zip(entries, boxes, strict=True):
        write(draw, (x + 24, y), text, 15, _INK, (width - 2 * _MARGIN) // columns - 36)
    return np.array(page, dtype=np.uint8)


def point_radius(count: int) -> float:
    """Pixels of a point's radius: smaller the more there are."""
    return float(np.clip(30.0 / count**0.3, 1.6, 7.0))


def _draw_points(canvas: Picture, points: NDArray[np.float64], categories: Categories) -> None:
    radius = point_radius(len(points))
    # Shuffled, so that no category lies over all others because it came last; those without a colour below.
    order = np.random.default_rng(0).permutation(len(points))
    order = order[np.argsort(categories.of[order] >= 0, kind="stable")]
    for place in order:
        x, y = points[place]
        _mark(canvas, (float(x), float(y)), radius, int(categories.of[place]), categories)


def _mark(canvas: Picture, centre: tuple[float, float], radius: float, category: int, categories: Categories) -> None:
    """A disc or a diamond with a thin white edge."""
    text = categories.colour(category)
    colour = tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))
    x, y = (round(value * (1 << _SHIFT)) for value in centre)
    for size, paint in ((radius + 1.0, (255, 255, 255)), (radius, colour)):
        reach = round(size * (1 << _SHIFT))
        if categories.is_diamond(category):
            reach = round(1.15 * reach)
            corners = np.array([[x - reach, y], [x, y - reach], [x + reach, y], [x, y + reach]], dtype=np.int32)
            cv2.fillConvexPoly(canvas, corners, paint, cv2.LINE_AA, _SHIFT)
        else:
            cv2.circle(canvas, (x, y), reach, paint, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _annotate(draw: ImageDraw.ImageDraw, points: NDArray[np.float64], categories: Categories, left: int) -> None:
    """Beside points that no colour names: the label, wherever it covers neither another nor a point.

    Rather none than one that cannot be read; the page and the table have them all.
    """
    if len(points) > _ANNOTATED:
        return
    face, radius = font(_LABEL), point_radius(len(points)) + 1.0
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y in points.tolist()]
    for place in np.flatnonzero(categories.of < 0):
        label = categories.labels[place]
        if label is None:
            continue
        text = printable(label)[:24]
        (x, y), ink = points[place], face.getbbox(text)
        long, gap = face.getlength(text), radius + 2.0
        for corner in ((x + gap, y - 8.0), (x - gap - long, y - 8.0), (x - long / 2, y + gap - 2.0),
                       (x - long / 2, y - gap - 14.0)):  # fmt: skip
            box = (corner[0] + ink[0] - 1, corner[1] + ink[1] - 1, corner[0] + ink[2] + 1, corner[1] + ink[3] + 1)
            free = all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3] for t in taken)
            inside = left < box[0] and box[2] < left + _PANEL and box[1] > _TOP and box[3] < _TOP + _PANEL
            if free and inside:
                draw.text(corner, text, font=face, fill=_SOFT)
                taken.append(box)
                break


def thumbnail_grid(
    read: Callable[[int], Picture], cells: NDArray[np.int64], shape: tuple[int, int], side: int
) -> Picture:
    """Every image in its cell, its middle cut out square; an empty cell is white.

    Args:
        read: The thumbnail [H, W, 3] of image i.
        cells: [N, 2] row and column of each image.
        shape: (rows, columns) of the grid.
        side: Pixels of a cell; every cell ends in a white line of one pixel.
    """
    canvas: Picture = np.full((shape[0] * side, shape[1] * side, 3), 255, dtype=np.uint8)
    for place, (row, column) in enumerate(cells.tolist()):
        y, x = row * side, column * side
        canvas[y : y + side - 1, x : x + side - 1] = square(read(place), side - 1)
    return canvas


def cell_side(columns: int, width: int = 2000) -> int:
    """Pixels of a cell so that the grid is about ``width`` wide: 12 to 120."""
    return int(np.clip(width // max(columns, 1), 12, 120))


def square(image: Picture, side: int) -> Picture:
    """The middle of an image, cut square, at ``side`` pixels."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return resize(image[top : top + edge, left : left + edge], (side, side))


@dataclass(frozen=True, eq=False)
class Near:
    """An image of the sheet: its thumbnail, a line of text, and whether its label is that of the first of its row."""

    image: Picture
    text: str
    same: bool | None = None


def neighbour_sheet(rows: Sequence[Sequence[Near]], heading: str, across: int = 3) -> Picture:
    """Rows of an image and its neighbours, nearest first, several rows side by side.

    Neighbours with the same label have a green bar below them, those with another a red one.
    """
    cell, step, tall = 96, 104, 140
    block = max(len(row) for row in rows) * step + 44
    across = min(across, len(rows))
    down = -(-len(rows) // across)
    size = (_MARGIN + _HEAD + down * tall, 2 * _MARGIN + across * block - 44 + 12, 3)
    canvas: Picture = np.full(size, 255, dtype=np.uint8)
    texts: list[tuple[tuple[int, int], str, bool]] = []
    for place, row in enumerate(rows):
        y = _MARGIN + _HEAD + (place // across) * tall
        for rank, near in enumerate(row):
            x = _MARGIN + (place % across) * block + rank * step + (12 if rank else 0)
            shown = resize(near.image, fit((near.image.shape[1], near.image.shape[0]), (cell, cell)))
            paste(canvas, shown, (x, y), (cell, cell))
            if near.same is not None:
                canvas[y + cell + 2 : y + cell + 6, x : x + cell] = _SAME if near.same else _DIFFERENT
            texts.append(((x, y + cell + 8), near.text, rank == 0))
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 6), heading, 17, _INK, size[1] - 2 * _MARGIN)
    for corner, text, first in texts:
        write(draw, corner, text, 12, _INK if first else _SOFT, cell)
    return np.array(page, dtype=np.uint8)
