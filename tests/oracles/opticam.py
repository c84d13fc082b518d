"""Opti-CAM as the paper's equations read: one image, one class, float64, PyTorch's own Adam."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def masked(image: Tensor, summed: Tensor) -> Tensor:
    """The image [C, H, W] times the map [h, w], made as large and scaled from 0 to 1."""
    large = F.interpolate(summed[None, None], image.shape[1:], mode="bilinear")[0, 0]
    lowest, highest = large.min(), large.max()
    return image * ((large - lowest) / (highest - lowest))


def opticam(
    score: Function, maps: Tensor, image: Tensor, steps: int, rate: float
) -> tuple[Tensor, Tensor, list[float]]:
    """Map [h, w], weights [K] and the scores of all steps.

    Args:
        score: Image [C, H, W] -> its score.
        maps: Activations [K, h, w].
        image: As the network gets it.
        steps, rate: Of Adam.
    """
    u = torch.zeros(len(maps), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([u], lr=rate, maximize=True)
    tried: list[tuple[float, Tensor]] = []
    for _ in range(steps + 1):
        weights = torch.softmax(u, 0)
        summed = torch.stack([w * a for w, a in zip(weights, maps, strict=True)]).sum(0)
        reached = score(masked(image, summed))
        tried.append((reached.item(), weights.detach().clone()))
        adam.zero_grad()
        reached.backward()
        adam.step()
    best = max(tried, key=lambda one: one[0])[1]
    return torch.einsum("k,khw->hw", best, maps), best, [one[0] for one in tried]
