"""Moving pictures: GIF by Pillow, MP4 by OpenCV."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError

Frames = Sequence[NDArray[np.uint8]]
_HOLD = 1.5
"""Seconds for which the last frame stays."""
_LEAST_FRAME = 112


def enlarged(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame that can be seen: small ones by a whole factor, pixel by pixel."""
    factor = max(1, math.ceil(_LEAST_FRAME / min(rgb.shape[:2])))
    return rgb if factor == 1 else np.ascontiguousarray(rgb.repeat(factor, axis=0).repeat(factor, axis=1))


def encode_gif(frames: Frames, rate: float) -> bytes:
    """An endless GIF's bytes; the last frame stays a while.

    Args:
        frames: uint8 [H, W, 3], all of one size.
        rate: Frames a second; a GIF keeps time in hundredths of a second.
    """
    # One palette for all, from the last frame, which has the most colours: palettes of their own flicker.
    palette = Image.fromarray(frames[-1]).quantize(256, Image.Quantize.MEDIANCUT)
    pages = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    durations = [round(1000 / rate)] * (len(pages) - 1) + [round(1000 * _HOLD)]
    stream = io.BytesIO()
    pages[0].save(
        stream, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=False, disposal=1
    )
    return stream.getvalue()


def encode_mp4(frames: Frames, rate: float) -> bytes:
    """An MP4's bytes (MPEG-4 part 2, the codec that every OpenCV brings); the last frame stays a while.

    Args:
        frames: uint8 [H, W, 3], all of one size; odd sides are continued by a pixel, which the codec asks for.
        rate: Frames a second.

    Raises:
        CnnvizError: This OpenCV cannot write it.
    """
    height, width = frames[0].shape[:2]
    size = (width + width % 2, height + height % 2)
    every = [*frames, *[frames[-1]] * round(rate * _HOLD)]
    with tempfile.TemporaryDirectory(prefix="cnnviz-") as folder:
        path = os.path.join(folder, "movie.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        if not writer.isOpened():
            raise CnnvizError("This OpenCV cannot write MP4 files.", "Use --gif.")
        for frame in every:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
        writer.release()
        with open(path, "rb") as stream:
            return stream.read()
