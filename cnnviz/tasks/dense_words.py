"""What ``explain`` is asked to explain of a network with scores at positions, or with candidates for boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.truth import Truth
from cnnviz.io.sources import ImageRef
from cnnviz.models.preprocess import Geometry
from cnnviz.registry.box_forms import DetectOptions
from cnnviz.registry.params import Options
from cnnviz.tasks.base import Request, Task, Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.detection import Detection
from cnnviz.tasks.segmentation import Segmentation

# Names of the classes of an output that does not say how many there are.
_UNNAMED = 1000


@dataclass(frozen=True)
class _Input:
    """An image of a batch: nothing is known of a photograph, so places are in pixels of the batch."""

    ref: ImageRef
    geometry: Geometry
    truth: Truth | None = None

    @property
    def shown_size(self) -> tuple[int, int]:
        return self.geometry.image_size


def has_places(target: Any, run: ForwardPass) -> bool:
    """Whether a class in a region is asked of an output with scores at positions, or a box of a detector."""
    made = isinstance(target, Target) or (callable(target) and not isinstance(target, Tensor))
    return (run.chosen.dim() == 4 or run.session.boxes is not None) and not made and run.session.readout.layer is None


def placed_target(
    target: Any, run: ForwardPass, how: tuple[str, str], labels: Sequence[str], options: Options
) -> tuple[Target, Tensor]:
    """The target of a batch, and the class of each image [N] (of a difference the first).

    Args:
        target: None for the class with the largest area, or the best box; a class index, or one for each image; or a
            word of :mod:`cnnviz.tasks.region_words` or :mod:`cnnviz.tasks.box_words`, whose places are in pixels of the
            batch.
        run: A pass over the batch.
        how: The score that is explained, and how logits become probabilities.
        labels: Class names by index; empty where none are known.
        options: Of the task.

    Raises:
        CnnvizError: It is none of these, or matches nothing in an image of the batch.
    """
    scores, size = run.chosen, (int(run.pixels.shape[3]), int(run.pixels.shape[2]))
    task, count = _task(run, how, labels, options)
    said = task.reads(scores)
    item = _Input(ImageRef("", "", 0), Geometry(size, (0.0, 0.0, float(size[0]), float(size[1]))))
    found: list[Request] = []
    for image, spec in enumerate(_specs(target, len(scores), count)):
        try:
            selected = task.selector(Words(targets=(spec,))).requests(item, said, image)
        except ImageError as error:
            hint = "Ask for another box, such as 'box:best'." if run.session.boxes else "For example 'class:3@all'."
            raise CnnvizError(f"target={target!r}, image {image}: {error.message}.", hint) from None
        if len(selected.requests) != 1:
            several = "boxes" if run.session.boxes else "classes"
            raise CnnvizError(
                f"target={target!r} means several {several}.", "Ask for one, such as 'class:3' or 'pred'."
            )
        found.append(selected.requests[0])
    made = found[0].target(found)
    return made, torch.tensor([_class_of(request) for request in found])


def _task(run: ForwardPass, how: tuple[str, str], labels: Sequence[str], options: Options) -> tuple[Task, int]:
    """What the network is for, and how many classes it has."""
    form, scores = run.session.boxes, run.chosen
    if form is None:
        count = 2 if scores.shape[1] == 1 else int(scores.shape[1])
        return Segmentation(ClassNames(_names(labels, count), scores.shape[1] == 1), *how), count
    count = form.classes or len(labels) or _UNNAMED
    chosen = options if isinstance(options, DetectOptions) else DetectOptions()
    return Detection(ClassNames(_names(labels, count), False), how[0], form, chosen), count


def _names(labels: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(labels) if len(labels) == count else tuple(f"class {index}" for index in range(count))


def _class_of(request: Any) -> int:
    """The class of a request; of a difference that of the first."""
    one = getattr(request, "first", request)
    return int(getattr(one, "index", getattr(getattr(one, "detection", None), "class_index", -1)))


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
