"""What networks are for: the tasks, and by which output each is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from cnnviz.registry.box_forms import BoxForm, DetectOptions, form_of
from cnnviz.registry.params import Options

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task.

    Attributes:
        name: As ``--task`` has it.
        entry: ``module:class`` of the :class:`cnnviz.tasks.base.Task`, called with the classes by name, the score that
            is explained, and how logits become probabilities.
        summary: What the network gives, in one sentence.
        dense: Whether its output [N, K, h, w] has scores at positions; else it has one row of scores for each image.
        boxes: Whether its output are candidates for boxes (:mod:`cnnviz.registry.box_forms`).
        tiled: Whether ``--view tiles`` can join its maps.
        studies: Whether the studies of a network take it.
        classes: Whether what it gives are classes.
        vectors: Whether what it gives is a vector.
        words: Whether it writes text, word by word.
        options: What may be set of it: ``--task NAME:OPTION=VALUE,...``.
        instead: By the name of a command the method that it runs for this task where no ``--variant`` is named.
        caveats: By the name of a method what whoever asks for it with this task should know; of a dense output only
            where a region is asked for.
    """

    name: str
    entry: str
    summary: str
    dense: bool = False
    boxes: bool = False
    tiled: bool = True
    studies: bool = True
    classes: bool = True
    vectors: bool = False
    words: bool = False
    options: type[Options] = Options
    instead: Mapping[str, str] = field(default_factory=dict, hash=False)
    caveats: Mapping[str, str] = field(default_factory=dict, hash=False)

    def load(self) -> Any:
        """The class behind ``entry``."""
        module, _, name = self.entry.partition(":")
        return getattr(import_module(module), name)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an output of this shape for one image may be of this task, where somebody says so."""
        if self.words:
            return len(shape) == 3
        return form_of(shape, (), "auto") is not None if self.boxes else self.dense == is_dense(shape)


@dataclass(frozen=True)
class TaskRequest:
    """What ``--task`` asks for.

    Attributes:
        spec: The task; None where the output is to tell it.
        options: Its own.
    """

    spec: TaskSpec | None = None
    options: Options = field(default_factory=Options)

    @property
    def writes(self) -> bool:
        """Whether the network writes text."""
        return self.spec is not None and self.spec.words

    def boxes(self, shape: Sequence[int], counts: Collection[int]) -> BoxForm | None:
        """The form in which an output of this shape for one image has candidates for boxes; None where it has none.

        Args:
            shape: Of the explained output.
            counts: Numbers of classes that are known of.
        """
        if self.spec is not None and not self.spec.boxes:
            return None
        form = getattr(self.options, "form", "auto")
        return form_of(shape, counts, None if self.spec is None else form)


def is_dense(shape: Sequence[int]) -> bool:
    """Whether an output of this shape has scores at positions."""
    return len(shape) == 4 and tuple(shape[2:]) != (1, 1)


# They weigh a channel by one number for all of its positions.
_POOLED = ("gradcam", "gradcam++", "smoothgradcam++", "xgradcam", "shapleycam", "ablationcam", "scorecam")
_OF_REGIONS = (
    "{} weighs each channel by one number for the whole layer: a region changes these and the scale of the map, hardly "
    "where it lies; gradcam --variant hirescam, odam or layercam weighs positions apart"
)

TASKS = (
    TaskSpec(
        name="classify",
        entry="cnnviz.tasks.classification:Classification",
        summary="One row of class scores [N, K] for each image.",
    ),
    TaskSpec(
        name="regress",
        entry="cnnviz.tasks.regression:Regression",
        summary="Numbers [N, K] that are no class scores; only where it is asked for.",
        tiled=False,
        studies=False,
        classes=False,
    ),
    TaskSpec(
        name="embed",
        entry="cnnviz.tasks.embedding:Embedding",
        summary="A vector [N, D] of each image; only where it is asked for.",
        tiled=False,
        studies=False,
        classes=False,
        vectors=True,
    ),
    TaskSpec(
        name="caption",
        entry="cnnviz.tasks.captioning:Captioning",
        summary="A text, word by word: scores [N, T, V] of the words of a given text; only where it is asked for.",
        tiled=False,
        studies=False,
        classes=False,
        words=True,
    ),
    TaskSpec(
        name="segment",
        entry="cnnviz.tasks.segmentation:Segmentation",
        summary="A score of each class at each position, [N, K, h, w].",
        dense=True,
        tiled=False,
        studies=False,
        caveats={name: _OF_REGIONS.format(name) for name in _POOLED},
    ),
    TaskSpec(
        name="detect",
        entry="cnnviz.tasks.detection:Detection",
        summary="Candidates for boxes, [N, M, 6], [N, 4 + K, M], [N, M, 5 + K] or [N, 5 + K, h, w].",
        boxes=True,
        tiled=False,
        studies=False,
        options=DetectOptions,
        instead={"gradcam": "odam"},
        caveats={
            "gradcam": "Grad-CAM averages a gradient that lives in a few cells over the whole layer: of a box it shows "
            "where its class is, rather than why this box; --variant odam keeps the cells apart"
        },
    ),
)
