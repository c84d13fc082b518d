"""The first principal component of a layer's activations, or of its gradients times activations.

With O [h w, C] the values of a layer, one row a position, and O = U S V^T its singular value decomposition, the map is
the projection on the first right singular vector,

    L = O v_1 = s_1 u_1,

which is also s_1 times the first eigenvector of the small matrix O O^T. A singular vector has no sign of its own: it is
fixed here, so that a batch gives what its images give alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.session import Pass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap


def eigencam(run: Pass, target: Target, params: Mapping[str, Any]) -> Heatmap:
    """Eigen-CAM: no class takes part in it.

    Muhammad & Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020. As in the paper the
    values are not centred (pytorch-grad-cam subtracts each channel's mean first). The sign is that with which the map
    agrees with the sum of the activations.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Not used.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0 in units of the activations: the projection, rectified.
    """
    activations = run.activations[0].detach().float()
    return Heatmap(first_component(activations, activations.sum(1)).clamp_min(0))


def eigengradcam(run: Pass, target: Target, params: Mapping[str, Any]) -> Heatmap:
    """Eigen-Grad-CAM: the first principal component of gradients times activations.

    From pytorch-grad-cam, where it is described as Eigen-CAM with class discrimination; there is no paper. Not centred,
    like :func:`eigencam`. The sign is that with which the map agrees with the sum over channels, HiResCAM's map.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0 in units of the score: the projection, rectified.
    """
    product = run.activations[0].detach().float() * run.gradients(target(run.logits))[0]
    return Heatmap(first_component(product, product.sum(1)).clamp_min(0))


def first_component(values: Tensor, like: Tensor) -> Tensor:
    """s_1 u_1 as a map [N, h, w] of values [N, C, h, w], with the sign of its product with ``like`` [N, h, w].

    Image by image in float64. Where the product is zero, the entry of largest magnitude is positive.
    """
    pairs = zip(values.double(), like.double(), strict=True)
    maps = [_component(value.flatten(1), own.flatten()) for value, own in pairs]
    return torch.stack(maps).reshape(like.shape).float()


def _component(rows: Tensor, like: Tensor) -> Tensor:
    """Of values [C, P]: [P]."""
    map_: Tensor
    if not bool(torch.isfinite(rows).all()):
        return torch.full_like(like, torch.nan)  # what such an image gets is its own affair, not its batch's
    channels, positions = rows.shape
    if positions <= channels:
        strength, vectors = torch.linalg.eigh(rows.T @ rows)
        map_ = vectors[:, -1] * strength[-1].clamp_min(0).sqrt()
    else:
        map_ = rows.T @ torch.linalg.eigh(rows @ rows.T)[1][:, -1]
    agreement = map_ @ like
    scale = map_.norm() * like.norm()
    undecided = bool(agreement.abs() <= 1e-9 * scale)
    sign = map_[map_.abs().argmax()] if undecided else agreement
    return -map_ if bool(sign < 0) else map_
