"""Pictures beside each other, never distorted."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_BACKGROUND = 255
_PIXELATED_FROM = 4.0
_FEW, _TALL = 6, 1.5


def fit(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest (W, H) of the same aspect ratio inside a box (W, H); at least one pixel each way."""
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, min(box[0], round(size[0] * scale))), max(1, min(box[1], round(size[1] * scale)))


def in_columns(count: int, block: tuple[int, int]) -> list[range]:
    """Which of ``count`` blocks of (W, H) stand in each column, one below the other: as many in each but the last.

    Few blocks stand in one column, many in as few as make the figure no taller than half as much again as it is wide.
    """
    columns = 1
    while count > _FEW and -(-count // columns) * block[1] > _TALL * columns * block[0]:
        columns += 1
    deep = max(1, -(-count // columns))
    return [range(first, min(first + deep, count)) for first in range(0, count, deep)]


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image at (W, H): averaged when it shrinks, smooth when it grows, squares when it grows a lot."""
    height, width = image.shape[:2]
    growth = max(size[0] / width, size[1] / height)
    if growth == 1.0 and (width, height) == size:
        return image.copy()
    if growth <= 1.0:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_LINEAR if growth < _PIXELATED_FROM else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=method), dtype=np.uint8)


def thumbnail(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """A copy of the image whose longer side is at most ``longest`` pixels; a smaller one keeps its size."""
    height, width = rgb.shape[:2]
    if max(height, width) <= longest:
        return rgb.copy()
    return resize(rgb, fit((width, height), (longest, longest)))


def grid(images: Sequence[NDArray[np.uint8]], columns: int, cell: tuple[int, int], gap: int = 4) -> NDArray[np.uint8]:
    """Images in rows on white, each scaled to fit its cell and centred in it.

    Args:
        images: [H, W, 3] (or grey [H, W]) each; sizes may differ. At least one.
        columns: Cells a row; fewer when there are fewer images.
        cell: (W, H) of a cell.
        gap: Pixels between the cells and around them.

    Returns:
        [rows * (cell H + gap) + gap, columns * (cell W + gap) + gap, 3].
    """
    if not images or columns < 1:
        raise ValueError(f"a grid needs an image and a column, got {len(images)} and {columns}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = cell
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    out = np.full(shape, _BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        shown = resize(image, fit((image.shape[1], image.shape[0]), cell))
        paste(out, shown, (gap + column * (width + gap), gap + row * (height + gap)), cell)
    return out


def paste(canvas: NDArray[np.uint8], image: NDArray[np.uint8], corner: tuple[int, int], cell: tuple[int, int]) -> None:
    """Put an image into the middle of the cell (W, H) whose top left corner is (x, y)."""
    height, width = image.shape[:2]
    x, y = corner[0] + (cell[0] - width) // 2, corner[1] + (cell[1] - height) // 2
    canvas[y : y + height, x : x + width] = image[..., None] if image.ndim == 2 else image
