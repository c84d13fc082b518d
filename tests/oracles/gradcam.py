"""Grad-CAM in float64 by central differences and loops: no autograd, no matrix product, nothing of the package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
Split = Callable[[Any, Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


def gradient(score: Callable[[Tensor], Tensor], activations: Array, step: float = 1e-6) -> Array:
    """dz/dA [C, h, w] of one image by central differences; all moved copies go through the head as one batch."""
    moved = np.repeat(activations[None], 2 * activations.size, axis=0)
    for number, place in enumerate(np.ndindex(*activations.shape)):
        moved[(2 * number, *place)] += step
        moved[(2 * number + 1, *place)] -= step
    with torch.no_grad():
        scores = score(torch.from_numpy(moved)).numpy()
    found: Array = ((scores[0::2] - scores[1::2]) / (2 * step)).reshape(activations.shape)
    return found


def weighted_sum(activations: Array, gradients: Array) -> Array:
    """sum_k w_k A_k with w_k = the mean of dz/dA_k over positions; [h, w], signed."""
    channels, height, width = activations.shape
    found = np.zeros((height, width))
    for k in range(channels):
        weight = 0.0
        for i in range(height):
            for j in range(width):
                weight += gradients[k, i, j] / (height * width)
        for i in range(height):
            for j in range(width):
                found[i, j] += weight * activations[k, i, j]
    return found


def rectified(signed: Array) -> Array:
    found = np.zeros_like(signed)
    for place in np.ndindex(*signed.shape):
        if signed[place] > 0:
            found[place] = signed[place]
    return found


def class_score(logits: Tensor, class_index: int, score: str = "logit") -> Tensor:
    """[P] of the logits [P, K] of a head; one logit z counts as (-z, z)."""
    both = torch.stack([-logits[:, 0], logits[:, 0]], 1) if logits.shape[1] == 1 else logits
    if score == "logit":
        return both[:, class_index]
    if logits.shape[1] == 1:
        p = 1 / (1 + torch.exp(-both[:, class_index]))
    else:
        p = torch.exp(both[:, class_index]) / torch.exp(both).sum(1)
    return p if score == "probability" else torch.log(p)


def signed_maps(
    network: nn.Module, split: Split, batch: Tensor, classes: list[int], score: str = "logit"
) -> tuple[Array, Array]:
    """Maps before rectification [N, h, w] and logits [N, K], one image at a time.

    Args:
        split: The network's forward pass as a formula: (network, x) -> (activations, head).
    """
    exact = copy.deepcopy(network).double().eval()
    maps, logits = [], []
    for image, class_index in zip(batch, classes, strict=True):
        with torch.no_grad():
            activations, head = split(exact, image[None].double())
            logits.append(head(activations)[0].numpy())
        a = activations[0].numpy().copy()

        def scored(moved: Tensor, head: Any = head, class_index: int = class_index) -> Tensor:
            return class_score(head(moved), class_index, score)

        maps.append(weighted_sum(a, gradient(scored, a)))
    return np.stack(maps), np.stack(logits)


def gradcam(
    network: nn.Module, split: Split, batch: Tensor, classes: list[int], score: str = "logit", sign: float = 1
) -> Array:
    """Grad-CAM [N, h, w]; with ``sign=-1`` the counterfactual one, whose gradients are negated."""
    signed, _ = signed_maps(network, split, batch, classes, score)
    return rectified(sign * signed)


def upsampled(values: Array, size: tuple[int, int]) -> Array:
    """Bilinear interpolation [h, w] -> [H, W] with cell centres kept in place, pixel by pixel."""
    (height, width), (rows, columns) = values.shape, size
    found = np.zeros(size)
    for y in range(rows):
        for x in range(columns):
            v = min(max((y + 0.5) * height / rows - 0.5, 0.0), height - 1)
            u = min(max((x + 0.5) * width / columns - 0.5, 0.0), width - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            above = values[top, left] * (1 - (u - left)) + values[top, right] * (u - left)
            below = values[low, left] * (1 - (u - left)) + values[low, right] * (u - left)
            found[y, x] = above * (1 - (v - top)) + below * (v - top)
    return found
