"""Boxes in pixels of an image, in one convention, and how those of others are turned into it.

Coordinates are continuous: the image of W x H pixels covers [0, W] x [0, H], its first pixel [0, 1] x [0, 1]. A box
that holds the pixels 2, 3 and 4 of a row has x = 2 and width = 3.

* COCO: 0-based [x, y, width, height], the same.
* Pascal VOC and ImageNet: 1-based and inclusive, xmin = 3 and xmax = 5 are those pixels: x = xmin - 1,
  width = xmax - xmin + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ObjectSize = Literal["small", "medium", "large"]


@dataclass(frozen=True)
class Box:
    """An upright rectangle: left and top edge, width and height, in pixels.

    Whole numbers stay whole: a box of pixels is written to JSON without decimal points.

    Raises:
        ValueError: A number is not finite, or width or height is below zero.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.x, self.y, self.width, self.height))) or min(self.width, self.height) < 0:
            raise ValueError(f"{(self.x, self.y, self.width, self.height)} is not a box x, y, width, height")

    @classmethod
    def from_edges(cls, x0: float, y0: float, x1: float, y1: float) -> Box:
        """The box between two vertical and two horizontal edges."""
        return cls(x0, y0, x1 - x0, y1 - y0)

    @classmethod
    def from_inclusive(cls, xmin: float, ymin: float, xmax: float, ymax: float) -> Box:
        """The box of the first and the last pixel of its rows and columns, counted from 1: Pascal VOC, ImageNet."""
        return cls(xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)

    @classmethod
    def from_coco(cls, bbox: Sequence[float]) -> Box:
        """The box of COCO's ``bbox``.

        Raises:
            ValueError: It does not hold four numbers.
        """
        x, y, width, height = bbox
        return cls(x, y, width, height)

    @property
    def xywh(self) -> list[float]:
        """[x, y, width, height], as records and COCO have it."""
        return [self.x, self.y, self.width, self.height]

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    @property
    def inclusive(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax, counted from 1: the inverse of :meth:`from_inclusive`."""
        return self.x + 1, self.y + 1, self.x + self.width, self.y + self.height

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height

    @property
    def object_size(self) -> ObjectSize:
        """COCO's classes: ``small`` below 32^2 square pixels, ``medium`` below 96^2, else ``large``.

        COCO takes the area of an object's mask; where there are boxes only, it is that of the box.
        """
        if self.area < 32**2:
            return "small"
        return "medium" if self.area < 96**2 else "large"

    def within(self, size: tuple[int, int]) -> Box:
        """The part of it that lies in an image of (width, height); flat where it lies outside."""
        x0, y0, x1, y1 = self.edges
        width, height = size
        return Box.from_edges(
            min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)
        )

    def pixels(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of an image of (W, H) pixels between the edges, each rounded to the nearest whole number."""
        x0, y0, x1, y1 = (round(edge) for edge in self.edges)
        left, right, top, bottom = max(0, x0), min(size[0], x1), max(0, y0), min(size[1], y1)
        return slice(top, max(top, bottom)), slice(left, max(left, right))

    def contains(self, x: float, y: float) -> bool:
        """Whether a point lies inside or on an edge; the centre of pixel (c, r) is (c + 0.5, r + 0.5)."""
        x0, y0, x1, y1 = self.edges
        return x0 <= x <= x1 and y0 <= y <= y1

    def intersection(self, other: Box) -> float:
        """Area that both cover."""
        (a0, b0, a1, b1), (c0, d0, c1, d1) = self.edges, other.edges
        return max(0.0, min(a1, c1) - max(a0, c0)) * max(0.0, min(b1, d1) - max(b0, d0))

    def union(self, other: Box) -> float:
        """Area that either covers."""
        return self.area + other.area - self.intersection(other)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 to 1; 0 where both are empty.

        Of boxes made by :meth:`from_inclusive` it is the IoU of ImageNet's development kit, whose "+ 1" is in their
        width and height.
        """
        union = self.union(other)
        return self.intersection(other) / union if union > 0 else 0.0

    def iou_plus_one(self, other: Box) -> float:
        """IoU of the two with edges read as inclusive pixels, each a pixel wider and higher than it is.

        (min(x1, x1') - max(x0, x0') + 1) ... with x1 = x + width: what programs compute that add 1 to boxes which end
        where the next pixel begins (the evaluation of Choe et al., "Evaluating Weakly Supervised Object Localization
        Methods Right", CVPR 2020). Larger than :meth:`iou` for small boxes that overlap in part.
        """
        wider = [Box(box.x, box.y, box.width + 1, box.height + 1) for box in (self, other)]
        return wider[0].iou(wider[1])
