"""The photographs of a run for its page: where they lie, or small copies of them."""

from __future__ import annotations

import itertools
import os

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import ImageError, nearest_file
from cnnviz.io.decode import IMAGE_SUFFIXES, open_image
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.sources import is_url

_SHOWN = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".avif", ".bmp"))
"""Ends of names of files that browsers show."""
_LOOKED_AT = 10_000


def beside(path: str, folder: str) -> str | None:
    """The path of a photograph relative to the folder of a page.

    Args:
        path: Of the input, as a record has it.
        folder: Where the page lies.

    Returns:
        None where a page in that folder cannot show it: the file is not on this machine, or browsers do not display
        its format.
    """
    if is_url(path) or is_url(folder) or os.path.splitext(path)[1].lower() not in _SHOWN or not os.path.isfile(path):
        return None
    try:
        return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    except ValueError:  # another drive
        return None


def small_copy(path: str, side: int) -> bytes | None:
    """A picture as a JPEG of its pixels alone (no place, no camera), its longer side at most ``side``.

    Args:
        path: A local file.
        side: Pixels.

    Returns:
        None where there is no such picture.
    """
    if is_url(path) or not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as stream:
            rgb = open_image(stream).decode().rgb
    except (OSError, ImageError):
        return None
    return encode(_fitted(rgb, side), ImageFormat("jpg"))


def _fitted(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return rgb
    size = (max(1, round(share * width)), max(1, round(share * height)))
    small: NDArray[np.uint8] = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return small


def pictures_near(path: str, count: int = 3) -> str:
    """The pictures that lie where a file was looked for, as a hint: near names, else the first; empty without any."""
    parent, base = os.path.split(path)
    try:
        with os.scandir(parent or ".") as entries:
            names = [entry.name for entry in itertools.islice(entries, _LOOKED_AT)]
    except (OSError, ValueError):
        return f"The folder {parent!r} does not exist or cannot be read."
    pictures = sorted(name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES)
    before = path[: len(path) - len(base)]
    if near := nearest_file(base, pictures, count, before=before):
        return near
    told = ", ".join(before + name for name in pictures[:count])
    more = f" and {len(pictures) - count} more" if len(pictures) > count else ""
    return f"There are {told}{more}." if told else ""
