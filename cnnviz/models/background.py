"""Photographs that stand for an image about which nothing is known, as the network takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


class Background(str):
    """The value of an option that names photographs, with the photographs: the text as it was typed, read.

    Args:
        name: What was typed.
        pixels: [B, C, H, W] float32, normalised.
        found: How many there were to choose from.
        files: Digests of the files that were read; none of a tensor.

    Attributes:
        digest: Of the pixels.
        source: Of the files, the same on every machine; None of a tensor.
    """

    pixels: Tensor
    found: int
    digest: str
    source: str | None

    def __new__(cls, name: str, pixels: Tensor, found: int, files: Iterable[str] = ()) -> Background:
        made = super().__new__(cls, name)
        read = " ".join(files)
        made.source = hashlib.sha256(read.encode()).hexdigest() if read else None
        made.pixels, made.found = pixels.detach().float(), found
        made.digest = hashlib.sha256(made.pixels.cpu().contiguous().numpy().tobytes()).hexdigest()
        return made

    def facts(self, used: int) -> dict[str, Any]:
        """What a record says of it; ``used`` photographs had a part in the map."""
        return {"photographs": used, "of": self.found, "sha256": self.digest}


def sources_of(options: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Digests of the photographs that were read for methods with these options, by what was typed."""
    found = [value for each in options for value in each.values() if isinstance(value, Background)]
    return {str(value): value.source for value in found if value.source is not None}
