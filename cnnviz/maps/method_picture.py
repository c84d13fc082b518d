"""The panel of a run of several methods: what each of them says of an image, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.maps.box_picture import marked
from cnnviz.render.gradient import gradient_image
from cnnviz.render.method_panel import Cell, CellRow, method_panel
from cnnviz.render.overlay import Style, with_unseen
from cnnviz.render.panel import PanelRow
from cnnviz.render.text import percent

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult, TargetMap

_MOST_PREDICTIONS = 3


def method_picture(
    done: ImageResult, rows: Sequence[PanelRow], columns: Mapping[str, tuple[str, str]], style: Style
) -> NDArray[np.uint8]:
    """The photograph and a cell for each method, a row for each target, below what the network predicts.

    Args:
        done: The image and its maps.
        rows: What a panel says of each of the maps.
        columns: By name of a method its title and, of those that the network refuses, why.
        style: How the maps are drawn.
    """
    by_target: dict[str, dict[str, tuple[PanelRow, TargetMap]]] = {}
    for row, item in zip(rows, done.maps, strict=True):
        by_target.setdefault(item.slug, {})[item.method.name] = row, item
    figure = []
    for made in by_target.values():
        # A method that looks at no class says so in its own cell.
        some = next((each for each in made.values() if each[1].method.class_specific), next(iter(made.values())))
        cells = [_cell(done, title, why, made.get(name)) for name, (title, why) in columns.items()]
        label = ", ".join(filter(None, (some[0].label, some[0].value)))
        figure.append(CellRow(label, some[0].probability, cells, some[0].boxes))
    known = [(box, colour) for box, colour, _ in marked(done.truth)]
    return method_panel(done.rgb, figure, style, (done.ref.name, _predicted(done)), known)


def _cell(done: ImageResult, title: str, why: str, made: tuple[PanelRow, TargetMap] | None) -> Cell:
    if made is None:
        return Cell(title, why=why)
    row, item = made
    size = done.rgb.shape[1], done.rgb.shape[0]
    rect, picture = done.geometry.rect, None
    if item.method.colour:
        picture = with_unseen(gradient_image(item.raw, rect, size), done.rgb, rect, size)
    return Cell(title, row, picture, "" if item.method.class_specific else "looks at no class")


def _predicted(done: ImageResult) -> str:
    said = []
    for each in done.predictions[:_MOST_PREDICTIONS]:
        said.append(each.label if each.probability is None else f"{each.label} {percent(each.probability)}")
    return f"predicted: {', '.join(said)}" if said else ""
