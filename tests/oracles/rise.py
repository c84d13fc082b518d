"""RISE in float64: the mask of one pixel after the other, the score of one image after the other."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.gradcam import Array, class_score, upsampled


def mask(grid: Array, size: tuple[int, int], offset: tuple[int, int]) -> Array:
    """A grid upsampled to one cell more than it has and cut at ``offset``."""
    cells = grid.shape[0]
    sides = [-(-length // cells) for length in size]
    large = upsampled(grid, ((cells + 1) * sides[0], (cells + 1) * sides[1]))
    found = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            found[y, x] = large[y + offset[0], x + offset[1]]
    return found


def rise(
    network: nn.Module, image: Tensor, class_index: int, masks: list[Array], p: float | None, score: str = "probability"
) -> Array:
    """The map [H, W] of one image; ``p`` None: the mean of the masks is the coverage."""
    exact = copy.deepcopy(network).double().eval()
    total = np.zeros(masks[0].shape)
    seen = np.zeros(masks[0].shape)
    for one in masks:
        with torch.no_grad():
            logits = exact(image[None].double() * torch.from_numpy(one))
        value = float(class_score(logits, class_index, score))
        for place in np.ndindex(*total.shape):
            total[place] += value * one[place]
            seen[place] += one[place] if p is None else p
    found = np.zeros_like(total)
    for place in np.ndindex(*total.shape):
        found[place] = total[place] / seen[place] if seen[place] > 0 else 0
    return found
