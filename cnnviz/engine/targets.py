"""Which scalar is explained: one score an image, computed from the logits.

Gradients are taken of the logit z_c by default, never of the probability: dp_c = p_c (dz_c - sum_j p_j dz_j) mixes in
every other class and vanishes where the network is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class ClassTarget:
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
        """Scores [N] of logits [N, K]."""
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


@dataclass(frozen=True, eq=False)
class CallableTarget:
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


Target = ClassTarget | CallableTarget


def class_count(logits: Tensor) -> int:
    """Number of classes that can be asked for: 2 for one logit."""
    return 2 if logits.shape[1] == 1 else int(logits.shape[1])


def predicted(logits: Tensor) -> Tensor:
    """Index of the highest score, LongTensor [N]; the lowest index among equals."""
    return class_logits(logits).argmax(dim=1)


def make_target(
    target: int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None,
    logits: Tensor,
    score: str = "logit",
    activation: str = "softmax",
) -> tuple[Target, Tensor]:
    """The target of ``explain`` and the class indices [N] that it explains.

    Args:
        target: None for the predicted class; an index for all images; one index an image; or a function.
        logits: [N, K].
        score: One of :data:`SCORES`.
        activation: How logits become probabilities.

    Raises:
        CnnvizError: As many targets as images are needed, each a class of this network.
    """
    if score not in SCORES:
        raise CnnvizError(f"Unknown score {score!r}; expected one of {', '.join(SCORES)}.", nearest(score, SCORES))
    guess = predicted(logits.detach())
    if callable(target) and not isinstance(target, Tensor):
        return CallableTarget(target), guess.cpu()
    indices = guess if target is None else _indices(target, logits)
    return ClassTarget(indices, score, activation), indices.cpu()


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
