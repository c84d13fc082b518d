"""Classification: one row of class scores [N, K] an image, and classes to explain."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import ClassTarget, class_logits, predicted, probabilities
from cnnviz.models.graph.outputs import two_dim
from cnnviz.records import ClassScore
from cnnviz.tasks.base import Predictions, Request, Task, Words
from cnnviz.tasks.class_names import ClassNames, descending
from cnnviz.tasks.class_selection import TargetSelector


@dataclass(frozen=True, eq=False)
class Classification(Task):
    """A network that gives each class a score.

    Attributes:
        classes: The classes by name.
        score: What is explained of a class: ``logit``, ``probability`` or ``log-probability``.
        activation: How logits become probabilities: ``softmax`` or ``sigmoid``.
    """

    classes: ClassNames
    score: str = "logit"
    activation: str = "softmax"
    name = "classification"

    def reads(self, output: Tensor) -> Predictions:
        logits = two_dim(output.detach())
        scores, shares = rt.fetched((class_logits(logits), probabilities(logits, self.activation)))
        return Predictions(scores, shares, tuple(torch.isfinite(scores).all(dim=1).tolist()))

    def default_target(self, output: Tensor) -> ClassTarget:
        return self.target_of(predicted(two_dim(output.detach())))

    def selector(self, words: Words) -> TargetSelector:
        return TargetSelector(words, self)

    def target_of(self, indices: Tensor) -> ClassTarget:
        """The target of a batch, of the class of each image [N]."""
        return ClassTarget(indices, self.score, self.activation)

    def request(self, index: int) -> ClassRequest:
        """A class of one image."""
        return ClassRequest(index, self)

    def scored(self, index: int, said: Predictions, place: int) -> ClassScore:
        """A class with what the network said of it."""
        return ClassScore(index, self.classes.labels[index], *said.said_of(place, index))

    def top(self, said: Predictions, place: int, count: int) -> tuple[ClassScore, ...]:
        """The ``count`` best classes of one image, best first."""
        best = descending(said.scores[place])[: min(count, len(self.classes))]
        return tuple(self.scored(index, said, place) for index in best)


@dataclass(frozen=True)
class ClassRequest(Request):
    """A class of one image."""

    index: int
    task: Classification = field(compare=False, repr=False)

    @property
    def key(self) -> Hashable:
        return "class"

    @property
    def readout(self) -> Readout:
        return Readout.scores()

    @property
    def slug(self) -> str:
        return self.task.classes.slug(self.index)

    def target(self, requests: Sequence[ClassRequest]) -> ClassTarget:
        return self.task.target_of(torch.tensor([each.index for each in requests]))

    def scored(self, said: Predictions, place: int, output: Any) -> ClassScore:
        return self.task.scored(self.index, said, place)
