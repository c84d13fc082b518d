"""Targets of networks that score classes at positions: the score of a class summed over a region."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.targets import ByImage, class_logits

Reduction = Literal["sum", "mean"]


def dense_logits(output: Tensor) -> Tensor:
    """Scores by class [N, K, h, w] in float32; of one score z those of two classes, -z and z."""
    return class_logits(output.float())


@dataclass(frozen=True, eq=False)
class RegionTarget(ByImage):
    """The score of one class an image, summed over a region of a dense output (Vinogradova et al., AAAI 2020).

    y = sum over positions p of w_p s_c(p), with w_p from 0 to 1 the share of cell p that lies in the region, and s_c
    the logit, the probability or its logarithm. The mean divides y by the sum of w.

    Attributes:
        indices: Class of each image, LongTensor [N].
        weights: [N, h, w], at the size of the output.
        score: ``logit``, ``probability`` or ``log-probability``.
        activation: ``softmax`` or ``sigmoid``: how logits become probabilities.
        reduction: ``sum`` or ``mean``.
    """

    indices: Tensor
    weights: Tensor
    score: str = "logit"
    activation: str = "softmax"
    reduction: Reduction = "sum"

    def __call__(self, output: Tensor) -> Tensor:
        scores = self.scores_at(output)
        weights = rt.moved(self.weights, scores.device).to(scores)
        total = (scores * weights).sum((1, 2))
        return total if self.reduction == "sum" else total / weights.sum((1, 2))

    def scores_at(self, output: Tensor) -> Tensor:
        """The score of the class at every position [N, h, w] of an output [N, K, h, w]."""
        logits = dense_logits(output)
        index = rt.moved(self.indices, logits.device)[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        chosen = logits.gather(1, index).squeeze(1)
        if self.score == "logit":
            return chosen
        if output.shape[1] == 1 or self.activation == "sigmoid":
            log_p = F.logsigmoid(chosen)
        else:
            log_p = chosen - torch.logsumexp(logits, dim=1)
        return log_p if self.score == "log-probability" else log_p.exp()

    @property
    def placed(self) -> bool:
        return True

    @property
    def unit(self) -> str:
        return self.score

    @property
    def watched(self) -> RegionTarget:
        """The mean over the region: what changes by itself where pixels are hidden, whatever the region's size."""
        return replace(self, reduction="mean")

    def in_unit(self, unit: str) -> RegionTarget:
        return replace(self, score=unit)

    def of(self, images: Tensor) -> RegionTarget:
        rows = images.to(self.indices.device)
        return replace(self, indices=self.indices[rows], weights=self.weights[rows])

    def describe(self) -> dict[str, Any]:
        elements = (self.weights > 0).sum((1, 2))
        return {
            "kind": "region",
            "unit": self.unit,
            "class_index": self.indices.tolist(),
            "elements": elements.tolist(),
            "reduction": self.reduction,
        }
