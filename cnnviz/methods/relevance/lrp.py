"""Layer-wise relevance propagation: the score handed back layer by layer, each neuron's share to its inputs.

Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", PLoS
ONE 2015. With z_jk = a_j w_jk what input j sends to neuron k, z_k = sum_j z_jk + b_k, and z+, z- their positive and
negative parts summed with those of the bias:

    epsilon      R_j = sum_k z_jk / (z_k + epsilon sign(z_k)) R_k                       (formula 58)
    alpha-beta   R_j = sum_k (alpha z_jk+ / z_k+  -  beta z_jk- / z_k-) R_k,  alpha - beta = 1    (formula 60)
    flat         R_j = sum_k 1 / (number of inputs of k) R_k
    gamma        R_j = sum_k (z_jk + gamma z_jk^s) / (z_k + gamma z_k^s) R_k,  s the sign of z_k: those that share it
    composite    epsilon at linear layers, alpha 1 beta 0 at convolutions, flat at a convolution that reads the image
                 (EpsilonPlusFlat of Kohlbrenner et al., "Towards Best Practice in Explaining Neural Network Decisions
                 with LRP", IJCNN 2020)

``attnlrp`` is for transformers (Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
Transformers", ICML 2024): gamma at linear layers and convolutions, a half to each factor of a matrix product, the
Taylor rule R_i = x_i (R_i - s_i sum_j R_j) at the softmax s of x, which is the gradient's own split, and normalisations
with the deviation as a constant. The softmax loses what its bias, the value at zero, takes; class token and positions
keep their share as biases do.

Batch normalisation is merged into the convolution before it. Elementwise activations hand on all they get, maximum
pooling gives it to the winner, sums and average pooling share it in proportion, gates (sigmoid factors) take none.
Biases take their share, as in the paper, which is lost: that and epsilon are what the recorded conservation gap holds;
with beta > 0 also neurons that only inputs of one sign reach, which hand on alpha (or -beta) times what they got. In
deep networks with large (merged) biases the gap can be nearly all of the score; with ``bias=ignore`` biases take
nothing, and the inputs share all of it; only what reaches a neuron without a suitable input is lost then. The epsilon
rule then multiplies what a neuron hands back by up to |z_jk| / epsilon where its inputs nearly cancel: in a deep
network that overflows, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.methods.heatmap import Heatmap, gap_share
from cnnviz.methods.relevance.propagation import Propagation, Rules, Weighted, propagate, scaled
from cnnviz.registry.relevance import LRPOptions

_RANKED = 5
RULES = ("composite", "epsilon", "alpha-beta", "attnlrp")


def lrp(run: ForwardPass, target: Target, params: LRPOptions) -> Heatmap:
    """Layer-wise relevance propagation from the logit to the pixels.

    On a network of ReLUs without clipping, epsilon = 0 gives gradient times input (Ancona et al. 2018).

    Args:
        run: A forward pass that starts at the image.
        target: The logit of a class, a unit, or a function linear in the output (such as the difference of two).
        params: ``rule``, ``epsilon``, ``alpha`` (beta = alpha - 1), ``gamma`` (of linear layers) and ``conv_gamma``,
            ``bias`` (``absorb`` or ``ignore``); ``through``: channels of a layer that the pass looks at beside the
            image, or ``all``.

    With ``through`` the map is conditional (concept relevance propagation: Achtibat et al., "From attribution maps to
    human-understandable explanations through Concept Relevance Propagation", Nature Machine Intelligence 2023):
    relevance is handed back to the layer, that of all other channels is set to zero, and the rest goes on to the
    pixels. What passes beside the layer takes no part, so maps of all channels together are the map of ``all``, and
    that of the score where all paths pass the layer.

    Returns:
        Heatmap with values [N, C, H, W] and maps [N, H, W] (sum over channels), signed, in units of the score; scores
        ``conservation_gap`` = score - sum of R for each image and ``gap_share``, its share of the score; fact
        ``layers``: how often each rule was used. With ``through`` the gap is that of the whole score, and further
        scores are ``through_relevance`` [N], the relevance of the channels at the layer, ``top_channels`` [N, 5], the
        channels with the most, and ``top_channel_relevance`` [N, 5].

    Raises:
        CnnvizError: The network cannot be traced, or has a layer without a rule; a probability is asked for; the layer
            has no such channel.
        ImageError: The epsilon rule without biases overflows.
    """
    if target.unit in ("probability", "log-probability"):
        raise CnnvizError("LRP hands back the logit of a class, not its probability.", "Leave --score out.")
    rules = Rules(partial(_weighted, params), attention=params.rule == "attnlrp")
    propagation = run.remember(("lrp", params), lambda: propagate(run, rules, "LRP"))
    score = target(propagation.output)
    values = propagation.relevance(score)
    _check_finite(values, score, params)
    gap = rt.wide(score.detach()) - rt.wide(values).sum((1, 2, 3))
    facts = {"rule": params.rule, "layers": dict(propagation.used), "reduction": "sum over channels"}
    scores = {"conservation_gap": gap.float(), "gap_share": gap_share(gap, score)}
    if params.through:
        values, figures = _through(propagation, score, params.through)
        scores |= figures
        facts["through"] = params.through
    return Heatmap(values, values.sum(1), facts=facts, scores=scores)


def _through(propagation: Propagation, score: Tensor, through: str) -> tuple[Tensor, dict[str, Tensor]]:
    """R [N, C, H, W] through channels of the layer, and what the channels have there."""
    layer = propagation.layer
    if layer is None or not layer.requires_grad or layer.dim() != 4:
        raise CnnvizError(
            "No relevance is known of this layer: it is no map of channels, or a normalisation that follows is merged "
            "into it.",
            "Name what follows it with --layer, such as the activation.",
        )
    c = torch.autograd.grad(score.sum(), layer, retain_graph=True)[0]
    each = rt.wide(layer.detach() * c).sum((2, 3))
    channels = _channels(through, each.shape[1])
    kept = torch.zeros_like(c)
    kept[:, channels] = c[:, channels]
    top = each.topk(min(_RANKED, each.shape[1]), dim=1)
    figures = {
        "through_relevance": each[:, channels].sum(1).float(),
        "top_channels": top.indices,
        "top_channel_relevance": top.values.float(),
    }
    return propagation.relevance(layer, kept), figures


def _channels(text: str, count: int) -> list[int]:
    """The channels that ``5,17`` or ``all`` names, each once."""
    if text == "all":
        return list(range(count))
    parts = [part.strip() for part in text.split(",")]
    bad = [part for part in parts if not part.isdecimal() or int(part) >= count]
    if bad:
        raise CnnvizError(
            f"--through {text}: {bad[0]!r} is no channel of the layer, which has {count}.",
            f"Use numbers from 0 to {count - 1}, such as 0,{count - 1}, or all.",
        )
    return sorted({int(part) for part in parts})


def _check_finite(values: Tensor, score: Tensor, params: LRPOptions) -> None:
    """Raises an ImageError where the relevance of a finite score grew beyond all bounds on its way to the pixels."""
    finite = values.flatten(1).isfinite().all(1) | ~score.detach().isfinite()
    if bool(finite.all()) or params.rule != "epsilon" or params.bias != "ignore":
        return
    raise ImageError(
        "not-finite",
        "LRP overflows: without biases the epsilon rule divides by the sum of a neuron's inputs, which nearly cancel "
        "at some neurons, and in a deep network the quotients multiply.",
        "Use --rule composite or alpha-beta with --bias ignore, or --rule epsilon with --bias absorb.",
    )


def _weighted(
    params: LRPOptions, layer: Weighted, x: Tensor, y: Tensor, propagation: Propagation
) -> tuple[Tensor, str]:
    rule = params.rule
    if params.bias == "ignore":
        layer = replace(layer, bias=None)
    if rule == "alpha-beta":
        return _alpha_beta(layer, x, y, params.alpha), f"alpha {params.alpha:g}, beta {params.alpha - 1:g}"
    if rule == "attnlrp":
        gamma = params.conv_gamma if layer.convolution else params.gamma
        return _gamma(layer, x, y, gamma), f"gamma {gamma:g}"
    if rule == "composite" and layer.convolution:
        if layer.from_image is not None:
            return _flat(layer, layer.from_image, y, propagation), "flat"
        return _alpha_beta(layer, x, y, 1.0), "alpha 1, beta 0"
    sums = y if params.bias == "absorb" else layer.apply(x, layer.weight, None)
    return _epsilon(sums, y, params.epsilon), "epsilon"


def _epsilon(sums: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """``sums``: what the inputs (and the bias, where it takes its share) add up to."""
    if epsilon == 0:
        return scaled(sums, y)
    return sums * (y / (sums + torch.where(sums >= 0, epsilon, -epsilon))).detach()


def _alpha_beta(layer: Weighted, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    up, down = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
    high = None if layer.bias is None else layer.bias.detach().clamp_min(0)
    low = None if layer.bias is None else layer.bias.detach().clamp_max(0)
    above, below = x.clamp_min(0), x.clamp_max(0)
    mixed = bool((x.detach() < 0).any())
    for_it = layer.apply(above, up, high)
    if mixed:
        for_it = for_it + layer.apply(below, down, None)
    q = alpha * scaled(for_it, y)
    if alpha != 1:
        against = layer.apply(above, down, low)
        if mixed:
            against = against + layer.apply(below, up, None)
        q = q - (alpha - 1) * scaled(against, y)
    return q


def _gamma(layer: Weighted, x: Tensor, y: Tensor, gamma: float) -> Tensor:
    up, down = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
    high = None if layer.bias is None else layer.bias.detach().clamp_min(0)
    low = None if layer.bias is None else layer.bias.detach().clamp_max(0)
    sums = layer.apply(x, layer.weight, layer.bias)
    if gamma == 0:
        return scaled(sums, y)
    above, below = x.clamp_min(0), x.clamp_max(0)
    for_it = layer.apply(above, up, high) + layer.apply(below, down, None)
    against = layer.apply(above, down, low) + layer.apply(below, up, None)
    return scaled(sums + gamma * torch.where(sums >= 0, for_it, against), y)


def _flat(layer: Weighted, from_image: Callable[[Tensor], Tensor], y: Tensor, propagation: Propagation) -> Tensor:
    """Every input in reach gets the same: as if the image and the weights were ones."""
    ones = torch.ones_like(propagation.at).requires_grad_()
    propagation.extra.append(ones)
    return scaled(layer.apply(from_image(ones), torch.ones_like(layer.weight), None), y)
