"""Grad-CAM's relatives in float64, by loops over gradients that come from central differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.gradcam import Array, Split, class_score, gradient, rectified

Score = Callable[[Tensor], Tensor]


def layers(network: nn.Module, split: Split, batch: Tensor) -> list[tuple[Array, Callable[[Tensor], Tensor]]]:
    """Activations [C, h, w] and head of each image."""
    exact = copy.deepcopy(network).double().eval()
    found = []
    for image in batch:
        with torch.no_grad():
            activations, head = split(exact, image[None].double())
        found.append((activations[0].numpy().copy(), head))
    return found


def scored(head: Callable[[Tensor], Tensor], class_index: int, score: str = "logit") -> Score:
    return lambda moved: class_score(head(moved), class_index, score)


def slope(head: Callable[[Tensor], Tensor], activations: Array, class_index: int) -> Array:
    """dz/dA [C, h, w]."""
    return gradient(scored(head, class_index), activations)


def combined(activations: Array, weights: Sequence[float]) -> Array:
    found = np.zeros(activations.shape[1:])
    for k, weight in enumerate(weights):
        found += weight * activations[k]
    return rectified(found)


def plus_plus(activations: Array, gradients: Array) -> Array:
    """Equation 19 of the paper as it stands, and equation 10."""
    weights = []
    for a, g in zip(activations, gradients, strict=True):
        weight = 0.0
        for place in np.ndindex(*a.shape):
            if g[place] > 0:
                weight += g[place] ** 2 / (2 * g[place] ** 2 + a.sum() * g[place] ** 3) * g[place]
        weights.append(weight)
    return combined(activations, weights)


def smooth_plus_plus(activations: Array, gradients: Sequence[Array]) -> Array:
    """Gradients of all noisy copies of the image."""
    weights = []
    for k, a in enumerate(activations):
        weight = 0.0
        for place in np.ndindex(*a.shape):
            values = [g[k][place] for g in gradients]
            first, second, third = (float(np.mean([v**power for v in values])) for power in (1, 2, 3))
            bottom = 2 * second + a.sum() * third
            if bottom != 0 and first > 0:
                weight += second / bottom * first
        weights.append(weight)
    return combined(activations, weights)


def axiomatic(activations: Array, gradients: Array) -> Array:
    weights = []
    for a, g in zip(activations, gradients, strict=True):
        usable = abs(a.sum()) > 1e-4 * np.abs(a).sum()
        weights.append(sum(a[p] / a.sum() * g[p] for p in np.ndindex(*a.shape)) if usable else 0.0)
    return combined(activations, weights)


def elementwise(activations: Array, gradients: Array, *, positive: bool) -> Array:
    """HiResCAM, or with ``positive`` gradients LayerCAM."""
    found = np.zeros(activations.shape[1:])
    for a, g in zip(activations, gradients, strict=True):
        for place in np.ndindex(*a.shape):
            found[place] += a[place] * (max(g[place], 0.0) if positive else g[place])
    return rectified(found)


def projection(values: Array) -> Array:
    """On the first right singular vector, with whatever sign the decomposition gives it."""
    rows = values.reshape(len(values), -1).T
    _, _, right = np.linalg.svd(rows, full_matrices=False)
    return numbers(rows @ right[0]).reshape(values.shape[1:])


def principal(values: Array) -> Array:
    """Eigen-CAM: the stronger side of the component is positive."""
    found = projection(values)
    above = sum(float(v) ** 3 for v in found.ravel() if v > 0)
    below = sum(float(-v) ** 3 for v in found.ravel() if v < 0)
    return rectified(found if above >= below else -found)


def principal_for_class(products: Array) -> Array:
    """Eigen-Grad-CAM: the component agrees with the sum over channels."""
    found = projection(products)
    return rectified(found if (found * products.sum(0)).sum() >= 0 else -found)


def finer(
    head: Callable[[Tensor], Tensor], activations: Array, class_index: int, others: Sequence[int], strength: float
) -> Array:
    """The mean over the references of Grad-CAM's weights for z_c - s z_d."""
    weights = np.zeros(len(activations))
    for other in others:

        def difference(moved: Tensor, other: int = other) -> Tensor:
            logits = head(moved)
            return class_score(logits, class_index) - strength * class_score(logits, other)

        weights += gradient(difference, activations).mean((1, 2)) / len(others)
    return combined(activations, [float(w) for w in weights])


def shapley(score: Score, activations: Array, step: float = 1e-4) -> Array:
    """The Hessian's product with the activations is how the gradient changes along them."""
    ahead, behind = (gradient(score, activations * (1 + sign * step), 1e-5) for sign in (1, -1))
    product = (ahead - behind) / (2 * step)
    weights = (gradient(score, activations) - 0.5 * product).mean((1, 2))
    return combined(activations, [float(w) for w in weights])


def full_gradient(pieces: Sequence[Array], size: tuple[int, int], upsample: Callable[..., Array]) -> Array:
    """psi of each piece [C, h, w], summed."""
    total = np.zeros(size)
    for piece in pieces:
        magnitude = np.abs(piece)
        low, high = magnitude.min(), magnitude.max()
        for channel in magnitude:
            total += upsample((channel - low) / (high - low), size)
    return total


def numbers(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)
