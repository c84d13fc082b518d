"""How much of a region that was asked for a network saw. Without PyTorch, which runs from the cache do not load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import in_percent

TRUTH, BACKGROUND = "truth", "background"
# Borders of pixels are no news.
_WHOLE = 0.99


def share_seen(mask: NDArray[np.bool_], seen: tuple[int, int, int, int]) -> float | None:
    """The share of a region that a network saw; None of a region without a pixel.

    Args:
        mask: [H, W], the region.
        seen: What it saw of the picture: x0, y0, x1, y1, half-open.
    """
    x0, y0, x1, y1 = seen
    area = int(np.count_nonzero(mask))
    return int(np.count_nonzero(mask[y0:y1, x0:x1])) / area if area else None


def in_words(region: str) -> str:
    """A region as messages call it."""
    return {TRUTH: "the object", BACKGROUND: "the background"}.get(region, f"the region {region}")


@dataclass
class SeenRegion:
    """How much of a region that was asked for a network saw, over images."""

    images: int = 0
    total: float = 0.0
    none: int = 0
    least: float = 1.0

    def add(self, share: float) -> None:
        """Take in an image."""
        self.images, self.total = self.images + 1, self.total + share
        self.none, self.least = self.none + (share == 0), min(self.least, share)

    def hidden(self, region: str) -> str:
        """That the network saw but a part of the region, or none of it; empty where it saw all."""
        if self.least > _WHOLE:
            return ""
        what = in_words(region)
        where = "" if self.images == 1 else f" in any of {self.images} images"
        if self.none == self.images:
            return f"the network saw nothing of {what}{where}: it cannot look there"
        where = "" if self.images == 1 else f", the mean of {self.images} images"
        where += f", and nothing of it in {self.none}" if self.none else ""
        share = in_percent(self.total / self.images)
        return f"the network saw {share} of {what}{where}: it cannot look at the rest"
