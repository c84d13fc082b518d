"""A decoded image of a run, and the record of one that could not be explained."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.placement import seen_part
from cnnviz.geometry.truth import Truth
from cnnviz.io.annotations import Annotations
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.models.preprocess import Geometry, Preprocess, prepare
from cnnviz.records import Record, files_of
from cnnviz.schema.images import InputFile, Shown


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


def shown(
    ref: ImageRef, rgb: NDArray[np.uint8], preprocess: Preprocess, annotations: Annotations | None
) -> DecodedImage:
    """A decoded image as the network sees it, with what is known of it.

    Raises:
        ImageError: It cannot be shown to the network, or its annotations are not of its size.
        CnnvizError: It could be several of the images that are annotated.
    """
    pixels, geometry = prepare(rgb, preprocess)
    truth = None if annotations is None else annotations.truth(ref, geometry.image_size)
    return DecodedImage(ref, rgb, pixels, geometry, truth=truth)


def alike(items: Sequence[DecodedImage], most: int) -> Iterator[list[int]]:
    """The places of images that the network is shown in one shape, up to ``most`` together."""
    places = defaultdict[tuple[int, ...], list[int]](list)
    for place, item in enumerate(items):
        places[tuple(item.pixels.shape)].append(place)
    for own in places.values():
        yield from (own[first : first + most] for first in range(0, len(own), most))


class Decoded(Protocol):
    """A decoded image, or what was made of one."""

    @property
    def ref(self) -> ImageRef: ...

    @property
    def rgb(self) -> NDArray[np.uint8]: ...


def view_facts(item: DecodedImage, preprocess: Preprocess) -> Shown:
    """What the record says of the view: which it is, and what part of the image the network saw."""
    left, top, right, bottom = seen_part(item.geometry.rect, item.geometry.image_size)
    facts: Shown = {"view": preprocess.view, "seen_xywh": [left, top, right - left, bottom - top]}
    if preprocess.view == "whole":
        facts["input_size"] = list(item.pixels.shape)
    return facts


def failed(image: ImageRef | Decoded, kind: str, message: str) -> Record:
    """The record of an image that could not be explained; its size is known once it is decoded."""
    if isinstance(image, ImageRef):
        ref, width, height = image, None, None
    else:
        ref, (height, width) = image.ref, image.rgb.shape[:2]
    return Record(ref.uri, width, height, ref.label, error={"type": kind, "message": message})


def arrived(record: Record, ref: ImageRef, source: InputFile | None, store: Store) -> Record:
    """The record of an image once its pictures are there; that of a failure where one could not be sent."""
    if store.is_local:
        return record
    names = list(files_of(record.to_dict(ref.name, source)))
    try:
        store.settle(names)
    except ImageError as error:
        for name in names:
            with contextlib.suppress(CnnvizError):
                store.remove(name)
        return failed(ref, error.kind, error.message)
    return record
