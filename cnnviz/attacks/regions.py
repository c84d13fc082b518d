"""What an attack is after where a network scores classes at positions: the prediction of a region."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

_ALL = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class RegionGoal:
    """A class at each position of a region to leave, or to reach.

    The loss is the mean of the cross-entropy over the region (Arnab, Miksik and Torr, "On the Robustness of Semantic
    Segmentation Models to Adversarial Attacks", CVPR 2018), where Xie et al. ("Adversarial Examples for Semantic
    Segmentation and Object Detection", ICCV 2017) add up differences of logits: it goes on raising the loss of
    positions that are wrong already, but ever less so where a class is to be reached.

    Attributes:
        classes: [N, h, w] the class of each position to leave, or to reach.
        weights: [N, h, w] from 0 to 1, the share of each position that lies in the region; its sum is above zero.
        targeted: Whether the classes are to be reached.
    """

    classes: Tensor
    weights: Tensor
    targeted: bool = False

    def of(self, rows: Tensor) -> RegionGoal:
        """The goal of some of the images."""
        return RegionGoal(self.classes[rows], self.weights[rows.to(self.weights.device)], self.targeted)

    def loss(self, logits: Tensor) -> Tensor:
        """[N] what a sign attack climbs, of logits [N, K, h, w].

        L = sum_p w_p CE(z_p, y_p) / sum_p w_p with CE = log(1 + exp(log sum_{j != y} exp z_j - z_y)); -L at the class
        to reach.
        """
        own, others = self._apart(logits)
        entropy = self._mean(F.softplus(others.logsumexp(dim=1) - own))
        return -entropy if self.targeted else entropy

    def excess(self, logits: Tensor) -> Tensor:
        """[N] share of the region at which the goal is met, less 1: 0 where it is met everywhere."""
        return self._mean(self._ahead(logits, 0.0).to(logits.dtype)) - 1

    def met(self, logits: Tensor, tolerance: float) -> Tensor:
        """[N] whether the goal is met everywhere in the region, by more than ``tolerance`` times the largest logit."""
        return self._mean(self._ahead(logits, tolerance).to(logits.dtype)) > _ALL

    def _ahead(self, logits: Tensor, tolerance: float) -> Tensor:
        own, others = self._apart(logits)
        margin = (own - others.amax(dim=1)) * (1 if self.targeted else -1)
        return margin > tolerance * logits.abs().flatten(1).amax(dim=1)[:, None, None]

    def _mean(self, values: Tensor) -> Tensor:
        weights = self.weights.to(values)
        return (values * weights).sum((1, 2)) / weights.sum((1, 2))

    def _apart(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        index = self.classes.to(logits.device)[:, None]
        return logits.gather(1, index).squeeze(1), logits.scatter(1, index, float("-inf"))
