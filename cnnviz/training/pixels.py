"""Pictures decoded once, kept while they fit into memory, cropped and mirrored by chance, in batches."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from cnnviz.errors import ImageError
from cnnviz.io.budget import Budget, Ticket
from cnnviz.io.decode import open_image
from cnnviz.io.digests import fingerprint
from cnnviz.io.sources import is_passed_over, open_file
from cnnviz.models.preprocess import Preprocess, prepare
from cnnviz.records import Record
from cnnviz.registry.training import TrainOptions
from cnnviz.schema.images import InputFile
from cnnviz.training.folder import Picture

_DECODING_BYTES = 1 << 30
KEPT_BYTES = 2 << 30
"""Decoded pictures that are kept; those beyond are decoded in each epoch."""


@dataclass(frozen=True, eq=False)
class Looked:
    """A picture that was looked at.

    Attributes:
        picture: Which.
        pixels: As the network or the augmentation takes it, uint8 [C, H, W]; None where it cannot be read.
        record: What the report says of it.
        source: Its file.
        passed_over: Whether it is no picture, and nobody would think so by its name.
    """

    picture: Picture
    pixels: Tensor | None
    record: Record
    source: InputFile | None = None
    passed_over: bool = False


class Shapes:
    """How a picture is brought to what is kept of it: of those to validate with exactly what the network is shown, of
    those to learn from enough for every random crop.

    Args:
        preprocess: Of the network.
        crop_scale: The smallest share of a picture that a crop shows; 1 for the network's own view.
    """

    def __init__(self, preprocess: Preprocess, crop_scale: float) -> None:
        self.preprocess, self.crop_scale = preprocess, crop_scale

    def of(self, rgb: NDArray[np.uint8], picture: Picture) -> Tensor:
        """uint8 [C, H, W].

        Raises:
            ImageError: It has no pixels.
        """
        if picture.part == "val" or self.crop_scale >= 1:
            return prepare(rgb, self.preprocess)[0]
        pixels = torch.from_numpy(np.require(rgb, requirements=("C", "W"))).permute(2, 0, 1)
        if self.preprocess.input_size[0] == 1:
            pixels = v2.functional.rgb_to_grayscale(pixels)
        size = self._size(*rgb.shape[:2])
        if size != rgb.shape[:2]:
            pixels = v2.functional.resize(pixels, list(size), _interpolation(self.preprocess), antialias=True)
        return pixels.contiguous()

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Never enlarged; a crop of the smallest share has about the pixels that the network takes."""
        _, rows, columns = self.preprocess.input_size
        most = 1 / math.sqrt(self.crop_scale)
        if self.preprocess.view == "squash":
            return min(height, math.ceil(rows * most)), min(width, math.ceil(columns * most))
        factor = min(1.0, max(rows, columns) * most / min(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))


def _interpolation(preprocess: Preprocess) -> InterpolationMode:
    # Enlarging and shrinking crops in a loop: the two that tensors have fast.
    return InterpolationMode.BICUBIC if preprocess.interpolation == "bicubic" else InterpolationMode.BILINEAR


def augmentation(preprocess: Preprocess, params: TrainOptions) -> v2.Transform:
    """What happens by chance to a picture that is learned from, uint8 [C, H, W] to the input size."""
    size = preprocess.input_size[1:]
    steps: list[v2.Transform] = []
    if params.crop_scale < 1:
        scale, how = (params.crop_scale, 1.0), _interpolation(preprocess)
        steps.append(v2.RandomResizedCrop(size, scale=scale, interpolation=how, antialias=True))
    if params.flip > 0:
        steps.append(v2.RandomHorizontalFlip(params.flip))
    if params.jitter > 0:
        steps.append(v2.ColorJitter(params.jitter, params.jitter, params.jitter))
    return v2.Compose(steps or [v2.Identity()])


def is_fixed(params: TrainOptions) -> bool:
    """Whether nothing happens by chance to a picture."""
    return params.crop_scale >= 1 and params.flip == params.jitter == 0


class Decoder:
    """Threads that decode, a bounded number of pictures ahead.

    Args:
        shapes: What is kept of a picture.
        workers: Threads; None for as many as there are processors.
    """

    def __init__(self, shapes: Shapes, workers: int | None) -> None:
        self._shapes, self._workers = shapes, workers or max(2, os.cpu_count() or 2)

    def __enter__(self) -> Decoder:
        with ExitStack() as stack:
            self._threads = stack.enter_context(ThreadPoolExecutor(self._workers, "decode"))
            self._memory = stack.enter_context(Budget(_DECODING_BYTES))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stack.close()

    def look(self, pictures: Iterable[Picture]) -> Iterator[Looked]:
        """The pictures decoded, in their order."""
        ahead: deque[Future[Looked]] = deque()
        for picture in pictures:
            ahead.append(self._threads.submit(self._look_at, picture, self._memory.ticket()))
            if len(ahead) > 4 * self._workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _look_at(self, picture: Picture, memory: Ticket) -> Looked:
        ref = picture.ref
        try:
            with open_file(ref, memory.cancelled) as stream:
                image = open_image(stream)
                memory.take(image.peak_bytes)
                place = stream.tell()
                source = fingerprint(ref, stream)
                stream.seek(place)
                rgb = image.decode().rgb
                height, width = rgb.shape[:2]
                pixels = self._shapes.of(rgb, picture)
            return Looked(picture, pixels, Record(ref.uri, width, height, picture.label), source)
        except ImageError as error:
            return self._failed(picture, error.kind, error.message, is_passed_over(ref, error))
        except (OSError, RuntimeError, ValueError) as error:
            return self._failed(picture, "unreadable", f"{type(error).__name__}: {error}")
        finally:
            memory.free()

    def _failed(self, picture: Picture, kind: str, message: str, no_picture: bool = False) -> Looked:
        record = Record(picture.ref.uri, None, None, picture.label, error={"type": kind, "message": message})
        return Looked(picture, None, record, passed_over=no_picture)


class Pictures:
    """The readable pictures of one part, with their classes.

    Args:
        decoder: Decodes those that are not kept.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._pixels: list[Tensor | None] = []
        self._pictures: list[Picture] = []
        self._labels: list[int] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, picture: Picture, label: int, pixels: Tensor | None) -> None:
        """One more; without pixels it is decoded whenever it is needed."""
        self._pictures.append(picture)
        self._labels.append(label)
        self._pixels.append(pixels)

    def batches(self, order: Sequence[int], size: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Pixels and classes in an order, the next batch being decoded meanwhile.

        Raises:
            ImageError: A picture that could be read can be read no longer.
        """
        missing = [place for place in order if self._pixels[place] is None]
        decoded = self._decoder.look(self._pictures[place] for place in missing)
        for begin in range(0, len(order), size):
            places = order[begin : begin + size]
            pixels = [self._taken(place, decoded) for place in places]
            yield pixels, torch.tensor([self._labels[place] for place in places])

    def _taken(self, place: int, decoded: Iterator[Looked]) -> Tensor:
        kept = self._pixels[place]
        if kept is not None:
            return kept
        looked = next(decoded)
        if looked.pixels is None:
            reason = f"{looked.record.path} cannot be read any more: {looked.record.reason}"
            raise ImageError("unreadable", reason)
        return looked.pixels
