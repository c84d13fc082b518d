"""Patches of images side by side: crops that are padded and never squeezed, with a field and a value in white.

The arrangement is that of Girshick et al., "Rich feature hierarchies", CVPR 2014, figure 4, and of Zeiler & Fergus,
"Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.colormap import NEUTRAL
from cnnviz.render.gradient import gradient_limit
from cnnviz.render.grid import fit, resize
from cnnviz.render.text import font, length, number, wrapped, write

Edges = tuple[float, float, float, float]
"""x0, y0, x1, y1."""

FRAMES = "Thick frame: the receptive field; thin frame, where the field is nearly the whole image: the unit's own cell."
"""What the frames of a crop are, for captions."""
SHEET = 128
"""Units that one page holds: of more, patches would be too small to be looked at."""
_VALUES = "The number on a patch is the activation."
PADDING = 52
"""Grey of what lies outside the image."""
_BLANK, _INK, _SOFT, _WHITE, _BLACK = 232, (28, 30, 34), (112, 117, 124), (255, 255, 255), (0, 0, 0)
_PIXELATED_FROM = 4.0
_GAP, _MARGIN = 4, 10
_LEAST_MARKED, _LEAST_VALUED = 40, 64
_WORDS, _LEAST_WORDS = 12, 72
_FACT, _MOST_FACTS = 16, 4
# What a number's band leaves of the brightness of the patch.
_BAND = 0.3


@dataclass(frozen=True, eq=False)
class Tile:
    """A crop, ready to be shown.

    Attributes:
        picture: [S, S, 3], padded to a square.
        gradient: [S, S, 3] of the same part of the image, or None.
        field: The receptive field in pixels of ``picture``; it may reach outside.
        cell: The unit's own cell, drawn too where the field is nearly the whole image; or None.
        value: The activation.
    """

    picture: NDArray[np.uint8]
    gradient: NDArray[np.uint8] | None
    field: Edges
    cell: Edges | None
    value: float


@dataclass(frozen=True, eq=False)
class UnitRow:
    """A unit's patches, best first; ``tiles`` has None where the unit did not fire or no patch was found.

    Attributes:
        layer: Its name.
        unit: The unit's own, within the layer.
        facts: What is said of it.
        tiles: Of each patch, in one order in all rows.
    """

    layer: str
    unit: str
    facts: str
    tiles: Sequence[Tile | None]


def cut(rgb: NDArray[np.uint8], box: Edges, longest: int) -> NDArray[np.uint8]:
    """A part of an image at a size of its own, with :data:`PADDING` where it reaches outside.

    Args:
        rgb: [H, W, 3].
        box: The part, in pixels of the image (edge coordinates); fractions are kept.
        longest: The longer side of the crop in pixels.

    Returns:
        [h, w, 3] of the box's aspect ratio: smoothed when it shrinks, squares when it grows a lot.
    """
    x0, y0, x1, y1 = box
    width, height = fit_box(box, longest)
    out = np.full((height, width, 3), PADDING, dtype=np.uint8)
    seen = (max(x0, 0.0), max(y0, 0.0), min(x1, float(rgb.shape[1])), min(y1, float(rgb.shape[0])))
    if seen[0] >= seen[2] or seen[1] >= seen[3]:
        return out
    across, down = width / (x1 - x0), height / (y1 - y0)
    left, right = _span((seen[0] - x0) * across, (seen[2] - x0) * across, width)
    top, bottom = _span((seen[1] - y0) * down, (seen[3] - y0) * down, height)
    # Pillow would copy the whole image: only what is needed goes there.
    ox, oy = int(seen[0]), int(seen[1])
    part = np.ascontiguousarray(rgb[oy : int(np.ceil(seen[3])), ox : int(np.ceil(seen[2]))])
    grown = max(across, down) >= _PIXELATED_FROM
    method = Image.Resampling.NEAREST if grown else Image.Resampling.BILINEAR
    edges = (seen[0] - ox, seen[1] - oy, seen[2] - ox, seen[3] - oy)
    out[top:bottom, left:right] = np.asarray(Image.fromarray(part).resize((right - left, bottom - top), method, edges))
    return out


def fit_box(box: Edges, longest: int) -> tuple[int, int]:
    """(W, H) of a box's crop."""
    wide, high = box[2] - box[0], box[3] - box[1]
    scale = longest / max(wide, high)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def _span(start: float, stop: float, length: int) -> tuple[int, int]:
    first = min(round(start), length - 1)
    return first, max(first + 1, min(round(stop), length))


