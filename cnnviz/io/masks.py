"""Pictures that mark a part of a photograph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import ImageError


def read_mask(path: str, size: tuple[int, int], value: int | None = None) -> NDArray[np.bool_]:
    """bool [H, W]: where a picture has a value, or, without one, is not black.

    Args:
        path: A grey picture or one with a palette, whose numbers are read as they are stored; of colours and of a mask
            with an alpha channel, black is what is zero in every colour.
        size: (W, H) that it must have.
        value: The number that counts; None for all but zero.

    Raises:
        ImageError: It cannot be read, has another size, or has colours where a value was asked for.
    """
    try:
        with Image.open(path) as picture:
            if picture.size != tuple(size):
                there = f"{picture.width} x {picture.height}"
                raise ImageError("mask", f"mask {path} has {there} pixels, its image {size[0]} x {size[1]}")
            levels = np.asarray(picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("RGB"))
    except ImageError:
        raise
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        raise ImageError("mask", f"mask {path} cannot be read: {error}") from error
    if levels.ndim == 3:
        if value is not None:
            raise ImageError("mask", f"mask {path} has colours, in which there is no value {value}")
        levels = levels.max(axis=2)
    found: NDArray[np.bool_] = levels != 0 if value is None else levels == value
    return found
