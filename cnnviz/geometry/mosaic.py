"""The maps of overlapping tiles joined into one map of the whole image, without seams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import place


def join(
    maps: Sequence[NDArray[np.float32]],
    corners: Sequence[tuple[int, int]],
    tile: tuple[int, int],
    shown: tuple[int, int],
) -> NDArray[np.float32]:
    """The weighted mean of the maps at every pixel:

        m(p) = sum_t w_t(p) m_t(p) / sum_t w_t(p),   w_t(p) = (1 - |2 y / h - 1|) (1 - |2 x / w - 1|)

    with (y, x) the place of the middle of p in tile t of h x w pixels. A tile's weight falls to zero towards its
    edges, so that the map is continuous where a tile ends; where only one tile is, the map is that tile's own. Values
    keep their unit.

    Args:
        maps: For each tile [..., r, c], of any resolution.
        corners: Top and left of each tile.
        tile: Height and width of a tile in pixels.
        shown: Height and width of the whole.

    Returns:
        [..., height, width] of the whole.
    """
    weight = np.outer(_hat(tile[0]), _hat(tile[1]))
    lead = maps[0].shape[:-2]
    total = np.zeros((*lead, *shown), dtype=np.float64)
    weights = np.zeros(shown, dtype=np.float64)
    for values, (top, left) in zip(maps, corners, strict=True):
        part = np.s_[..., top : top + tile[0], left : left + tile[1]]
        total[part] += weight * _enlarged(values, tile)
        weights[part[1:]] += weight
    return (total / weights).astype(np.float32)


def _hat(length: int) -> NDArray[np.float64]:
    """Above zero at every pixel's middle."""
    return 1.0 - np.abs((2.0 * np.arange(length) + 1.0) / length - 1.0)


def _enlarged(values: NDArray[np.float32], tile: tuple[int, int]) -> NDArray[np.float32]:
    if values.shape[-2:] == tile:
        return values
    height, width = tile
    flat = values.reshape(-1, *values.shape[-2:])
    rect = (0.0, 0.0, float(width), float(height))
    made = np.stack([place(each, rect, (width, height), signed=True).values for each in flat])
    return made.reshape(*values.shape[:-2], height, width)
