"""Colour maps as tables of 256 RGB colours.

Sequential ones run from zero (first entry) to the maximum (last entry). Diverging ones have their neutral
colour at entry 128, which is where zero is drawn, and run over 127 steps to either end, so that +v and -v are
equally far from it; entry 0 repeats entry 1.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError, nearest

_OPENCV = {
    "turbo": cv2.COLORMAP_TURBO,
    "jet": cv2.COLORMAP_JET,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
}

# Evenly spaced colours, joined linearly. coolwarm: Moreland, "Diverging Color Maps for Scientific
# Visualization", ISVC 2009, sampled at sixteenths.
_DIVERGING = {
    "coolwarm": (
        (59, 76, 192), (77, 104, 215), (98, 130, 234), (119, 154, 247), (141, 176, 254), (163, 194, 255),
        (184, 208, 249), (204, 217, 238), (221, 221, 221), (236, 211, 197), (245, 196, 173), (247, 177, 148),
        (244, 154, 123), (236, 127, 99), (222, 96, 77), (203, 62, 56), (180, 4, 38),
    ),
    "seismic": ((0, 0, 77), (0, 0, 255), (255, 255, 255), (255, 0, 0), (128, 0, 0)),
}  # fmt: skip

COLORMAPS: tuple[str, ...] = (*_OPENCV, "gray", *_DIVERGING)
AUTO = "auto"
UNSIGNED_DEFAULT, SIGNED_DEFAULT = "turbo", "coolwarm"
NEUTRAL = 128
"""The entry of a diverging colour map where zero is drawn, and the level of zero in a signed heatmap."""


def is_diverging(name: str) -> bool:
    """Whether the colour map has a neutral middle, as signed maps need."""
    return name in _DIVERGING


@cache
def colormap(name: str) -> NDArray[np.uint8]:
    """The colours of a map: [256, 3] RGB, read-only.

    Raises:
        CnnvizError: There is no colour map of that name.
    """
    if name in _OPENCV:
        table = cv2.applyColorMap(np.arange(256, dtype=np.uint8), _OPENCV[name]).reshape(256, 3)[:, ::-1]
    elif name == "gray":
        table = np.repeat(np.arange(256)[:, None], 3, axis=1)
    elif name in _DIVERGING:
        colours = np.array(_DIVERGING[name], dtype=np.float64)
        position = np.clip((np.arange(256) - NEUTRAL) / 127.0, -1.0, 1.0)
        stops = np.linspace(-1.0, 1.0, len(colours))
        table = np.stack([np.rint(np.interp(position, stops, channel)) for channel in colours.T], axis=1)
    else:
        near = nearest(name, COLORMAPS)
        raise CnnvizError(f"no colour map is called {name!r}", near or f"One of: {', '.join(COLORMAPS)}.")
    result = np.ascontiguousarray(table, dtype=np.uint8)
    result.setflags(write=False)
    return result
