"""CAM: the classifier's own weights on the last feature maps.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import Target, logit_indices
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.models.graph.heads import HeadReading, read_head
from cnnviz.registry.params import Options

_IDENTITY_TOLERANCE = 1e-3


def cam(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Class activation map.

        M_c(i, j) = sum_k w_ck A_k(i, j)

    A are the feature maps [N, C, h, w] that are pooled globally, w the weights [K, C] of the one linear layer after
    the pooling (or of the 1x1 convolution before it). With average pooling and bias b the map's mean is the logit:
    mean(M_c) + b_c = z_c; the identity is checked on the first batch of a session and its error recorded. Where a
    layer normalisation stands between pooling and classifier the logit is not linear in the pooled features; the
    weights are then those of the head linearised at this image, and the record says ``"linear": false``. Where a ReLU
    stands between a classifying convolution and the pooling (SqueezeNet), what is below it has no part in the logit:

        M_c(i, j) = max(0, sum_k w_ck A_k(i, j) + b_c),    mean(M_c) = z_c

    Args:
        run: A forward pass through the default layer.
        target: A class (the weights of a class are what CAM shows).
        params: None.

    Returns:
        Heatmap with values [N, h, w], signed, in logits (average pooling: divided over h w positions).

    Raises:
        CnnvizError: The head is something else than global pooling and one linear layer.
    """
    if target.logit_index is None:
        raise CnnvizError(
            "CAM explains the logit of a class.", "Ask for a class, and leave --score out, or use `cnnviz gradcam`."
        )
    head, activations, facts = read(run)
    weights = _class_weights(head, logit_indices(target), activations)
    n, channels, height, width = activations.shape
    maps = (weights[:, None] @ activations.reshape(n, channels, -1)).reshape(n, height, width)
    return Heatmap(_rectified(head, target, maps) if head.rectified else maps, facts=facts)


def cams(run: ForwardPass, targets: Sequence[Target], params: Options) -> Heatmap | None:
    """The maps of many classes, as :func:`cam` has each: one product of weights and feature maps for each image.

    Returns:
        Heatmap with values [K, N, h, w]; None where :func:`cam` has to say why a target is refused.
    """
    if any(target.logit_index is None for target in targets):
        return None
    head, activations, facts = read(run)
    indices = torch.stack([logit_indices(target) for target in targets])
    weights = _class_weights(head, indices, activations).transpose(0, 1)
    maps = (weights @ activations.flatten(2)).unflatten(2, activations.shape[2:]).transpose(0, 1)
    if head.rectified:
        maps = torch.stack([_rectified(head, target, own) for target, own in zip(targets, maps, strict=True)])
    return Heatmap(maps, facts=facts)


def read(run: ForwardPass) -> tuple[HeadReading, Tensor, Mapping[str, Any]]:
    """The head of a network with global pooling and one linear layer, the feature maps, and what records say of it.

    Raises:
        CnnvizError: It is another head.
    """
    session = run.session
    head = session.remember("cam head", lambda: _reading(session))
    activations = run.activations[0].detach().float()
    # A head with convolutions runs in the precision of the run, and its logits are no more exact than that.
    exact = session.split is None or session.split.head_dtype == torch.float32
    tolerance = _IDENTITY_TOLERANCE if exact else session.runtime.tolerance
    facts = session.remember("cam facts", lambda: _verified(head, activations, run.logits.detach(), tolerance))
    return head, activations, facts


def _reading(session: Session) -> HeadReading:
    name = session.name
    if session.graph is None:
        raise CnnvizError(
            f"CAM needs to follow the data from the feature map to the logits; {name} {session.untraced}.",
            "Use `cnnviz gradcam`.",
        )
    head = read_head(session.graph, name)
    if session.layers[0].node is not head.features:
        raise CnnvizError(
            f"CAM is defined on the feature map that is pooled, not on {session.layers[0].name}.",
            "Leave --layer out, or use `cnnviz gradcam --layer`.",
        )
    # Once a session: weights that cross to a graphics card with every batch make the host wait for it.
    bias = head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias
    return replace(
        head, weight=rt.moved(head.weight.detach(), session.device), bias=rt.moved(bias.detach(), session.device)
    )


