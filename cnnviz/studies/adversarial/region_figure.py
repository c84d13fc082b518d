"""The figure of an attack on a segmentation: picture, noise and adversarial picture, and the predictions below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import Rect, place
from cnnviz.metrics.evidence import classes_at_pixels
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.grid import resize
from cnnviz.render.overlay import with_unseen
from cnnviz.render.segments import areas_of, colours_by_area, enlarged, legend_of_areas, painted, roomy, with_outline

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Attacked:
    """What is drawn of an image.

    Attributes:
        title: Written above.
        pictures: Clean, noise and adversarial [H, W, 3].
        classes: Before and after, [h, w] positions that cover ``rect``.
        region: Shares of positions [h, w]; None for all.
        rect: The part of the pictures that the network saw.
        labels: Class names by index.
        words: What stands above the noise, two lines below it, and what came of it.
    """

    title: str
    pictures: tuple[Picture, Picture, Picture]
    classes: tuple[NDArray[np.int64], NDArray[np.int64]]
    region: NDArray[np.float32] | None
    rect: Rect
    labels: tuple[str, ...]
    words: tuple[str, str, str, str]


def attack_figure(shown: Attacked) -> Picture:
    """Two rows: the pictures, and the predictions with the areas of their classes."""
    height, width = shown.pictures[0].shape[:2]
    clean, noise, after = map(roomy, shown.pictures)
    size = clean.shape[1], clean.shape[0]
    nothing = np.zeros((1, 1), dtype=np.float32)
    whole = place(nothing, shown.rect, (width, height), signed=False)
    before_at, after_at = (classes_at_pixels(each, shown.rect, whole) for each in shown.classes)
    areas = areas_of(before_at), areas_of(after_at)
    every = {index: max(area.get(index, 0.0) for area in areas) for index in {*areas[0], *areas[1]}}
    colours = colours_by_area(every)
    drawn = [
        with_unseen(painted(picture, enlarged(at, size), colours), picture, shown.rect, (width, height))
        for picture, at in ((clean, before_at), (after, after_at))
    ]  # fmt: skip
    if shown.region is not None:
        inside = place(shown.region, shown.rect, (width, height), signed=False).values >= 0.5
        border = resize(inside.astype(np.uint8) * 255, size) >= 128
        clean, drawn = with_outline(clean, border), [with_outline(each, border) for each in drawn]
    legend = [
        (shown.labels[index], colours[index], [each.get(index, 0.0) for each in areas])
        for index in sorted(every, key=lambda index: -every[index])
    ]
    heading, norms, took, came = shown.words
    rows: list[list[Cell | None]] = [
        [
            Cell("image", clean, "", "" if shown.region is None else "outlined: what is attacked"),
            Cell(heading, noise, norms, took),
            Cell("adversarial", after, "", ""),
        ],
        [
            Cell("prediction", drawn[0], "", ""),
            Cell("classes, share of the area before and after", legend_of_areas(legend, size), "", ""),
            Cell("prediction of the adversarial image", drawn[1], came, ""),
        ],
    ]
    return comparison(rows, shown.title)