def gradient_crop(raw: NDArray[np.float32], window: Edges, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The gradient of a unit, in the same part of the image as a crop: 128 + 127 v / limit, grey where it is zero.

    The limit is the 99th percentile of the magnitudes that are not zero, within the window.

    Args:
        raw: [C, h, w], C = 3 in red, green, blue, or 1.
        window: The part in pixels of ``raw``; outside the gradient is zero.
        size: (W, H) of the crop.
    """
    x0, y0 = int(np.floor(window[0])), int(np.floor(window[1]))
    x1, y1 = int(np.ceil(window[2])), int(np.ceil(window[3]))
    part = np.zeros((raw.shape[0], y1 - y0, x1 - x0), dtype=np.float32)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x1, raw.shape[2]), min(y1, raw.shape[1])
    if left < right and top < bottom:
        part[:, top - y0 : bottom - y0, left - x0 : right - x0] = raw[:, top:bottom, left:right]
    limit = gradient_limit(part)
    scaled = np.clip(part / np.float32(limit), -1.0, 1.0) if limit > 0.0 else part
    picture = np.rint(NEUTRAL + 127.0 * scaled).astype(np.uint8).transpose(1, 2, 0)
    picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    edges = (window[0] - x0, window[1] - y0, window[2] - x0, window[3] - y0)
    grown = size[0] / (edges[2] - edges[0]) >= _PIXELATED_FROM
    method = Image.Resampling.NEAREST if grown else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).resize(size, method, edges), dtype=np.uint8)


def square(picture: NDArray[np.uint8], side: int, fill: int = PADDING) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The picture in the middle of a square [side, side, 3], and where its corner (x, y) lies."""
    height, width = picture.shape[:2]
    x, y = (side - width) // 2, (side - height) // 2
    out = np.full((side, side, 3), fill, dtype=np.uint8)
    out[y : y + height, x : x + width] = picture
    return out, (x, y)


def unit_picture(row: UnitRow, side: int) -> NDArray[np.uint8]:
    """One unit: a heading, its crops with field and activation, and below them their gradients if there are any.

    Returns:
        [H, W, 3] on white.
    """
    rows = 2 if any(tile is not None and tile.gradient is not None for tile in row.tiles) else 1
    step = side + _GAP
    width = 2 * _MARGIN + max(len(row.tiles), 1) * step - _GAP
    room = width - 2 * _MARGIN
    facts = wrapped(row.facts, 13, room, _MOST_FACTS)
    heading = 30 + len(facts) * _FACT
    canvas = np.full((_MARGIN + heading + rows * step - _GAP + _MARGIN, width, 3), 255, dtype=np.uint8)
    _paint(canvas, row.tiles, (_MARGIN, _MARGIN + heading), side, rows)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    taken = write(draw, (_MARGIN, _MARGIN - 2), row.unit, 18, _INK, room) + _MARGIN
    # The unit is never cut off; a layer that has no room beside it is said by the caption.
    if taken + length(row.layer, 13) <= room:
        write(draw, (_MARGIN + taken, _MARGIN + 2), row.layer, 13, _SOFT, room - taken)
    for line, text in enumerate(facts):
        write(draw, (_MARGIN, _MARGIN + 22 + line * _FACT), text, 13, _SOFT, room)
    return np.array(page, dtype=np.uint8)


def sheet(count: int, columns: int, row: Callable[[int], UnitRow]) -> NDArray[np.uint8]:
    """Units on one page, smaller the more there are, and below them the layer and what the frames are.

    Args:
        count: Units, at most :data:`SHEET`.
        columns: Patches of each.
        row: Unit i; asked for one after the other, so that no more than one need be in memory.

    Returns:
        [H, W, 3] on white.
    """
    side = next(size for most, size in ((24, 96), (64, 72), (SHEET, 48)) if count <= most)
    line, first = 18, row(0)
    some = first if _has_patches(first) else next(filter(_has_patches, map(row, range(1, count))), first)
    rows = 2 if side >= _LEAST_VALUED and _has_gradients(some) else 1
    wide, high = max(columns * (side + 2), _LEAST_WORDS) + 2 * _MARGIN, line + rows * (side + 2) + _GAP + 2
    across = max(1, min(count, round((count * high * 1.3 / wide) ** 0.5)))
    down = -(-count // across)
    across = -(-count // down)
    canvas = np.full((down * high + 2 * _MARGIN, across * wide, 3), 255, dtype=np.uint8)
    words: list[tuple[tuple[int, int], str]] = []
    for index in range(count):
        found = row(index) if index else first
        # Down the columns: neighbours stay neighbours.
        x, y = (index // down) * wide + _MARGIN, (index % down) * high + _MARGIN
        words.append(((x, y), _that_fits(found.unit, found.facts, wide - 2 * _MARGIN)))
        _paint(canvas, [_scaled(tile, side) for tile in found.tiles], (x, y + line), side, rows, 2)
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    for corner, text in words:
        write(draw, corner, text, _WORDS, _INK, wide - 2 * _MARGIN)
    sheet = np.array(page, dtype=np.uint8)
    return np.concatenate([sheet, _footer(sheet.shape[1], side, first.layer)])


def _that_fits(unit: str, facts: str, room: int) -> str:
    """The unit, and of what is said of it as many statements as have room: none is cut in two."""
    said = unit
    for place, fact in enumerate(re.split("[,;] ", facts)):
        longer = f"{said}{', ' if place else ': '}{fact}"
        if length(longer, _WORDS) > room:
            break
        said = longer
    return said


def _footer(width: int, side: int, layer: str) -> NDArray[np.uint8]:
    """The layer, what the frames are, and the numbers where patches are large enough for them."""
    size, step, room = 12, 16, width - 2 * _MARGIN
    said = f"{layer}. {FRAMES}" if side < _LEAST_VALUED else f"{layer}. {FRAMES} {_VALUES}"
    lines = wrapped(said, size, room, len(said))
    page = Image.new("RGB", (width, len(lines) * step + _MARGIN), _WHITE)
    for row, line in enumerate(lines):
        write(ImageDraw.Draw(page), (_MARGIN, row * step), line, size, _SOFT, room)
    return np.array(page, dtype=np.uint8)


def _has_patches(row: UnitRow) -> bool:
    """Not of a unit that never fired."""
    return any(tile is not None for tile in row.tiles)


def _has_gradients(row: UnitRow) -> bool:
    return any(tile is not None and tile.gradient is not None for tile in row.tiles)


def _scaled(tile: Tile | None, side: int) -> Tile | None:
    if tile is None:
        return None
    scale = side / tile.picture.shape[0]
    field, cell = ((e[0] * scale, e[1] * scale, e[2] * scale, e[3] * scale) if e else None
                   for e in (tile.field, tile.cell))  # fmt: skip
    assert field is not None
    gradient = None if tile.gradient is None else resize(tile.gradient, (side, side))
    return Tile(resize(tile.picture, (side, side)), gradient, field, cell, tile.value)


def _paint(
    canvas: NDArray[np.uint8], tiles: Sequence[Tile | None], corner: tuple[int, int], side: int, rows: int,
    gap: int = _GAP,
) -> None:  # fmt: skip
    for column, tile in enumerate(tiles):
        x, y = corner[0] + column * (side + gap), corner[1]
        pictures = (None, None) if tile is None else (marked(tile), tile.gradient)
        for place, picture in enumerate(pictures[:rows]):
            top = y + place * (side + gap)
            canvas[top : top + side, x : x + side] = _BLANK if picture is None else picture


def marked(tile: Tile) -> NDArray[np.uint8]:
    """The crop with its receptive field in white between dark lines, and its activation in white on a dark band."""
    picture = tile.picture.copy()
    side = picture.shape[0]
    if side < _LEAST_MARKED:
        return picture
    thick = 2 if side >= 96 else 1
    _rectangle(picture, tile.field, thick)
    if tile.cell is not None:
        _rectangle(picture, tile.cell, 1)
    if side < _LEAST_VALUED:
        return picture
    size = 15 if side >= 96 else 12
    text, pad = number(tile.value), 3
    x0, y0, x1, y1 = (round(edge) for edge in font(size).getbbox(text))
    wide, high = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
    band = picture[side - high :, : min(wide, side)]
    band[...] = (band * np.float32(_BAND)).astype(np.uint8)
    page = Image.fromarray(picture)
    ImageDraw.Draw(page).text((pad - x0, side - high + pad - y0), text, font=font(size), fill=_WHITE)
    return np.array(page, dtype=np.uint8)


def _rectangle(picture: NDArray[np.uint8], edges: Edges, thick: int) -> None:
    """Lines just inside the edges; those that lie outside the picture are not drawn."""
    side = picture.shape[0]
    x0, y0, x1, y1 = (round(float(np.clip(edge, -2 * side, 3 * side))) for edge in edges)
    for grow, colour, width in ((1, _BLACK, 1), (0, _WHITE, thick), (-thick, _BLACK, 1)):
        for inset in range(width):
            inner = inset - grow
            corners = (x0 + inner, y0 + inner), (x1 - 1 - inner, y1 - 1 - inner)
            if corners[0][0] < corners[1][0] and corners[0][1] < corners[1][1]:
                cv2.rectangle(picture, *corners, colour, 1)


__all__ = [
    "FRAMES", "PADDING", "SHEET", "Edges", "Tile", "UnitRow", "cut", "fit", "fit_box", "gradient_crop", "marked",
    "sheet", "square", "unit_picture",
]  # fmt: skip
