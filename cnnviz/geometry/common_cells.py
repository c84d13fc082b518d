"""Two maps of one image, made comparable: as they are, or on cells that both cover."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap, Rect, place

LONGER = 64
"""Cells along the longer side of an image, where maps have different ones."""
_NEAR = 0.5

Map = NDArray[np.float32]


class Covering(Protocol):
    """A map [h, w], and x0, y0, x1, y1 of the part of the image that it covers, in pixels of the image."""

    @property
    def values(self) -> Map: ...

    @property
    def rect(self) -> Rect: ...


def same_cells(a: Covering, b: Covering) -> bool:
    """Whether two maps have equal grids that cover the same part of the image, to half a pixel."""
    return a.values.shape == b.values.shape and bool(np.allclose(a.rect, b.rect, rtol=0, atol=_NEAR))


def aligned(a: Covering, b: Covering, size: tuple[int, int]) -> tuple[Map, Map] | None:
    """Two maps cell by cell: as they are where their cells are the same, else :func:`on_common_cells`."""
    return (a.values, b.values) if same_cells(a, b) else on_common_cells(a, b, size)


def on_common_cells(a: Covering, b: Covering, size: tuple[int, int]) -> tuple[Map, Map] | None:
    """Both maps where both cover the image, on its cells: 64 along its longer side.

    Args:
        a: One of them.
        b: The other.
        size: (W, H) of the image.

    Returns:
        None where they have no part of the image in common.
    """
    scale = LONGER / max(size)
    cells = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    first, second = (placed_at(each, size, cells, signed=False) for each in (a, b))
    if first is None or second is None:
        return None
    ends = np.array([first.seen, second.seen])
    (x0, y0), (x1, y1) = ends[:, :2].max(axis=0), ends[:, 2:].min(axis=0)
    if x0 >= x1 or y0 >= y1:
        return None
    return _level(a, first.values[y0:y1, x0:x1]), _level(b, second.values[y0:y1, x0:x1])


def _level(each: Covering, part: Map) -> Map:
    """Part of a map, at other cells; of one that is the same everywhere without their rounding, which has ranks."""
    value = each.values.flat[0]
    return np.full_like(part, value) if bool((each.values == value).all()) else part


def placed_at(each: Covering, size: tuple[int, int], shown: tuple[int, int], *, signed: bool) -> PlacedMap | None:
    """A map on its image (W, H) as that is shown at another size; None where it does not touch it."""
    scale = np.array([shown[0] / size[0], shown[1] / size[1]] * 2)
    x0, y0, x1, y1 = (float(edge) for edge in np.array(each.rect) * scale)
    try:
        return place(each.values, (x0, y0, x1, y1), shown, signed=signed)
    except ValueError:
        return None
