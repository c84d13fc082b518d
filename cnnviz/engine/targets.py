"""Which scalar is explained: one score an image, computed from what the target reads of the network.

Gradients are taken of the logit z_c by default, never of the probability: dp_c = p_c (dz_c - sum_j p_j dz_j) mixes in
every other class and vanishes where the network is sure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.readout import SUM, Position, Readout
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.outputs import two_dim
from cnnviz.models.graph.structures import map_tensors, tensors_of


def probabilities(logits: Tensor, activation: str = "softmax") -> Tensor:
    """Probabilities [N, K] of logits [N, K].

    One logit is a two-class network: class 1 has sigmoid(z), class 0 has sigmoid(-z), so the result is [N, 2].
    """
    if logits.shape[1] == 1:
        p = torch.sigmoid(logits)
        return torch.cat([1 - p, p], dim=1)
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=1)


def class_logits(logits: Tensor) -> Tensor:
    """Logits by class index: [N, K], or [N, 2] = (-z, z) for one logit."""
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


class Target(ABC):
    """Which scalar of each image is explained. What a method may ask of it, it answers: no method asks its type."""

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """Scores [N] of what is read of the network for N images: logits [N, K] unless :attr:`readout` says other."""

    @property
    def readout(self) -> Readout:
        """What of the network the score is computed from."""
        return Readout.scores()

    @property
    @abstractmethod
    def unit(self) -> str:
        """What the scores are: ``logit``, ``probability``, ``log-probability``, ``activation`` or ``function``."""

    @property
    def logit_index(self) -> Tensor | None:
        """The class of each image [N] where the score is the logit of a class; else None."""
        return None

    @property
    def placed(self) -> bool:
        """Whether it names a place in the image, so that it is another thing in one that is mirrored."""
        return False

    def in_unit(self, unit: str) -> Target | None:
        """The same thing in another unit; None where it has no such unit."""
        return self if unit == self.unit else None

    @property
    def watched(self) -> Target:
        """What is watched while the image is changed: the target itself, but for sums over a region and boxes."""
        return self

    @property
    def alike(self) -> Target | None:
        """How much anything in a changed image is like what is explained, where that is a box; else None."""
        return None

    def repeated(self, output: Any, times: int) -> Tensor:
        """Scores [times N] of an output for [times N], the images of the batch ``times`` over."""
        # A user's function may rely on the number of images.
        parts = [map_tensors(lambda t, i=i: t.chunk(times)[i], output) for i in range(times)]
        return torch.cat([self(part) for part in parts])

    def of_copies(self, output: Any) -> Tensor:
        """Scores [N, B] of an output [N, B, ...], B copies of each image."""
        copies = next(tensors_of(output)).shape[1]
        each = [self(map_tensors(lambda t, i=i: t[:, i], output)) for i in range(copies)]
        return torch.stack(each, dim=1)

    def of_image(self, image: int, output: Any, batch: Any) -> Tensor:
        """Scores [A] of an output [A, ...] that all belongs to one image of a batch with this output [N, ...]."""

        def among(row: int) -> Any:
            return map_tensors(
                lambda own, all_: torch.cat([all_[:image], own[row : row + 1], all_[image + 1 :]]), output, batch
            )

        return torch.stack([self(among(row))[image] for row in range(len(next(tensors_of(output))))])

    def for_image(self, image: int) -> Target:
        """The target of one image of the batch, alone."""
        return self

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a record says of it: its kind, its unit, and what the kind has."""


