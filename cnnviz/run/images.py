"""A decoded image of a run, and the record of one that could not be explained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.geometry.truth import Truth
from cnnviz.io.sources import ImageRef
from cnnviz.models.preprocess import Geometry
from cnnviz.records import Record


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image: as a viewer shows it, and as the network sees it (uint8 [C, H, W]); and what is known of it."""

    ref: ImageRef
    rgb: NDArray[np.uint8]
    pixels: Tensor
    geometry: Geometry
    truth: Truth | None = field(default=None, kw_only=True)

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of the network's input."""
        return int(self.pixels.shape[2]), int(self.pixels.shape[1])


class Decoded(Protocol):
    """A decoded image, or what was made of one."""

    @property
    def ref(self) -> ImageRef: ...

    @property
    def rgb(self) -> NDArray[np.uint8]: ...


def failed(image: ImageRef | Decoded, kind: str, message: str) -> Record:
    """The record of an image that could not be explained; its size is known once it is decoded."""
    if isinstance(image, ImageRef):
        ref, width, height = image, None, None
    else:
        ref, (height, width) = image.ref, image.rgb.shape[:2]
    return Record(ref.uri, width, height, ref.label, error={"type": kind, "message": message})
