"""Excitation backprop: where a winner-take-all walk from the class down the excitatory connections ends up.

Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016. A neuron i that has won hands its
probability of winning to its inputs j in proportion to what excites it (equation 10):

    P(a_j) = sum_i P(a_j | a_i) P(a_i),    P(a_j | a_i) = a_j w_ij / Z_i  for w_ij >= 0, else 0

with Z_i the sum over j; activations are taken not to be negative (negative ones excite nothing). Contrastive: the same
walk from the dual unit, whose input weights are the class's negated, is subtracted, and what is left below zero is cut
off (section 3.3): common winners cancel out, what tells this class from all others remains.

Batch normalisation is merged into the convolution before it. Maximum pooling hands all to the winner; average pooling
and sums share in proportion to the (positive) values; elementwise activations hand on all they get, and so do
normalisations that stand by themselves. Biases excite nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.relevance import Propagation, Rules, Weighted, propagate, scaled
from cnnviz.engine.session import Pass
from cnnviz.engine.targets import ClassTarget, Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap

_TINY = 1e-20


def excitation_backprop(run: Pass, target: Target, params: Mapping[str, Any]) -> Heatmap:
    """The marginal winning probability at the target layer, summed over channels.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: A class.
        params: ``contrastive``.

    Returns:
        Heatmap with values [N, h, w] >= 0: probabilities that sum to at most 1 an image (contrastive: their difference
        above zero). Score ``conservation_gap`` = 1 - sum of P: what was lost at neurons that only their bias excites,
        at branches around the layer, and at negative activations of the layer.

    Raises:
        CnnvizError: The network cannot be traced, or has a layer without a rule; another target than a class's logit.
    """
    if not isinstance(target, ClassTarget) or target.score != "logit":
        raise CnnvizError("Excitation backprop starts at a class.", "Leave --score out, or use gradcam.")
    chosen = _winning(run, target, dual=False)
    gap = 1 - chosen.double().sum((1, 2)).float()
    values = chosen
    if params["contrastive"]:
        values = (chosen - _winning(run, target, dual=True)).clamp_min(0)
    facts = {"contrastive": params["contrastive"], "reduction": "sum over channels"}
    return Heatmap(values, facts=facts, scores={"conservation_gap": gap})


def _winning(run: Pass, target: ClassTarget, *, dual: bool) -> Tensor:
    """P at the layer [N, h, w] for a walk from the class, or from its dual."""
    if run.logits.shape[1] == 1:
        # One logit is class 1; class 0 is its dual.
        one = replace(target, indices=torch.ones_like(target.indices))
        straight, turned = _walk(run, one, dual), _walk(run, one, not dual)
        first = (target.indices == 1).to(straight.device)[:, None, None]
        return torch.where(first, straight, turned)
    return _walk(run, target, dual)


def _walk(run: Pass, target: ClassTarget, dual: bool) -> Tensor:
    rules = Rules(_dual if dual else _excitatory, excitatory=True)
    propagation = run.remember(("excitation", dual), lambda: propagate(run, rules, "Excitation backprop"))
    value = target(propagation.logits)
    # Starts with probability 1: c = 1 / z.
    start = value.detach()
    start = torch.where(start.abs() < _TINY, torch.full_like(start, _TINY), start)
    return propagation.relevance(value / start).sum(1)


def _excitatory(layer: Weighted, x: Tensor, y: Tensor, propagation: Propagation) -> tuple[Tensor, str]:
    return scaled(layer.apply(x.clamp_min(0), layer.weight.clamp_min(0), None), y), "excitatory"


def _dual(layer: Weighted, x: Tensor, y: Tensor, propagation: Propagation) -> tuple[Tensor, str]:
    weight = -layer.weight if layer.last else layer.weight
    return scaled(layer.apply(x.clamp_min(0), weight.clamp_min(0), None), y), "excitatory"
