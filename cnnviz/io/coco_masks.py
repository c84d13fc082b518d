"""Masks of COCO's annotations: polygons, and run lengths in both of their spellings.

* Polygons ``[x0, y0, x1, y1, ...]`` in pixels of the image, where pixel (x, y) covers [x, x + 1) x [y, y + 1). A pixel
  is inside where its centre is, by the even-odd rule; the polygons of an object are joined. (OpenCV's ``fillPoly``
  takes whole numbers as centres of pixels and paints the outline too: half a pixel more on each side, an eighth more of
  the objects of COCO on average.)
* Run lengths ``{"size": [H, W], "counts": [...]}``: how many pixels are outside, then inside, then outside, ... going
  down the columns, from the left one on. As text, each number stands in groups of five bits, the lowest first, one a
  character from ``0`` on; bit 5 says that more follow, bit 4 of the last is the sign; from the fourth number on it is
  what is added to the number two places before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
_FIRST, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Where an object is, as the file has it; painted when it is needed.

    Attributes:
        polygons: [n, 2] each: x and y of the corners.
        counts: Run lengths, or their text; None of polygons.
        size: (H, W) of run lengths.
    """

    polygons: tuple[NDArray[np.float32], ...] = ()
    counts: NDArray[np.int64] | str | None = None
    size: tuple[int, int] = (0, 0)

    def digest(self) -> str:
        """What tells it from another."""
        counts = self.counts.tobytes() if isinstance(self.counts, np.ndarray) else repr(self.counts).encode()
        parts = [repr(self.size).encode(), counts, *(corners.tobytes() for corners in self.polygons)]
        return hashlib.sha256(b"|".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def painted(self, size: tuple[int, int]) -> Mask:
        """bool [H, W] of an image of (W, H) pixels.

        Raises:
            ValueError: The run lengths are of another size, or do not add up to it.
        """
        found = np.zeros((size[1], size[0]), dtype=np.bool_)
        self.paint(found)
        return found

    def paint(self, mask: Mask) -> None:
        """Add the object to a mask [H, W].

        Raises:
            ValueError: As :meth:`painted`.
        """
        height, width = mask.shape
        if self.counts is None:
            for corners in self.polygons:
                (top, left), part = _polygon_part(corners, (height, width))
                mask[top : top + part.shape[0], left : left + part.shape[1]] |= part
            return
        if self.size != (height, width):
            raise ValueError(f"run lengths of {self.size[1]} x {self.size[0]} pixels, the image has {width} x {height}")
        counts = counts_of(self.counts) if isinstance(self.counts, str) else self.counts
        mask |= rle_mask(counts, self.size)


def read_segmentation(value: Any) -> Segmentation | None:
    """What ``segmentation`` of an annotation says; None where it says nothing.

    Raises:
        ValueError: It is neither polygons nor run lengths.
    """
    if isinstance(value, dict):
        size, counts = value["size"], value["counts"]
        kept = counts if isinstance(counts, str) else np.asarray(counts, dtype=np.int64)
        return Segmentation(counts=kept, size=(int(size[0]), int(size[1])))
    if not value:
        return None
    polygons = []
    for corners in value:
        if len(corners) % 2 or len(corners) < 6:
            raise ValueError(f"a polygon of {len(corners)} numbers")
        polygons.append(np.asarray(corners, dtype=np.float32).reshape(-1, 2))
    return Segmentation(tuple(polygons))


def polygon_mask(corners: NDArray[np.floating], size: tuple[int, int]) -> Mask:
    """bool [H, W]: the pixels whose centres lie inside a polygon, by the even-odd rule.

    Between two crossings of a row of centres with edges lies inside every second stretch; an edge that meets the row in
    its upper end counts, one in its lower end does not.

    Args:
        corners: [n, 2] x and y.
        size: (H, W).
    """
    found: Mask = np.zeros(size, dtype=np.bool_)
    (top, left), part = _polygon_part(corners, size)
    found[top : top + part.shape[0], left : left + part.shape[1]] = part
    return found


def _polygon_part(corners: NDArray[np.floating], size: tuple[int, int]) -> tuple[tuple[int, int], Mask]:
    """The mask of a polygon where it may be something, and the row and column at which that begins."""
    points = corners.astype(np.float64)
    left, top = np.clip(np.floor(points.min(axis=0)).astype(int), 0, size[::-1]).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0)).astype(int), 0, size[::-1]).tolist()
    height, width = bottom - top, right - left
    (x0, y0), (x1, y1) = points.T, np.concatenate([points[1:], points[:1]]).T
    # The rows whose centres y0 <= y < y1, or the other way round.
    start = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), top, bottom).astype(np.intp)
    count = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), top, bottom).astype(np.intp) - start
    edges = np.repeat(np.arange(len(points)), count)
    rows = np.arange(len(edges)) - np.repeat(count.cumsum() - count, count) + start[edges]
    along = (rows + 0.5 - y0[edges]) / (y1 - y0)[edges]
    crossings = x0[edges] + along * (x1 - x0)[edges]
    # Each crossing turns all pixels whose centres are right of it; a row has an even number of them.
    first = np.clip(np.ceil(crossings - 0.5), left, right).astype(np.intp) - left
    turns = np.sort((rows - top) * width + first)
    lengths = np.diff(turns, prepend=0, append=height * width)
    part: Mask = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    return (top, left), part


def rle_mask(counts: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> Mask:
    """bool [H, W] of run lengths, outside first, down the columns.

    Raises:
        ValueError: They do not add up to the image.
    """
    lengths = np.asarray(counts, dtype=np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != size[0] * size[1]:
        raise ValueError(f"run lengths of {int(lengths.sum())} pixels for an image of {size[0] * size[1]}")
    inside = np.arange(len(lengths)) % 2 == 1
    mask: Mask = np.repeat(inside, lengths).reshape(size, order="F")
    return mask


def counts_of(text: str) -> NDArray[np.int64]:
    """The run lengths that a text stands for.

    Raises:
        ValueError: It ends within a number, or has a character that stands for none.
    """
    found: list[int] = []
    value = place = 0
    for character in text:
        group = ord(character) - _FIRST
        if not 0 <= group < 2 * _MORE:
            raise ValueError(f"{character!r} in run lengths")
        value |= (group & (_MORE - 1)) << (_BITS * place)
        place += 1
        if group & _MORE:
            continue
        if group & _SIGN:
            value -= 1 << (_BITS * place)
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = place = 0
    if place:
        raise ValueError("run lengths that end within a number")
    return np.asarray(found, dtype=np.int64)
