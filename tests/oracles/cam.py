"""CAM in float64 by loops over raw weights: nothing of the package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def cam(weight: Tensor, activations: Tensor, classes: list[int]) -> Array:
    """M_c = sum_k w_ck A_k [N, h, w] for weights [K, C] (or of a 1x1 convolution [K, C, 1, 1])."""
    w = weight.detach().double().numpy().reshape(weight.shape[0], -1)
    a = activations.detach().double().numpy()
    found = np.zeros((a.shape[0], *a.shape[2:]))
    for image, c in enumerate(classes):
        for k in range(a.shape[1]):
            found[image] += w[c, k] * a[image, k]
    return found


def logit_of_average(maps: Array, bias: Tensor | None, classes: list[int]) -> Array:
    """mean(M_c) + b_c, the logit of a network with global average pooling and one linear layer."""
    b = np.zeros(max(classes) + 1) if bias is None else bias.detach().double().numpy()
    return np.array([m.mean() + b[c] for m, c in zip(maps, classes, strict=True)])


def through_layer_norm(
    weight: Tensor, activations: Tensor, classes: list[int], gamma: Tensor, eps: float, step: float = 1e-5
) -> Array:
    """CAM of a head mean -> layer normalisation -> linear: the weights are d(logit)/d(mean), by differences."""
    w, g = weight.detach().double().numpy(), gamma.detach().double().numpy()
    a = activations.detach().double().numpy()
    means, found = a.mean((2, 3)), np.zeros((a.shape[0], *a.shape[2:]))

    def logit(x: Array, c: int) -> float:
        return float((w[c] * g * (x - x.mean()) / np.sqrt(x.var() + eps)).sum())

    for image, c in enumerate(classes):
        for k in range(a.shape[1]):
            up, down = means[image].copy(), means[image].copy()
            up[k] += step
            down[k] -= step
            found[image] += (logit(up, c) - logit(down, c)) / (2 * step) * a[image, k]
    return found
