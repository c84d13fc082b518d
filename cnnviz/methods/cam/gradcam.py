"""Grad-CAM and its relatives: one driver, and for each method how it weighs activations by gradients.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.cam.cam import cams, is_linear
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.weighted_activations import class_map, mean_gradient
from cnnviz.registry.cam import GradCAMOptions


def gradcam(run: ForwardPass, target: Target, params: GradCAMOptions) -> Heatmap:
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
    if params.counterfactual:
        return Heatmap((-signed).clamp_min(0), facts={"counterfactual": True})
    return Heatmap(signed.clamp_min(0))


def gradcams(run: ForwardPass, targets: Sequence[Target], params: GradCAMOptions) -> Heatmap | None:
    """Grad-CAM of many classes at once, where the layer is averaged and one linear layer gives the logits.

    There dz_c / dA_kij = w_ck / (h w), so that Grad-CAM is ReLU(CAM_c) / (h w) (Grad-CAM paper, section 3.1).

    Returns:
        Heatmap with values [K, N, h, w], as :func:`gradcam` has each; None for another head.
    """
    if not is_linear(run):
        return None
    found = cams(run, targets, params)
    if found is None:
        return None
    signed = found.values / (found.values.shape[-2] * found.values.shape[-1])
    if params.counterfactual:
        return Heatmap((-signed).clamp_min(0), facts={"counterfactual": True})
    return Heatmap(signed.clamp_min(0))
