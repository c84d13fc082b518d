"""Maps that know nothing of the network or of the image: what a figure must beat to mean something."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap


def _centre_gaussian(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """exp(-(u^2 + v^2) / 2) with u and v from the middle in quarters of width and height."""
    across, down = (np.exp(-0.5 * (((np.arange(side) + 0.5) / side - 0.5) * 4) ** 2) for side in seen)
    bell: NDArray[np.float64] = down[:, None] * across
    return bell.astype(np.float32)


def _centre_box(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """1 in the box in the middle that has half of the area, sides 1 / sqrt 2 of the whole, else 0."""
    (left, right), (top, bottom) = (
        (round(side * (1 - math.sqrt(0.5)) / 2), round(side * (1 + math.sqrt(0.5)) / 2)) for side in seen
    )
    values = np.zeros((seen[1], seen[0]), dtype=np.float32)
    values[top : max(bottom, top + 1), left : max(right, left + 1)] = 1.0
    return values


def _whole_image(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """1 everywhere."""
    return np.ones((seen[1], seen[0]), dtype=np.float32)


def _random(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """Uniform numbers from 0 to 1, each pixel its own, by the image's name."""
    generator = np.random.default_rng(zlib.crc32(name.encode("utf-8", "surrogateescape")))
    return generator.random((seen[1], seen[0]), dtype=np.float32)


_KEPT_PIXELS = 1 << 20

BASELINES: Mapping[str, Callable[[tuple[int, int], str], NDArray[np.float32]]] = {
    "centre_box": _centre_box,
    "centre_gaussian": _centre_gaussian,
    "whole_image": _whole_image,
    "random": _random,
}
"""By name: a function of the seen part's (W, H) and the image's name."""


def baseline(name: str, placed: PlacedMap, image: str) -> PlacedMap:
    """The map of a baseline where another map lies: on the part of the image that the network saw.

    Args:
        name: One of :data:`BASELINES`.
        placed: The map beside which it stands.
        image: Name of the image.
    """
    height, width = placed.values.shape
    # Random numbers differ by image, and the largest maps would fill the memory.
    make = _values if name == "random" or placed.values.size > _KEPT_PIXELS else _values_of_size
    seed = image if name == "random" else ""
    return replace(placed, values=make(name, placed.seen, (width, height), seed), raw=None, signed=False, strips=None)


def _values(name: str, seen: tuple[int, int, int, int], size: tuple[int, int], image: str) -> NDArray[np.float32]:
    x0, y0, x1, y1 = seen
    values = np.zeros((size[1], size[0]), dtype=np.float32)
    values[y0:y1, x0:x1] = BASELINES[name]((x1 - x0, y1 - y0), image)
    values.setflags(write=False)
    return values


# The images of a folder often share a size: their baselines, and what is measured of them, are then the same.
_values_of_size = lru_cache(maxsize=8)(_values)
