"""Clusters of maps, a row each: the mean map, then photographs with the region that the cluster looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.geometry.placement import Rect
from cnnviz.render.colormap import UNSIGNED_DEFAULT, colormap
from cnnviz.render.grid import fit, paste, resize
from cnnviz.render.text import write

_TILE, _GAP, _LINE, _MARGIN = 128, 6, 22, 12
_COLUMNS = 7
_INK, _SOFT, _ALARM = (28, 30, 34), (112, 117, 124), (190, 30, 30)


@dataclass(frozen=True, eq=False)
class ClusterRow:
    """A cluster.

    Attributes:
        mean: Its mean map [h, w].
        region: What it looks at, in the same cells.
        text: What is said of it.
        photographs: Some of its images, and what the network saw of each.
        alarm: Whether its predictions hang on the region.
    """

    mean: NDArray[np.float64]
    region: NDArray[np.bool_]
    text: str
    photographs: Sequence[tuple[NDArray[np.uint8], Rect]]
    alarm: bool


def cluster_sheet(title: str, rows: Sequence[ClusterRow]) -> NDArray[np.uint8]:
    """The picture [H, W, 3] on white."""
    height = _MARGIN * 2 + _LINE + len(rows) * (_LINE + _TILE + 2 * _GAP)
    width = 2 * _MARGIN + _COLUMNS * _TILE + (_COLUMNS - 1) * _GAP
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    texts: list[tuple[int, str, tuple[int, int, int]]] = [(_MARGIN, title, _INK)]
    top = _MARGIN + _LINE
    for row in rows:
        texts.append((top, row.text, _ALARM if row.alarm else _SOFT))
        top += _LINE
        tiles = [_mean(row), *(_photograph(rgb, rect, row) for rgb, rect in row.photographs[: _COLUMNS - 1])]
        for place, tile in enumerate(tiles):
            paste(canvas, tile, (_MARGIN + place * (_TILE + _GAP), top), (_TILE, _TILE))
        top += _TILE + 2 * _GAP
    page = Image.fromarray(canvas)
    draw = ImageDraw.Draw(page)
    for y, text, colour in texts:
        write(draw, (_MARGIN, y), text, 14, colour, width - 2 * _MARGIN)
    return np.asarray(page)


def _mean(row: ClusterRow) -> NDArray[np.uint8]:
    """The mean map in colours, its largest value the last, with the outline of the region."""
    top = float(row.mean.max()) or 1.0
    levels = np.rint(255 * np.clip(row.mean / top, 0, 1)).astype(np.uint8)
    large = cv2.resize(levels, (_TILE, _TILE), interpolation=cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(colormap(UNSIGNED_DEFAULT)[large])
    return _outlined(picture, row.region, (0.0, 0.0, float(_TILE), float(_TILE)))


def _photograph(rgb: NDArray[np.uint8], rect: Rect, row: ClusterRow) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    size = fit((width, height), (_TILE, _TILE))
    scale = size[0] / width
    x0, y0, x1, y1 = (value * scale for value in rect)
    return _outlined(resize(rgb, size), row.region, (x0, y0, x1, y1))


def _outlined(picture: NDArray[np.uint8], region: NDArray[np.bool_], rect: Rect) -> NDArray[np.uint8]:
    """The region's border in white on black, which shows on any colour."""
    x0, y0, x1, y1 = (round(value) for value in rect)
    mask = cv2.resize(region.astype(np.uint8), (max(1, x1 - x0), max(1, y1 - y0)), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(x0, y0))
    found = picture.copy()
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawContours(found, contours, -1, colour, thickness)
    return found
