"""What is asked for by a click on a photograph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import Rect
from cnnviz.maps.target_list import TargetList
from cnnviz.serve.activations import LayerValues

_NEURONS = 6


def cell_at(x: float, y: float, rect: Rect, cells: tuple[int, int]) -> tuple[int, int]:
    """The cell (row, column) that holds a place.

    Args:
        x, y: In pixels of the photograph.
        rect: The part of the photograph that the cells cover evenly.
        cells: Rows and columns.

    Raises:
        CnnvizError: The network did not see the place.
    """
    column = (x - rect[0]) / (rect[2] - rect[0]) * cells[1]
    row = (y - rect[1]) / (rect[3] - rect[1]) * cells[0]
    if not (0 <= column < cells[1] and 0 <= row < cells[0]):
        raise CnnvizError(
            f"The network did not see the place {x:.0f}, {y:.0f}: it lies outside of its crop.",
            "Click inside the frame, or start with --view whole or --view squash.",
        )
    return math.floor(row), math.floor(column)


def of_parts(found: TargetList, x: float, y: float) -> list[dict[str, Any]]:
    """What a click asks for on a network with scores at positions, or on a detector: most likely meant first.

    Raises:
        CnnvizError: Nothing lies there.
    """
    return _boxes(found, x, y) if found.boxes else _segments(found, x, y)


def _boxes(found: TargetList, x: float, y: float) -> list[dict[str, Any]]:
    rows = []
    for box in found.boxes:
        left, top, width, height = box.box_xywh
        if left <= x <= left + width and top <= y <= top + height:
            rows.append((width * height, box))
    if not rows:
        raise CnnvizError("No box lies there.", "Click inside a box, or choose one from the list.")
    rows.sort(key=lambda row: row[0])
    return [{"target": f"box:{box.number}", "label": f"{box.number} {box.label}", "why": "box"} for _, box in rows]


def _segments(found: TargetList, x: float, y: float) -> list[dict[str, Any]]:
    assert found.classes is not None
    rect = found.item.geometry.rect
    row, column = cell_at(x, y, rect, (found.classes.shape[0], found.classes.shape[1]))
    rows: list[dict[str, Any]] = []
    for each in found.asked:
        if each.cells is not None:
            at = cell_at(x, y, rect, (each.cells.shape[0], each.cells.shape[1]))
            if each.cells[at]:
                rows.append({"target": each.spec, "label": f"{each.label}, this segment", "why": "segment"})
    index = int(found.classes[row, column])
    label = found.labels[index]
    point = f"class:{index}@point:{round(x)},{round(y)}"
    rows.append({"target": point, "label": f"{label}, at this point", "why": "point"})
    rows.append({"target": f"class:{index}", "label": f"{label}, wherever it is found", "why": "class"})
    return rows


def of_neurons(values: LayerValues, rect: Rect, x: float, y: float) -> list[dict[str, Any]]:
    """The neurons of a layer that fire most at a place, each against what its channel does elsewhere.

    A channel that is strong everywhere says little of a place: they are ordered by the activation over the largest of
    the channel in this image, then by the activation. Those that an activation such as ReLU6 cut off come last: no
    gradient passes there.

    Raises:
        CnnvizError: The network did not see the place.
    """
    row, column = cell_at(x, y, rect, values.cells)
    here: NDArray[np.float32] = values.values[:, row, column]
    largest = np.maximum(values.values.max(axis=(1, 2)), np.float32(1e-12))
    share = np.where(here > 0, here / largest, -1.0)
    top = values.values.max()
    cut_off = (here == top) & (int((values.values == top).sum()) > 1)
    order = np.lexsort((-here, -np.round(share, 2), cut_off))[:_NEURONS]
    return [
        {
            "target": f"neuron:{values.layer}:{channel}:{row}:{column}",
            "label": f"channel {channel} of {values.layer}, row {row}, column {column}",
            "why": "neuron",
            "activation": float(here[channel]),
        }
        for channel in order.tolist()
    ]
