"""The first kernel principal component of a layer's activations."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.cam.eigen import with_sign
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.cam import KPCACAMOptions

_OFFSET, _DEGREE = 1.0, 3


def kpcacam(run: ForwardPass, target: Target, params: KPCACAMOptions) -> Heatmap:
    """KPCA-CAM: no class takes part in it.

    With o_p [C] the activations at position p of P, and g = ``gamma``, or 1 / C:

        K_pq = tanh(g o_p . o_q + 1)  (sigmoid),    exp(-g |o_p - o_q|^2)  (rbf),    (g o_p . o_q + 1)^3  (poly)
        K'   = J K J,  J = 1 - 1/P         (centred in the kernel's space)
        L    = sqrt(l_1) u_1               (the projection on the first component; l_1, u_1 of K')

    Karmani, Sivakaran, Prasad, Ali, Yang & Tang, "KPCA-CAM: Visual Explainability of Deep Computer Vision Models using
    Kernel PCA", MMSP 2024. The component has no sign of its own: the side on which the activations are larger
    (the product of L with |o_p| less its mean is positive) is positive; where that does not tell, the stronger side, as
    in Eigen-CAM. (pytorch-grad-cam leaves the sign to the solver, so that the map of one image may be the negative of
    that of another, and takes the mean of each channel away before the kernel.) The sigmoid kernel is not positive
    definite: the component is that of the largest eigenvalue.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Not used.
        params: ``kernel``, ``gamma``.

    Returns:
        Heatmap with values [N, h, w] >= 0, the projection, rectified; zero where all positions are alike. Score
        ``component_share`` [N]: l_1 over the sum of the positive eigenvalues.
    """
    maps, shares = [], []
    activations = run.activations[0].detach()
    for values in rt.exact(activations):
        map_, share = _component(values.flatten(1).T, params)
        maps.append(map_.reshape(values.shape[1:]))
        shares.append(share)
    return Heatmap(
        torch.stack(maps).clamp_min(0).to(activations),
        facts={"sign": "the side on which the activations are larger is positive", "kernel": params.kernel},
        scores={"component_share": torch.stack(shares).to(activations)},
    )


def _component(rows: Tensor, params: KPCACAMOptions) -> tuple[Tensor, Tensor]:
    """Of rows [P, C]: the projection [P] on the first component, and its share of the spread."""
    if not bool(torch.isfinite(rows).all()):
        return rows.new_full(rows.shape[:1], torch.nan), rows.new_tensor(torch.nan)
    matrix = _kernel(rows, params)
    centred = matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()
    strength, vectors = torch.linalg.eigh(centred)
    # What rounding leaves of a kernel whose rows are all alike is no component.
    if bool(strength[-1] <= 1e-10 * matrix.abs().max() * len(rows)):
        return rows.new_zeros(len(rows)), rows.new_zeros(())
    length = rows.norm(dim=1)
    map_ = with_sign(vectors[:, -1] * strength[-1].sqrt(), length - length.mean())
    return map_, strength[-1] / strength.clamp_min(0).sum()


def _kernel(rows: Tensor, params: KPCACAMOptions) -> Tensor:
    gamma = params.gamma or 1.0 / rows.shape[1]
    if params.kernel == "rbf":
        return torch.exp(-gamma * torch.cdist(rows, rows).square())
    inner = gamma * rows @ rows.T + _OFFSET
    return torch.tanh(inner) if params.kernel == "sigmoid" else inner**_DEGREE
