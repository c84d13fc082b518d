"""What a network is for: how its output is read, and what can be explained of it.

A task reads what the network says, for people and for the record, and turns what was asked for into requests, one for
each thing that is explained of an image. Requests of the images of a batch that are alike make one target, which costs
one backward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import ByImage, DifferenceTarget, Target
from cnnviz.errors import CnnvizError
from cnnviz.records import ClassScore, DifferenceScore, TargetScore, UnitScore


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier said about a batch, on the host.

    Attributes:
        scores: Logits by class [N, K].
        shares: Probabilities by class [N, K].
        usable: For each image whether all its logits are finite.
    """

    scores: Tensor
    shares: Tensor
    usable: tuple[bool, ...]


class Request(ABC):
    """One thing that is explained of one image."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Requests of a batch with equal keys make one target."""

    @property
    @abstractmethod
    def readout(self) -> Readout:
        """What of the network it is read from."""

    @property
    @abstractmethod
    def slug(self) -> str:
        """What is explained as part of a file name."""

    @abstractmethod
    def target(self, requests: Sequence[Any]) -> ByImage:
        """The target of a batch, of requests with this key, one an image."""

    @abstractmethod
    def scored(self, said: Predictions, place: int, output: Any) -> TargetScore:
        """What the record says of it.

        Args:
            said: The predictions for a batch.
            place: Of the image in it.
            output: What the target reads of this image [1, ...].
        """

    def value(self, output: Any) -> float:
        """The score of one image, of what the target reads of it [1, ...]."""
        return float(self.target([self])(output).detach().float()[0])


class Task(ABC):
    """What a network is for."""

    name: str

    @abstractmethod
    def reads(self, output: Tensor) -> Predictions:
        """What the network said about a batch, from the output that is explained."""

    @abstractmethod
    def default_target(self, output: Tensor) -> Target:
        """What is explained where nobody says what."""


@dataclass(frozen=True)
class DifferenceRequest(Request):
    """What speaks for one thing rather than for another.

    Attributes:
        first, second: Two classes, or two units of one layer.
        spec: As it was asked for.

    Raises:
        CnnvizError: The two are read from different outputs.
    """

    first: Request
    second: Request
    spec: str

    def __post_init__(self) -> None:
        if self.first.readout != self.second.readout:
            raise CnnvizError(
                f"--target {self.spec}: a difference is of two classes, or of two units of one layer.",
                "For example diff:tabby,tiger_cat or diff:unit:features.28:5,unit:features.28:7.",
            )

    @property
    def key(self) -> Hashable:
        return "diff", self.first.key, self.second.key

    @property
    def readout(self) -> Readout:
        return self.first.readout

    @property
    def slug(self) -> str:
        return f"{self.first.slug}-minus-{self.second.slug}"

    def target(self, requests: Sequence[DifferenceRequest]) -> DifferenceTarget:
        return DifferenceTarget(
            self.first.target([each.first for each in requests]),
            self.second.target([each.second for each in requests]),
        )

    def scored(self, said: Predictions, place: int, output: Any) -> DifferenceScore:
        first, second = (each.scored(said, place, output) for each in (self.first, self.second))
        assert isinstance(first, (ClassScore, UnitScore))
        assert isinstance(second, (ClassScore, UnitScore))
        score = self.first.value(output) - self.second.value(output)
        return DifferenceScore(self.spec, f"{first.label} rather than {second.label}", score, first, second)
