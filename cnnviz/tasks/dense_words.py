"""What ``explain`` is asked to explain of a network with scores at positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import ByImage, Target
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.truth import Truth
from cnnviz.io.sources import ImageRef
from cnnviz.models.preprocess import Geometry
from cnnviz.tasks.base import Request, Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class _Input:
    """An image of a batch: nothing is known of a photograph, so regions are in pixels of the batch."""

    ref: ImageRef
    geometry: Geometry
    truth: Truth | None = None


def asks_region(target: Any, scores: Tensor) -> bool:
    """Whether a class in a region is asked of an output with scores at positions [N, K, h, w]."""
    made = isinstance(target, Target) or (callable(target) and not isinstance(target, Tensor))
    return scores.dim() == 4 and not made


def dense_target(target: Any, run: ForwardPass, how: tuple[str, str], labels: Sequence[str]) -> tuple[ByImage, Tensor]:
    """The target of a batch, and the class of each image [N] (of a difference the first).

    Args:
        target: None for the class with the largest area; a class index, or one for each image; or a word of
            :mod:`cnnviz.tasks.region_words`, whose regions are in pixels of the batch.
        run: A pass over the batch, whose explained output is [N, K, h, w].
        how: The score that is explained, and how logits become probabilities.
        labels: Class names by index; empty where none are known.

    Raises:
        CnnvizError: It is none of these, or matches nothing in an image of the batch.
    """
    scores, size = run.chosen, (int(run.pixels.shape[3]), int(run.pixels.shape[2]))
    count = 2 if scores.shape[1] == 1 else int(scores.shape[1])
    names = tuple(labels) if len(labels) == count else tuple(f"class {index}" for index in range(count))
    task = Segmentation(ClassNames(names, scores.shape[1] == 1), *how)
    said, item = (
        task.reads(scores),
        _Input(ImageRef("", "", 0), Geometry(size, (0.0, 0.0, float(size[0]), float(size[1])))),
    )
    found: list[Request] = []
    for image, spec in enumerate(_specs(target, len(scores), count)):
        try:
            selected = task.selector(Words(targets=(spec,))).requests(item, said, image)
        except ImageError as error:
            raise CnnvizError(
                f"target={target!r}, image {image}: {error.message}.", "Ask for another region, such as 'class:3@all'."
            ) from None
        if len(selected.requests) != 1:
            raise CnnvizError(f"target={target!r} means several classes.", "Ask for one, such as 'class:3' or 'pred'.")
        found.append(selected.requests[0])
    indices = [
        int(getattr(request, "index", getattr(getattr(request, "first", None), "index", -1))) for request in found
    ]
    return found[0].target(found), torch.tensor(indices)


def _specs(target: Any, images: int, count: int) -> list[str]:
    """A word for each image."""
    if target is None:
        return ["class:pred"] * images
    if isinstance(target, str):
        return [target if ":" in target.partition("@")[0] else f"class:{target}"] * images
    indices = torch.as_tensor(target).reshape(-1).tolist()
    indices = indices * images if len(indices) == 1 else indices
    if len(indices) != images or not all(isinstance(index, int) and 0 <= index < count for index in indices):
        raise CnnvizError(
            f"target={target!r}: expected one class index, or one for each of {images} images, from 0 to {count - 1}.",
            "Pass for example target=3, or target='class:3@all'.",
        )
    return [f"class:{index}" for index in indices]