class ByImage(Target):
    """A target whose score of an image needs that image's row [K] only."""

    @abstractmethod
    def of(self, images: Tensor) -> ByImage:
        """The target of these images of the batch, each as often as it stands there [M]."""

    def in_unit(self, unit: str) -> ByImage | None:
        return self if unit == self.unit else None

    def repeated(self, output: Tensor, times: int) -> Tensor:
        return self.of(torch.arange(len(output) // times).repeat(times))(output)

    def of_copies(self, output: Tensor) -> Tensor:
        count, copies = output.shape[:2]
        every = self.of(torch.arange(count).repeat_interleave(copies))
        return every(output.flatten(0, 1)).reshape(count, copies)

    def for_image(self, image: int) -> ByImage:
        return self.of(torch.tensor([image]))

    def of_image(self, image: int, output: Tensor, batch: Tensor) -> Tensor:
        return self.of(torch.full((len(output),), image))(output)


@dataclass(frozen=True, eq=False)
class ClassTarget(ByImage):
    """The score of one class an image.

    Attributes:
        indices: Class index for each image, LongTensor [N].
        score: ``logit`` z_c, ``probability`` p_c or ``log-probability`` log p_c.
        activation: ``softmax`` or ``sigmoid``: how logits become probabilities.
    """

    indices: Tensor
    score: str = "logit"
    activation: str = "softmax"

    def __call__(self, output: Tensor) -> Tensor:
        logits = two_dim(output)
        index = rt.moved(self.indices, logits.device)[:, None]
        by_class = class_logits(logits)
        if self.score == "logit":
            return by_class.gather(1, index).squeeze(1)
        if logits.shape[1] == 1 or self.activation == "sigmoid":
            log_p = F.logsigmoid(by_class)
        else:
            log_p = F.log_softmax(by_class, dim=1)
        chosen = log_p.gather(1, index).squeeze(1)
        return chosen if self.score == "log-probability" else chosen.exp()

    @property
    def unit(self) -> str:
        return self.score

    @property
    def logit_index(self) -> Tensor | None:
        return self.indices if self.score == "logit" else None

    def in_unit(self, unit: str) -> ClassTarget:
        return replace(self, score=unit)

    def of(self, images: Tensor) -> ClassTarget:
        return replace(self, indices=self.indices[images.to(self.indices.device)])

    def describe(self) -> dict[str, Any]:
        return {"kind": "class", "unit": self.unit, "class_index": self.indices.tolist()}


@dataclass(frozen=True, eq=False)
class DifferenceTarget(ByImage):
    """The score of one thing minus that of another: what speaks for the first rather than for the second.

    Attributes:
        first, second: Read from the same, in the same unit.

    Raises:
        CnnvizError: The two are read from different outputs.
    """

    first: ByImage
    second: ByImage

    def __call__(self, output: Tensor) -> Tensor:
        return self.first(output) - self.second(output)

    @property
    def readout(self) -> Readout:
        return self.first.readout

    @property
    def unit(self) -> str:
        return self.first.unit

    @property
    def placed(self) -> bool:
        return self.first.placed or self.second.placed

    def __post_init__(self) -> None:
        if self.first.readout != self.second.readout:
            raise CnnvizError(
                "A difference is of two scores from one output: of two classes, or of two units of one layer.",
                "For example diff:281,282 or diff:unit:features.28:5,unit:features.28:7.",
            )

    @property
    def watched(self) -> DifferenceTarget:
        first, second = self.first.watched, self.second.watched
        assert isinstance(first, ByImage)
        assert isinstance(second, ByImage)
        return DifferenceTarget(first, second)

    def in_unit(self, unit: str) -> DifferenceTarget | None:
        first, second = self.first.in_unit(unit), self.second.in_unit(unit)
        return DifferenceTarget(first, second) if first is not None and second is not None else None

    def of(self, images: Tensor) -> DifferenceTarget:
        return DifferenceTarget(self.first.of(images), self.second.of(images))

    def describe(self) -> dict[str, Any]:
        return {"kind": "diff", "unit": self.unit, "of": self.first.describe(), "minus": self.second.describe()}


@dataclass(frozen=True, eq=False)
class UnitTarget(ByImage):
    """One unit of a layer in each image: the sum of its map, its strongest position, or a single neuron.

    Attributes:
        layer: As ``--layer`` has it; also a layer that returns a vector [N, C].
        indices: Channel for each image, LongTensor [N].
        at: ``sum`` over positions, ``strongest`` position, or (row, column) of a neuron.
    """

    layer: str
    indices: Tensor
    at: Position = SUM

    def __call__(self, output: Tensor) -> Tensor:
        wrong = [int(i) for i in self.indices if not 0 <= int(i) < output.shape[1]]
        if wrong:
            raise CnnvizError(
                f"Unit {wrong[0]} does not exist: layer {self.layer} has {output.shape[1]}.",
                f"Use 0 to {output.shape[1] - 1}.",
            )
        return output.gather(1, rt.moved(self.indices, output.device)[:, None]).squeeze(1)

    @property
    def readout(self) -> Readout:
        return Readout.units(self.layer, self.at)

    @property
    def unit(self) -> str:
        return "activation"

    @property
    def placed(self) -> bool:
        return not isinstance(self.at, str)

    def of(self, images: Tensor) -> UnitTarget:
        return replace(self, indices=self.indices[images.to(self.indices.device)])

    def describe(self) -> dict[str, Any]:
        neuron = not isinstance(self.at, str)
        where = {"position": list(self.at)} if neuron else {"reduction": self.at}
        kind = "neuron" if neuron else "unit"
        return {"kind": kind, "unit": self.unit, "layer": self.layer, "index": self.indices.tolist(), **where}


@dataclass(frozen=True, eq=False)
class OutputTarget(ByImage):
    """One output of a regression in each image, or its negative: what raises it, or what lowers it.

    Attributes:
        indices: Output of each image, LongTensor [N].
        signs: 1 or -1 for each image [N].
    """

    indices: Tensor
    signs: Tensor

    def __call__(self, output: Tensor) -> Tensor:
        values = two_dim(output)
        return values.gather(1, rt.moved(self.indices, values.device)[:, None]).squeeze(1) * rt.moved(
            self.signs, values.device
        ).to(values)

    @property
    def unit(self) -> str:
        return "output"

    def of(self, images: Tensor) -> OutputTarget:
        rows = images.to(self.indices.device)
        return replace(self, indices=self.indices[rows], signs=self.signs[rows])

    def describe(self) -> dict[str, Any]:
        signs = [int(sign) for sign in self.signs]
        return {"kind": "output", "unit": self.unit, "index": self.indices.tolist(), "sign": signs}


@dataclass(frozen=True, eq=False)
class CallableTarget(Target):
    """A user's own score: ``function(output) -> [N]`` of all that the network returns, in its own structure."""

    function: Callable[[Any], Tensor]

    def __call__(self, output: Any) -> Tensor:
        scores = self.function(output)
        first = next(tensors_of(output), None)
        count = "N" if first is None or not first.dim() else first.shape[0]
        if not isinstance(scores, Tensor) or scores.dim() != 1 or (count != "N" and len(scores) != count):
            shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise CnnvizError(
                f"The target function returned {shape}; expected one score an image, shape [{count}].",
                "Return for example output[:, 3] - output[:, 5].",
            )
        return scores

    @property
    def readout(self) -> Readout:
        return Readout.everything()

    @property
    def unit(self) -> str:
        return "function"

    def describe(self) -> dict[str, Any]:
        return {"kind": "function", "unit": self.unit, "name": getattr(self.function, "__name__", "function")}


def logit_indices(target: Target) -> Tensor:
    """The class of each image [N], of a target that is the logit of a class."""
    if target.logit_index is None:
        raise TypeError("the target is not the logit of a class")
    return target.logit_index


def class_count(logits: Tensor) -> int:
    """Number of classes that can be asked for: 2 for one logit."""
    return 2 if logits.shape[1] == 1 else int(logits.shape[1])


def predicted(logits: Tensor) -> Tensor:
    """Index of the highest score, LongTensor [N]; the lowest index among equals."""
    return class_logits(logits).argmax(dim=1)
