"""A signed gradient [C, H, W] as a picture: grey where it is zero, brighter and darker by channel where it is not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.placement import Rect, place
from cnnviz.render.colormap import NEUTRAL

# A few pixels hold gradients many times as large as the rest; scaled by them the picture would be grey.
_PERCENTILE = 99.0
_CHANNELS = 3


def gradient_image(raw: NDArray[np.float32], rect: Rect, size: tuple[int, int]) -> NDArray[np.uint8]:
    """128 + 127 * v / limit in each colour, as the papers on guided backpropagation draw gradients.

    The limit is the 99th percentile of the values that are not zero, one for all channels, so that colours keep
    their balance; what lies beyond it is drawn as it. Zero is 128.

    Args:
        raw: [3, h, w] in red, green, blue, or [1, h, w]; one channel is drawn in grey, and so is the largest value
            (by magnitude) of another number of channels.
        rect: The part of the image that it covers, in pixels.
        size: (W, H) of the image.

    Returns:
        [H, W, 3]; 128 outside what the network saw.
    """
    if raw.shape[0] not in (1, _CHANNELS):
        raw = np.take_along_axis(raw, np.abs(raw).argmax(0)[None], 0)
    width, height = size
    placed = np.empty((height, width, len(raw)), dtype=np.float32)
    for channel, values in enumerate(raw):
        placed[:, :, channel] = place(values, rect, size, signed=True).values
    limit = gradient_limit(placed)
    if limit > 0.0:
        placed /= np.float32(limit)
        np.clip(placed, -1.0, 1.0, out=placed)
    else:
        placed[:] = 0.0
    placed *= np.float32(127.0)
    placed += np.float32(NEUTRAL)
    picture = np.rint(placed, out=placed).astype(np.uint8)
    return np.repeat(picture, _CHANNELS, axis=-1) if picture.shape[-1] == 1 else picture


def gradient_limit(values: NDArray[np.float32]) -> float:
    """The magnitude that is drawn fully bright or dark; 0 for a gradient that is zero everywhere."""
    return magnitude_limit(values, _PERCENTILE)


def magnitude_limit(values: NDArray[np.float32], percentile: float) -> float:
    """A percentile of the magnitudes that are not zero; 0 when all are. Takes one copy of the values, no more."""
    magnitudes = values[values != 0.0]
    np.abs(magnitudes, out=magnitudes)
    return float(np.percentile(magnitudes, percentile, overwrite_input=True)) if magnitudes.size else 0.0
