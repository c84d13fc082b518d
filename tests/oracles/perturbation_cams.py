"""Score-CAM and its relatives, and Ablation-CAM, in float64: one mask, one channel, one cell at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.gradcam import Array, Split, class_score, upsampled

# (image [C, H, W], mask [H, W]) -> the images whose scores are averaged
Samples = Callable[[Array, Array], list[Array]]


def once(image: Array, mask: Array) -> list[Array]:
    return [image * mask]


def on_the_way(steps: int) -> Samples:
    return lambda image, mask: [(i / steps) * image * mask for i in range(1, steps + 1)]


def score_weighted(
    network: nn.Module, split: Split, image: Tensor, class_index: int, samples: Samples, score: str = "logit"
) -> Array:
    """ReLU(sum_k w_k A_k) [h, w] of one image, w = softmax over channels of the mean increase over a blank image."""
    score_of, activations = _network(network, split, image, class_index, score)
    pixels = image.double().numpy()
    blank = score_of(np.zeros_like(pixels))
    increases: dict[int, float] = {}
    for k, channel in enumerate(activations):
        up = upsampled(channel, (pixels.shape[1], pixels.shape[2]))
        if up.max() - up.min() <= 1e-9 * np.abs(up).max():
            continue
        mask = (up - up.min()) / (up.max() - up.min())
        made = samples(pixels, mask)
        increases[k] = sum(score_of(one) - blank for one in made) / len(made)
    total = sum(math.exp(s) for s in increases.values())
    weights = {k: math.exp(s) / total for k, s in increases.items()}
    return _weighed(activations, weights)


def ablated(
    network: nn.Module, split: Split, image: Tensor, class_index: int, score: str = "logit"
) -> tuple[Array, float]:
    """Ablation-CAM [h, w] of one image and its score y: w_k = (y - y_k) / y."""
    exact = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        activations, head = split(exact, image[None].double())
        clean = float(class_score(head(activations), class_index, score))
        weights = {}
        for k in range(activations.shape[1]):
            without = activations.clone()
            without[:, k] = 0
            weights[k] = (clean - float(class_score(head(without), class_index, score))) / clean
    return _weighed(activations[0].numpy(), weights), clean


def _network(
    network: nn.Module, split: Split, image: Tensor, class_index: int, score: str
) -> tuple[Callable[[Array], float], Array]:
    exact = copy.deepcopy(network).double().eval()

    def run(pixels: Tensor) -> tuple[Tensor, Any]:
        with torch.no_grad():
            return split(exact, pixels)

    def score_of(pixels: Array) -> float:
        activations, head = run(torch.from_numpy(pixels)[None])
        with torch.no_grad():
            return float(class_score(head(activations), class_index, score))

    return score_of, run(image[None].double())[0][0].numpy()


def _weighed(activations: Array, weights: dict[int, float]) -> Array:
    found = np.zeros(activations.shape[1:])
    for place in np.ndindex(*found.shape):
        total = sum(weight * activations[(k, *place)] for k, weight in weights.items())
        found[place] = max(total, 0.0)
    return found
