"""Activations of a layer weighed by gradients of the score: what Grad-CAM and its relatives share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap

Weigh = Callable[[Tensor, Tensor], Tensor]

# Gradients of a pass that are kept for the other methods.
_KEPT_BYTES = 64 << 20


def gradients_of(run: ForwardPass, target: Target) -> tuple[Tensor, ...]:
    """The gradient of a target's score at each target layer, which other methods get too: nobody may write to it.

    What is large is not kept.
    """
    kept: dict[int, tuple[Target, tuple[Tensor, ...]]] = run.remember("gradients", dict)
    if id(target) in kept:
        return kept[id(target)][1]
    found = run.gradients(target(run.output))
    if (len(kept) + 1) * sum(each.nbytes for each in found) <= _KEPT_BYTES:
        kept[id(target)] = target, found  # with the target, lest another gets its number
    return found


def class_map(run: ForwardPass, target: Target, weigh: Weigh) -> Heatmap:
    """The driver: gradient of the score at the target layer, weighed into one signed map an image.

    Args:
        run: A forward pass with activations A [N, C, h, w].
        target: Score z [N] of the logits.
        weigh: (A, dz/dA) -> [N, h, w], before any rectification. Other methods get the same: it changes neither.

    Returns:
        Heatmap with values [N, h, w].
    """
    gradients = gradients_of(run, target)[0]
    return Heatmap(weigh(run.activations[0].detach().float(), gradients))


def mean_gradient(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k with w_k = mean over positions of dz/dA_k.

    Args:
        activations: A [N, C, h, w].
        gradients: dz/dA [N, C, h, w].

    Returns:
        [N, h, w], signed.
    """
    n, channels, height, width = activations.shape
    weights = gradients.mean(dim=(2, 3))
    return (weights[:, None] @ activations.reshape(n, channels, -1)).reshape(n, height, width)
