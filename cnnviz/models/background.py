"""Photographs that stand for an image about which nothing is known, as the network takes them."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor


class Background(str):
    """The value of an option that names photographs, with the photographs: the text as it was typed, read.

    Args:
        name: What was typed.
        pixels: [B, C, H, W] float32, normalised.
        found: How many there were to choose from.

    Attributes:
        digest: Of the pixels.
    """

    pixels: Tensor
    found: int
    digest: str

    def __new__(cls, name: str, pixels: Tensor, found: int) -> Background:
        made = super().__new__(cls, name)
        made.pixels, made.found = pixels.detach().float(), found
        made.digest = hashlib.sha256(made.pixels.cpu().contiguous().numpy().tobytes()).hexdigest()
        return made

    def facts(self, used: int) -> dict[str, Any]:
        """What a record says of it; ``used`` photographs had a part in the map."""
        return {"photographs": used, "of": self.found, "sha256": self.digest}
