"""Which scalar is explained: one score an image, computed from the logits.

Gradients are taken of the logit z_c by default, never of the probability: dp_c = p_c (dz_c - sum_j p_j dz_j) mixes in
every other class and vanishes where the network is sure.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.errors import CnnvizError, nearest
from cnnviz.settings import SCORES


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
    def __call__(self, logits: Tensor) -> Tensor:
        """Scores [N] of logits [N, K], one row for each image, in order."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What the scores are: ``logit``, ``probability``, ``log-probability`` or ``function``."""

    @property
    def logit_index(self) -> Tensor | None:
        """The class of each image [N] where the score is the logit of a class; else None."""
        return None

    def in_unit(self, unit: str) -> Target | None:
        """The same thing in another unit; None where it has no such unit."""
        return self if unit == self.unit else None

    def repeated(self, logits: Tensor, times: int) -> Tensor:
        """Scores [times N] of logits [times N, K], the images of the batch ``times`` over."""
        # A user's function may rely on the number of images.
        return torch.cat([self(part) for part in logits.chunk(times)])

    def of_copies(self, logits: Tensor) -> Tensor:
        """Scores [N, B] of logits [N, B, K], B copies of each image."""
        return torch.stack([self(logits[:, copy]) for copy in range(logits.shape[1])], dim=1)

    def of_image(self, image: int, logits: Tensor, batch: Tensor) -> Tensor:
        """Scores [A] of logits [A, K] that all belong to one image of a batch with these logits [N, K]."""
        rows = [torch.cat([batch[:image], row[None], batch[image + 1 :]]) for row in logits]
        return torch.stack([self(whole)[image] for whole in rows])

    def for_image(self, image: int) -> Target:
        """The target of one image of the batch, alone."""
        return self

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a record says of it: its kind, its unit, and what the kind has."""


class _ByImage(Target):
    """A target whose score of an image needs that image's logits only."""

    @abstractmethod
    def of(self, images: Tensor) -> Target:
        """The target of these images of the batch, each as often as it stands there [M]."""

    def repeated(self, logits: Tensor, times: int) -> Tensor:
        return self.of(torch.arange(len(logits) // times).repeat(times))(logits)

    def of_copies(self, logits: Tensor) -> Tensor:
        count, copies, classes = logits.shape
        every = self.of(torch.arange(count).repeat_interleave(copies))
        return every(logits.reshape(-1, classes)).reshape(count, copies)

    def for_image(self, image: int) -> Target:
        return self.of(torch.tensor([image]))

    def of_image(self, image: int, logits: Tensor, batch: Tensor) -> Tensor:
        return self.of(torch.full((len(logits),), image))(logits)


@dataclass(frozen=True, eq=False)
class ClassTarget(_ByImage):
    """The score of one class an image.

    Attributes:
        indices: Class index for each image, LongTensor [N].
        score: ``logit`` z_c, ``probability`` p_c or ``log-probability`` log p_c.
        activation: ``softmax`` or ``sigmoid``: how logits become probabilities.
    """

    indices: Tensor
    score: str = "logit"
    activation: str = "softmax"

    def __call__(self, logits: Tensor) -> Tensor:
        index = self.indices.to(logits.device)[:, None]
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
class DifferenceTarget(_ByImage):
    """The score of one thing minus that of another: what speaks for the first rather than for the second.

    Attributes:
        first, second: In the same unit.
    """

    first: ClassTarget
    second: ClassTarget

    def __call__(self, logits: Tensor) -> Tensor:
        return self.first(logits) - self.second(logits)

    @property
    def unit(self) -> str:
        return self.first.unit

    def in_unit(self, unit: str) -> DifferenceTarget:
        return DifferenceTarget(self.first.in_unit(unit), self.second.in_unit(unit))

    def of(self, images: Tensor) -> DifferenceTarget:
        return DifferenceTarget(self.first.of(images), self.second.of(images))

    def describe(self) -> dict[str, Any]:
        return {"kind": "diff", "unit": self.unit, "of": self.first.describe(), "minus": self.second.describe()}


@dataclass(frozen=True, eq=False)
class CallableTarget(Target):
    """A user's own score: ``function(logits) -> [N]``."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, logits: Tensor) -> Tensor:
        scores = self.function(logits)
        if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
            shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise CnnvizError(
                f"The target function returned {shape}; expected one score an image, shape [{logits.shape[0]}].",
                "Return for example output[:, 3] - output[:, 5].",
            )
        return scores

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


TargetLike = int | str | Sequence[int] | Tensor | Target | Callable[[Tensor], Tensor] | None


def make_target(
    target: TargetLike,
    logits: Tensor,
    score: str = "logit",
    activation: str = "softmax",
    resolve: Callable[[str], int] = int,
) -> tuple[Target, Tensor]:
    """The target of ``explain`` and the class indices [N] that it explains (of a difference the first; of a function
    the predicted ones).

    Args:
        target: None for the predicted class; an index for all images; one index an image; ``class:NAME``, ``pred`` or
            ``diff:A,B``; a :class:`Target`; or a function.
        logits: [N, K].
        score: One of :data:`SCORES`.
        activation: How logits become probabilities.
        resolve: The index of a class that is named.

    Raises:
        CnnvizError: As many targets as images are needed, each a class of this network.
    """
    if score not in SCORES:
        raise CnnvizError(f"Unknown score {score!r}; expected one of {', '.join(SCORES)}.", nearest(score, SCORES))
    guess = predicted(logits.detach())
    if isinstance(target, Target):
        return target, _classes_of(target, guess).cpu()
    if isinstance(target, str):
        return _of_spec(target, logits, ClassTarget(guess, score, activation), resolve)
    if callable(target) and not isinstance(target, Tensor):
        return CallableTarget(target), guess.cpu()
    indices = guess if target is None else _indices(target, logits)
    return ClassTarget(indices, score, activation), indices.cpu()


def _classes_of(target: Target, guess: Tensor) -> Tensor:
    first = target.first if isinstance(target, DifferenceTarget) else target
    return first.indices if isinstance(first, ClassTarget) else guess


def _of_spec(spec: str, logits: Tensor, guess: ClassTarget, resolve: Callable[[str], int]) -> tuple[Target, Tensor]:
    """The target that a word asks for: ``pred``, ``class:NAME`` or ``diff:A,B``."""

    def one(text: str) -> ClassTarget:
        name = text.strip().removeprefix("class:").strip()
        if name == "pred":
            return guess
        try:
            index = int(name) if name.isascii() and name.isdecimal() else resolve(name)
        except ValueError:
            raise CnnvizError(
                f"target={spec!r}: {name!r} is not a class index, and this network has no class names.",
                "Load it with cnnviz.load_model(...), or give an index, such as target='diff:281,282'.",
            ) from None
        return replace(guess, indices=_indices(index, logits))

    kind, _, rest = spec.partition(":")
    if kind.strip() == "diff":
        parts = two_names(rest)
        if parts is None:
            raise CnnvizError(f"target={spec!r}: expected two classes.", "For example diff:281,282 or diff:pred,281.")
        difference = DifferenceTarget(one(parts[0]), one(parts[1]))
        return difference, difference.first.indices.cpu()
    chosen = one(spec)
    return chosen, chosen.indices.cpu()


def two_names(text: str) -> tuple[str, str] | None:
    """Two names at a comma; a label with commas of its own is put in quotation marks."""
    parts = [
        part.strip().removeprefix("class:").strip() for row in csv.reader([text], skipinitialspace=True) for part in row
    ]
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def _indices(target: Any, logits: Tensor) -> Tensor:
    count, classes = logits.shape[0], class_count(logits)
    try:
        indices = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise CnnvizError(
            f"target={target!r} is not a class index.", "Pass for example target=281, or one index for each image."
        ) from None
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise CnnvizError(f"Class indices are integers; got {indices.dtype}.", "Pass for example target=281.")
    indices = indices.long().expand(count) if indices.dim() == 0 else indices.long().reshape(-1)
    if indices.numel() != count:
        raise CnnvizError(
            f"{indices.numel()} targets for {count} images.", "Pass one class index, or one for each image."
        )
    wrong = [int(i) for i in indices if not 0 <= int(i) < classes]
    if wrong:
        raise CnnvizError(
            f"Class {wrong[0]} does not exist: the network has {classes} classes.", f"Use 0 to {classes - 1}."
        )
    return indices.to(logits.device)
