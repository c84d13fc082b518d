"""Activations of a layer weighed by gradients of the score: what Grad-CAM and its relatives share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap

Weigh = Callable[[Tensor, Tensor], Tensor]


def class_map(run: ForwardPass, target: Target, weigh: Weigh) -> Heatmap:
    """The driver: gradient of the score at the target layer, weighed into one signed map an image.

    Args:
        run: A forward pass with activations A [N, C, h, w].
        target: Score z [N] of the logits.
        weigh: (A, dz/dA) -> [N, h, w], before any rectification.

    Returns:
        Heatmap with values [N, h, w].
    """
    gradients = run.gradients(target(run.output))[0]
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
