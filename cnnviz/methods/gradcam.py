"""Grad-CAM and its relatives: one driver, and for each method how it weighs activations by gradients.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from cnnviz.engine.session import Pass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap

Weigh = Callable[[Tensor, Tensor], Tensor]


def class_map(run: Pass, target: Target, weigh: Weigh) -> Heatmap:
    """The driver: gradient of the score at the target layer, weighed into one signed map an image.

    Args:
        run: A forward pass with activations A [N, C, h, w].
        target: Score z [N] of the logits.
        weigh: (A, dz/dA) -> [N, h, w], before any rectification.

    Returns:
        Heatmap with values [N, h, w].
    """
    gradients = run.gradients(target(run.logits))[0]
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


def gradcam(run: Pass, target: Target, params: Mapping[str, Any]) -> Heatmap:
    """Grad-CAM.

        w_k = (1 / (h w)) sum_ij dz_c / dA_kij,    L = ReLU(sum_k w_k A_k)

    z_c is the logit of the class, A the activations of the target layer. The rectification is done at the layer's
    resolution, before any upsampling. With ``counterfactual`` the gradients are negated: the regions that, if
    removed, would raise the score (section 3.3 of the paper).

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``counterfactual``.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score; the fact ``counterfactual`` where that was asked for.
    """
    signed = class_map(run, target, mean_gradient).values
    if params["counterfactual"]:
        return Heatmap((-signed).clamp_min(0), facts={"counterfactual": True})
    return Heatmap(signed.clamp_min(0))
