"""What a segmentation network sees, and on what the evidence for a region lies: one figure an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cnnviz.render.box_figure import reduced
from cnnviz.render.class_colours import Colour, colours_of_classes
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.grid import resize
from cnnviz.render.label_map import AREA
from cnnviz.render.text import font, percent, write

Picture = NDArray[np.uint8]

_INK, _SOFT = (28, 30, 34), (112, 117, 124)
_ALPHA = 0.6
_LINE, _MOST, _NAME, _SHARE = 26, 10, 118, 58
_LEAST = 420


@dataclass(frozen=True)
class Bar:
    """How much of a map lies on one class.

    ``area`` is the share that it would be if the map were the same everywhere.
    """

    label: str
    colour: Colour
    share: float
    area: float


@dataclass(frozen=True, eq=False)
class SegmentTile:
    """A map on its photograph, outlined, with the evidence by class."""

    heading: str
    caption: str
    detail: str
    picture: Picture
    bars: Sequence[Bar]


def colours_by_area(areas: Mapping[int, float]) -> dict[int, Colour]:
    """A colour for each class, as ``colours_of_classes`` has them, the largest asked first."""
    return colours_of_classes(sorted(areas, key=lambda index: (-areas[index], index)))


def areas_of(classes: NDArray[np.int64], seen: int | None = None) -> dict[int, float]:
    """The share of each class of the pixels that were seen, of a map of classes that is negative where there is none.

    Args:
        classes: [H, W].
        seen: How many pixels were seen; without it all that have a class.
    """
    counts = np.bincount(classes[classes >= 0])
    count = counts.sum() if seen is None else seen
    return {int(index): float(counts[index] / count) for index in np.flatnonzero(counts)}


def roomy(rgb: Picture) -> Picture:
    """A photograph at the size that it has in a figure: neither too large, nor too small for words beside it."""
    small = reduced(rgb)
    scale = max(1.0, _LEAST / max(small.shape[:2]))
    return resize(small, (round(small.shape[1] * scale), round(small.shape[0] * scale)))


def painted(rgb: Picture, classes: NDArray[np.int64], colours: Mapping[int, Colour]) -> Picture:
    """The photograph under the colours of its classes.

    Args:
        rgb: [h, w, 3].
        classes: [h, w]; where it is negative the photograph stays as it is.
        colours: By class.
    """
    lookup = np.zeros((max(colours, default=0) + 2, 3), dtype=np.float32)
    for index, colour in colours.items():
        lookup[index] = colour
    mixed = rgb * np.float32(1 - _ALPHA) + lookup[classes] * np.float32(_ALPHA)
    found: Picture = np.where(classes[..., None] < 0, rgb, np.rint(mixed).astype(np.uint8))
    return found


def with_outline(picture: Picture, inside: NDArray[np.bool_]) -> Picture:
    """The picture with a light line between dark ones along the border of a region [h, w]."""
    lines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    found = picture.copy()
    thick = max(1, round(max(picture.shape[:2]) / 360))
    for colour, width in (((20, 20, 20), 3 * thick), ((255, 255, 255), thick)):
        cv2.drawContours(found, lines, -1, colour, width, cv2.LINE_AA)
    return found


def numbered(picture: Picture, parts: Sequence[NDArray[np.bool_]]) -> Picture:
    """The picture with the borders of its parts [h, w], each with its number from 1, there where it is widest."""
    found = picture
    for inside in parts:
        found = with_outline(found, inside)
    page = Image.fromarray(found)
    draw = ImageDraw.Draw(page)
    size = max(12, round(max(picture.shape[:2]) / 28))
    for number, inside in enumerate(parts, 1):
        # A border of nothing, so that a part at the edge of the picture is not widest there.
        room = cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(room.argmax()), room.shape)
        at = float(column) + 0.5, float(row) + 0.5
        box = draw.textbbox(at, str(number), font=font(size), anchor="mm")
        draw.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill=_INK)
        draw.text(at, str(number), font=font(size), fill="white", anchor="mm")
    return np.asarray(page)


def evidence_bars(bars: Sequence[Bar], size: tuple[int, int]) -> Picture:
    """Bars on white, (width, height): the share of the map on each class, and a tick where its area would put it."""
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    room = size[0] - _NAME - _SHARE
    shown = bars[: max(1, min(_MOST, (size[1] - _LINE) // _LINE))]
    for place, bar in enumerate(shown):
        y = 4 + place * _LINE
        write(draw, (0, y), bar.label, 13, _INK, _NAME - 8)
        draw.rectangle((_NAME, y + 2, _NAME + max(1, round(room * bar.share)), y + 15), fill=bar.colour)
        tick = _NAME + round(room * bar.area)
        draw.line((tick, y - 1, tick, y + 18), fill=_INK, width=2)
        draw.text((size[0] - 2, y + 1), percent(bar.share), font=font(13), fill=_SOFT, anchor="ra")
    write(draw, (0, 6 + len(shown) * _LINE), "bar: share of the map; line: share of the area", 12, _SOFT, size[0])
    return np.asarray(page)


def segment_figure(
    rgb: Picture, prediction: Picture, names: Sequence[Bar], tiles: Sequence[SegmentTile], title: str
) -> Picture:
    """The photograph and the prediction with its classes, then each map with the evidence by class.

    Args:
        rgb: [h, w, 3], the photograph.
        prediction: The same under the colours of its classes.
        names: The classes with their areas.
        tiles: The maps, at the photograph's size.
        title: Written above.
    """
    size = rgb.shape[1], rgb.shape[0]
    rows: list[list[Cell | None]] = [
        [
            Cell("image", rgb, "", ""),
            Cell("prediction", prediction, "", ""),
            Cell("classes", legend(names, size), "", ""),
        ]
    ]
    for tile in tiles:
        bars = evidence_bars(tile.bars, size)
        rows.append(
            [
                None,
                Cell(tile.heading, tile.picture, tile.caption, tile.detail),
                Cell("evidence by class", bars, "", ""),
            ]
        )
    return comparison(rows, title)


def listing_figure(rgb: Picture, marked: Picture, names: Sequence[Bar], title: str) -> Picture:
    """The photograph, its numbered parts, and their names with their areas."""
    size = rgb.shape[1], rgb.shape[0]
    cells = [
        Cell("image", rgb, "", ""),
        Cell("segments", marked, "", "--target segment:N"),
        Cell("classes", legend(names, size), "", ""),
    ]
    return comparison([cells], title)


def legend(names: Sequence[Bar], size: tuple[int, int]) -> Picture:
    """Classes with their colour and area on white, (width, height), and below them what the figures are."""
    return legend_of_areas([(bar.label, bar.colour, (bar.area,)) for bar in names], size, AREA)


def legend_of_areas(
    rows: Sequence[tuple[str, Colour, Sequence[float]]], size: tuple[int, int], said: str = ""
) -> Picture:
    """Classes with their colour and one or several areas on white, (width, height).

    Args:
        rows: Name, colour and areas of each.
        size: Where there is no room for all, it is said how many more there are.
        said: Written below them: what the figures are.
    """
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    room = max(1, size[1] // _LINE - bool(said))
    shown = rows if len(rows) <= room else rows[: max(1, room - 1)]
    for place, (label, colour, areas) in enumerate(shown):
        y = 4 + place * _LINE
        draw.rectangle((0, y + 2, 13, y + 15), fill=colour)
        write(draw, (22, y), label, 14, _INK, size[0] - 20 - 80 * len(areas))
        for column, area in enumerate(reversed(areas)):
            draw.text((size[0] - 2 - 78 * column, y), percent(area), font=font(14), fill=_SOFT, anchor="ra")
    more = [f"and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
    for place, text in enumerate([*more, said], len(shown)):
        write(draw, (22 if text in more else 0, 4 + place * _LINE), text, 13, _SOFT, size[0])
    return np.asarray(page)


def enlarged(classes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """A map of classes at another size (width, height), each pixel that of the nearest cell."""
    rows = (np.arange(size[1]) + 0.5) * classes.shape[0] / size[1]
    cols = (np.arange(size[0]) + 0.5) * classes.shape[1] / size[0]
    found: NDArray[np.int64] = classes[rows.astype(np.intp)[:, None], cols.astype(np.intp)[None, :]]
    return found
