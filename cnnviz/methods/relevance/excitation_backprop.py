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

Where the classifier is a 1x1 convolution that average pooling follows (SqueezeNet), the class has a neuron at each
position, and what each position hands down is decided before the weights take part: summed over channels, the walk from
the class and the one from its dual are equal, and their difference is rounding. For the contrast such a head is read as
the pooling and linear layer that it equals: one neuron, whose inputs are all positions at which the class fires.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import ClassTarget, Target, logit_indices
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.relevance.propagation import Propagation, Rules, Weighted, propagate, readable, scaled
from cnnviz.models.graph.heads import read_head
from cnnviz.registry.relevance import ExcitationBackpropOptions

_NAME = "Excitation backprop"
_TINY = 1e-20
# Below this share of the largest probability a difference of two walks is what rounding left.
_ROUNDING = 1e-5


def excitation_backprop(run: ForwardPass, target: Target, params: ExcitationBackpropOptions) -> Heatmap:
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
    if target.logit_index is None:
        raise CnnvizError("Excitation backprop starts at a class.", "Leave --score out, or use gradcam.")
    pooled = bool(params.contrastive) and _has_class_maps(run)
    chosen = _winning(run, target, _Walk(pooled=pooled))
    gap = 1 - rt.wide(chosen).sum((1, 2)).float()
    values, notes = chosen, tuple[str, ...]()
    if params.contrastive:
        values, notes = _contrast(chosen, _winning(run, target, _Walk(True, pooled)))
    facts = {"contrastive": params.contrastive, "reduction": "sum over channels"}
    if pooled:
        facts["head"] = "the 1x1 convolution and the pooling are read as pooling and a linear layer"
    return Heatmap(values, facts=facts, scores={"conservation_gap": gap, "gap_share": gap.abs()}, notes=notes)


def _contrast(chosen: Tensor, dual: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The difference above zero; where it is rounding for every image, zeros, and why.

    A head that picks the strongest position of its class maps makes a class and its dual win at the same cell.
    """
    difference = chosen - dual
    if bool((difference.abs() <= _ROUNDING * chosen.abs().amax((1, 2), keepdim=True)).all()):
        note = "the contrast is zero everywhere: in this head a class and its dual win at the same positions"
        return torch.zeros_like(difference), (note,)
    return difference.clamp_min(0), ()


@dataclass(frozen=True)
class _Walk:
    """A walk: from the class or its ``dual``, with a head of class maps read as ``pooled`` before it is weighted."""

    dual: bool = False
    pooled: bool = False

    def rule(self, layer: Weighted, x: Tensor, y: Tensor, propagation: Propagation) -> tuple[Tensor, str]:
        weight = -layer.weight if self.dual and layer.last else layer.weight
        exciting = layer.apply(x.clamp_min(0), weight.clamp_min(0), None)
        if self.pooled and layer.last:
            return _over_positions(exciting, y), "excitatory"
        return scaled(exciting, y), "excitatory"


def _over_positions(exciting: Tensor, y: Tensor) -> Tensor:
    """Shares of what excites a class map [N, K, h, w], of the sum over the positions at which it is positive."""
    firing = (y > 0).to(y.dtype)
    part, whole = ((value * firing).sum((2, 3), keepdim=True) for value in (exciting, y))
    return exciting * (whole / _nonzero(part)).detach()


def _nonzero(value: Tensor) -> Tensor:
    return torch.where(value.abs() < _TINY, torch.full_like(value, _TINY), value)


def _has_class_maps(run: ForwardPass) -> bool:
    """Whether the head is a 1x1 convolution whose class maps are averaged."""

    def found() -> bool:
        graph, _ = readable(run.session, _NAME)
        try:
            reading = read_head(graph, run.session.name)
        except CnnvizError:
            return False
        return reading.class_maps and reading.pooling == "average"

    return run.session.remember("class maps are averaged", found)


def _winning(run: ForwardPass, target: Target, walk: _Walk) -> Tensor:
    """P at the layer [N, h, w]."""
    if run.logits.shape[1] == 1:
        # One logit is class 1; class 0 is its dual.
        indices = logit_indices(target)
        one = ClassTarget(torch.ones_like(indices))
        upright, negated = _reached(run, one, walk), _reached(run, one, replace(walk, dual=not walk.dual))
        first = (indices == 1).to(upright.device)[:, None, None]
        return torch.where(first, upright, negated)
    return _reached(run, target, walk)


def _reached(run: ForwardPass, target: Target, walk: _Walk) -> Tensor:
    rules = Rules(walk.rule, excitatory=True)
    propagation = run.remember(("excitation", walk), lambda: propagate(run, rules, _NAME))
    value = target(propagation.output)
    # Starts with probability 1: c = 1 / z.
    return propagation.relevance(value / _nonzero(value.detach())).sum(1)
