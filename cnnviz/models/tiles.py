"""Overlapping crops that cover a whole image at the scale of the network's own transform."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cnnviz.models.preprocess import Geometry

# Neighbours share at least this much of their side, so that what one cuts in two is whole in the other.
_OVERLAP = 0.25


def corners(shown: tuple[int, int], tile: tuple[int, int]) -> list[tuple[int, int]]:
    """The top left corner of each tile, row by row: as few as overlap by a quarter of their side, evenly spaced.

    Args:
        shown: Height and width of the resized image, at least those of a tile.
        tile: Height and width of a tile.
    """
    down, across = (_starts(length, side) for length, side in zip(shown, tile, strict=True))
    return [(top, left) for top in down for left in across]


def _starts(length: int, side: int) -> list[int]:
    left = length - side
    if left == 0:
        return [0]
    gaps = math.ceil(left / (side * (1 - _OVERLAP)))
    return [round(number * left / gaps) for number in range(gaps + 1)]


def cut(pixels: Tensor, places: Sequence[tuple[int, int]], tile: tuple[int, int]) -> Tensor:
    """The tiles [T, C, h, w] of a resized image [C, H, W]."""
    height, width = tile
    return torch.stack([pixels[:, top : top + height, left : left + width] for top, left in places])


def xywh(
    place: tuple[int, int], tile: tuple[int, int], shown: tuple[int, int], geometry: Geometry
) -> tuple[float, float, float, float]:
    """Where a tile lies in the image: x, y, width, height in its pixels, clipped to it.

    Args:
        place: The tile's top left corner.
        tile: Its height and width.
        shown: Height and width of the resized image.
        geometry: Where the resized image lies in the image.
    """
    (top, left), (height, width), (wide, high) = place, tile, geometry.image_size
    x0, y0 = geometry.to_image(left, top, (shown[1], shown[0]))
    x1, y1 = geometry.to_image(left + width, top + height, (shown[1], shown[0]))
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(wide)), min(y1, float(high))
    return x0, y0, x1 - x0, y1 - y0
