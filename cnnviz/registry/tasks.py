"""What networks are for: the tasks, and by which output each is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

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
        tiled: Whether ``--view tiles`` can join its maps.
        studies: Whether the studies of a network take it.
    """

    name: str
    entry: str
    summary: str
    dense: bool = False
    tiled: bool = True
    studies: bool = True

    def load(self) -> Any:
        """The class behind ``entry``."""
        module, _, name = self.entry.partition(":")
        return getattr(import_module(module), name)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an output of this shape for one image may be of this task."""
        return self.dense == is_dense(shape)


def is_dense(shape: Sequence[int]) -> bool:
    """Whether an output of this shape has scores at positions."""
    return len(shape) == 4 and tuple(shape[2:]) != (1, 1)


TASKS = (
    TaskSpec(
        name="classify",
        entry="cnnviz.tasks.classification:Classification",
        summary="One row of class scores [N, K] for each image.",
    ),
    TaskSpec(
        name="segment",
        entry="cnnviz.tasks.segmentation:Segmentation",
        summary="A score of each class at each position, [N, K, h, w].",
        dense=True,
        tiled=False,
        studies=False,
    ),
)
