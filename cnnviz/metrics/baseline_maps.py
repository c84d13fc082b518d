"""Maps that know nothing of the network or of the image: what a figure must beat to mean something."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap


def _centre_gaussian(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """exp(-(u^2 + v^2) / 2) with u and v from the middle in quarters of width and height."""
    across, down = (((np.arange(side) + 0.5) / side - 0.5) * 4 for side in seen)
    bell: NDArray[np.float64] = np.exp(-0.5 * (down[:, None] ** 2 + across**2))
    return bell.astype(np.float32)


def _whole_image(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """1 everywhere."""
    return np.ones((seen[1], seen[0]), dtype=np.float32)


def _random(seen: tuple[int, int], name: str) -> NDArray[np.float32]:
    """Uniform numbers from 0 to 1, each pixel its own, by the image's name."""
    generator = np.random.default_rng(zlib.crc32(name.encode("utf-8", "surrogateescape")))
    return generator.random((seen[1], seen[0]), dtype=np.float32)


BASELINES: Mapping[str, Callable[[tuple[int, int], str], NDArray[np.float32]]] = {
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
    x0, y0, x1, y1 = placed.seen
    values = np.zeros_like(placed.values)
    values[y0:y1, x0:x1] = BASELINES[name]((x1 - x0, y1 - y0), image)
    return replace(placed, values=values, raw=None, signed=False)