def _class_weights(head: HeadReading, indices: Tensor, activations: Tensor) -> Tensor:
    """Weight of each channel for each image's class [..., N, C], of classes [..., N]."""
    classifier = head.weight.detach().to(activations)
    indices = rt.moved(indices, activations.device)
    if classifier.shape[0] == 1:
        # One logit: class 1 is the logit, class 0 its negative.
        weights = classifier[0] * (2 * indices - 1)[..., None]
    else:
        weights = classifier[indices]
    return weights if head.norm is None else _through_norm(head, weights, activations)


def _rectified(head: HeadReading, target: Target, maps: Tensor) -> Tensor:
    """What the ReLU behind the classifying convolution makes of maps [N, h, w]."""
    assert head.bias is not None
    bias = head.bias.to(maps)[rt.moved(logit_indices(target), maps.device)]
    return (maps + bias[:, None, None]).clamp_min(0)


def _through_norm(head: HeadReading, weights: Tensor, activations: Tensor) -> Tensor:
    """Rows c of the classifier [..., N, C] carried back through y = gamma (x - mean) / sigma + beta.

    v = gamma w_c,    J^T w_c = (v - mean(v) - x_hat mean(v x_hat)) / sigma
    """
    assert head.norm is not None
    x = _pooled(head, activations)
    centred = x - x.mean(dim=1, keepdim=True)
    sigma = (centred.pow(2).mean(dim=1, keepdim=True) + head.norm.eps).sqrt()
    x_hat = centred / sigma
    gamma = torch.ones_like(x[0])
    if head.norm.weight is not None:
        gamma = rt.moved(head.norm.weight.detach(), x.device).to(x)
    v = gamma * weights
    return (v - v.mean(dim=-1, keepdim=True) - x_hat * (v * x_hat).mean(dim=-1, keepdim=True)) / sigma


def _pooled(head: HeadReading, activations: Tensor) -> Tensor:
    return activations.amax(dim=(2, 3)) if head.pooling == "max" else activations.mean(dim=(2, 3))


def _verified(head: HeadReading, activations: Tensor, logits: Tensor, tolerance: float) -> dict[str, Any]:
    """Recompute the logits from the reading of the head; refuse when they are not the network's.

    Images without finite logits, of which nothing is explained, do not count.
    """
    usable = _finite(logits)
    activations, logits = activations[usable], logits[usable]
    weight = head.weight.detach().to(activations)
    bias = torch.zeros_like(weight[:, 0]) if head.bias is None else head.bias.detach().to(activations)
    if head.class_maps:
        maps = torch.einsum("kc,nchw->nkhw", weight, activations) + bias[:, None, None]
        rebuilt = _pooled(head, maps.clamp_min(0) if head.rectified else maps)
    else:
        pooled = _pooled(head, activations)
        if head.norm is not None:
            shape, norm = pooled.shape[1:], head.norm
            gamma, beta = (None if p is None else p.detach().to(pooled) for p in (norm.weight, norm.bias))
            pooled = torch.nn.functional.layer_norm(pooled, shape, gamma, beta, norm.eps)
        rebuilt = pooled @ weight.T + bias
    error = float((rebuilt - logits).abs().max() / logits.abs().max().clamp_min(1e-12)) if len(logits) else math.nan
    if not error < tolerance:
        raise CnnvizError(
            f"CAM's identity fails: pooling and one linear layer give other logits (relative error {error:.2g}).",
            "Use `cnnviz gradcam`.",
        )
    return {"pooling": head.pooling, "linear": head.norm is None and not head.rectified, "identity_error": error}


def _finite(logits: Tensor) -> Tensor:
    """[N]: which images have finite logits."""
    return logits.detach().flatten(1).isfinite().all(1)


def is_linear(run: ForwardPass) -> bool:
    """Whether the logits are the averaged feature maps of the only target layer through one linear layer."""

    def linear() -> bool:
        try:
            facts = read(run)[2]
        except CnnvizError:
            return False
        return bool(facts["linear"]) and facts["pooling"] == "average"

    # A pass without finite logits tells nothing of the head that is worth remembering.
    seen = len(run.activations) == 1 and bool(_finite(run.logits).any())
    return seen and run.session.remember("linear head", linear)
