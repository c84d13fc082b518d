"""Classification: one row of class scores [N, K] an image, and classes to explain."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import ClassTarget, class_logits, predicted, probabilities
from cnnviz.errors import CnnvizError
from cnnviz.io.names import unique_parts
from cnnviz.models.graph.outputs import two_dim
from cnnviz.models.loading.labels import LabelLookup
from cnnviz.records import ClassScore
from cnnviz.tasks.base import Predictions, Request, Task


class ClassNames:
    """Class names by index. One logit is a two-class network: class 1 is the logit, class 0 its negative.

    Args:
        labels: Names by output.
        one_logit: The network has a single output.
        synsets: WordNet ids by output; empty where they are not known.
        tell: Told what was guessed.
    """

    def __init__(
        self,
        labels: Sequence[str],
        one_logit: bool,
        synsets: Sequence[str] = (),
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        if one_logit and len(labels) == 1:
            plain = labels[0] == "class 0"
            labels, synsets = ("class 0", "class 1") if plain else (f"not {labels[0]}", labels[0]), ()
        self.labels = tuple(labels)
        self._slugs = unique_parts(self.labels)
        self._lookup = LabelLookup(self.labels, synsets if len(synsets) == len(labels) else ())
        self._tell = tell
        self._told: set[str] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def slug(self, index: int) -> str:
        """The label as part of a file name: unique, without separators."""
        return self._slugs[index]

    def resolve(self, text: str) -> int:
        """The class that a person typed. What is a guess is told."""
        found = self._lookup.typed(text)
        if found.guess:
            self._tell(f"--class {text.strip()}: {found.guess}")
        return found.index

    def exact(self, text: str) -> int:
        """The class that a folder or a table names: never a part of a label. Each kind of interpretation is told once.

        Raises:
            CnnvizError: No class or several are called that.
        """
        found = self._lookup.exact(text)
        if found.guess and found.kind not in self._told:
            self._told.add(found.kind)
            self._tell(f"labels of images: {found.guess}")
        return found.index


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
        scores, shares = class_logits(logits).cpu(), probabilities(logits, self.activation).cpu()
        return Predictions(scores, shares, tuple(torch.isfinite(scores).all(dim=1).tolist()))

    def default_target(self, output: Tensor) -> ClassTarget:
        return self.target_of(predicted(two_dim(output.detach())))

    def target_of(self, indices: Tensor) -> ClassTarget:
        """The target of a batch, of the class of each image [N]."""
        return ClassTarget(indices, self.score, self.activation)

    def request(self, index: int) -> ClassRequest:
        """A class of one image."""
        return ClassRequest(index, self)

    def scored(self, index: int, said: Predictions, place: int) -> ClassScore:
        """A class with what the network said of it."""
        share, score = float(said.shares[place, index]), float(said.scores[place, index])
        return ClassScore(index, self.classes.labels[index], share, score)

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


def descending(logits: Tensor) -> list[int]:
    """Class indices by falling score; the lower index first among equals."""
    order: list[int] = torch.sort(logits, descending=True, stable=True).indices.tolist()
    return order


def check_class(index: int, count: int) -> int:
    """Raises a CnnvizError unless a network with so many classes has this one."""
    if not 0 <= index < count:
        raise CnnvizError(f"Class {index} does not exist: the network has {count} classes.", f"Use 0 to {count - 1}.")
    return index
