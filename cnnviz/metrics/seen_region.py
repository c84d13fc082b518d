"""How much of a region that was asked for a network saw. Without PyTorch, which runs from the cache do not load."""

from __future__ import annotations

from dataclasses import dataclass

TRUTH = "truth"
# Borders of pixels are no news.
_WHOLE = 0.99


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
        what = "the object" if region == TRUTH else f"the region {region}"
        where = "" if self.images == 1 else f" in any of {self.images} images"
        if self.none == self.images:
            return f"the network saw nothing of {what}{where}: it cannot look there"
        where = "" if self.images == 1 else f", the mean of {self.images} images"
        where += f", and nothing of it in {self.none}" if self.none else ""
        return f"the network saw {100 * self.total / self.images:.0f} % of {what}{where}: it cannot look at the rest"
