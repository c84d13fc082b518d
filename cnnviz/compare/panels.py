"""The picture of an image that two runs explain: photograph, map of A, map of B, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.compare.likeness import ComparedMaps
from cnnviz.compare.pairing import PairedMaps
from cnnviz.errors import ImageError
from cnnviz.geometry.common_cells import placed_at
from cnnviz.geometry.placement import PlacedMap
from cnnviz.io.decode import open_image
from cnnviz.io.sources import ImageRef, open_file
from cnnviz.render.colormap import AUTO
from cnnviz.render.grid import fit, resize
from cnnviz.render.overlay import Style, overlay
from cnnviz.render.panel import PanelRow, PictureRow, picture_panel
from cnnviz.render.text import number, percent

_LONGEST = 480
_GREY = 168
_DIFFERENCE = "B - A: red B more, blue A more"


def compared_panel(
    record: Mapping[str, Any], pairs: Sequence[ComparedMaps], sides: tuple[str, str], style: Style
) -> tuple[NDArray[np.uint8] | None, bool]:
    """The figure, a row for each pair of maps.

    Each map is divided by its largest magnitude before the difference. That is drawn by its own largest value, which
    the row says: a picture without colour is no difference, and one with colour may be a small one.

    Args:
        record: The record of A.
        pairs: At least one.
        sides: What A and B are called; empty where no name tells them apart.
        style: Of the maps.

    Returns:
        [height, width, 3], None where no map lies on the image; and whether the photograph could be read: else grey
        stands in its place.
    """
    size = int(record["width"]), int(record["height"])
    longest = min(_LONGEST, max(240, *size))
    shown = fit(size, (longest, longest))
    photograph = _photograph(record, shown)
    rgb = np.full((shown[1], shown[0], 3), _GREY, dtype=np.uint8) if photograph is None else photograph
    a_is, b_is = (f"{side}: {name}" if name else side for side, name in zip("AB", sides, strict=True))
    headings = ("image", a_is, b_is, _DIFFERENCE)
    rows = []
    for each in pairs:
        both = [
            _scaled(lies)
            for kept in (each.a, each.b)
            if kept and (lies := placed_at(kept, size, shown, signed=kept.signed))
        ]
        if len(both) < 2:
            continue
        a, b = both
        difference = _difference(a, b)
        most = float(np.abs(difference.values).max())
        own = replace(style, limits=(-most, most) if most else None, colormap=AUTO)
        pictures = (rgb, overlay(rgb, a, style), overlay(rgb, b, style), overlay(rgb, difference, own))
        row = PanelRow(_label(each.maps), None, a, f"{_most(most)}; {_said(each)}")
        rows.append(PictureRow(row, list(zip(headings, pictures, strict=True))))
    return picture_panel(rows, str(record["name"])) if rows else None, photograph is not None


def _photograph(record: Mapping[str, Any], shown: tuple[int, int]) -> NDArray[np.uint8] | None:
    try:
        with open_file(ImageRef(record["path"], record["name"], 0)) as stream:
            return resize(open_image(stream).decode().rgb, shown)
    except ImageError:
        return None


def _scaled(own: PlacedMap) -> PlacedMap:
    top = float(np.abs(own.values).max())
    return own if top == 0 else replace(own, values=(own.values / np.float32(top)).astype(np.float32))


def _difference(a: PlacedMap, b: PlacedMap) -> PlacedMap:
    """B minus A where both saw the image."""
    ends = np.array([a.seen, b.seen])
    (x0, y0), (x1, y1) = ends[:, :2].max(axis=0), ends[:, 2:].min(axis=0)
    values = np.zeros_like(a.values)
    if x0 >= x1 or y0 >= y1:
        return PlacedMap(values, (0, 0, 1, 1), True)
    values[y0:y1, x0:x1] = b.values[y0:y1, x0:x1] - a.values[y0:y1, x0:x1]
    return PlacedMap(values, (int(x0), int(y0), int(x1), int(y1)), True)


def _label(maps: PairedMaps) -> str:
    first, second = (_sure(each["target"]) for each in (maps.a, maps.b))
    if maps.same:
        own, other = _probability(maps.a["target"]), _probability(maps.b["target"])
        sure = f" (A {own}, B {other})" if own and other else ""
        return f"{maps.a['target'].get('label', '')}{sure}"
    return f"A: {first}; B: {second}"


def _sure(target: Mapping[str, Any]) -> str:
    return " ".join(filter(None, [str(target.get("label", "")), _probability(target)]))


def _probability(target: Mapping[str, Any]) -> str:
    value = target.get("probability")
    return "" if value is None else percent(float(value))


def _most(difference: float) -> str:
    return f"largest |B - A| {number(difference)} of 1" if difference else "no difference"


def _said(pair: ComparedMaps) -> str:
    if pair.found is None or pair.found.spearman is None:
        return f"rank correlation - ({pair.why})"
    return f"rank correlation {pair.found.spearman:.2f}"
