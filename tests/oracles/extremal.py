"""Extremal perturbation in float64: masks by loops over cells, one objective, one call of autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS, MARGIN, TEMPERATURE = 8, 5, 1 / 20


def smooth_mask(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """[H, W] of cells [rows + 10, columns + 10], differentiable."""
    rows, columns = grid.shape[0] - 2 * MARGIN, grid.shape[1] - 2 * MARGIN
    cells = []
    for i in range(rows):
        for j in range(columns):
            values = []
            for a in range(-MARGIN, MARGIN + 1):
                for b in range(-MARGIN, MARGIN + 1):
                    reach = math.exp(-(max(0.0, math.hypot(a, b) - 1) ** 2) / 4)
                    values.append(reach * grid[i + MARGIN + a, j + MARGIN + b])
            every = torch.stack(values)
            weights = torch.exp((every - every.max()) / TEMPERATURE)
            cells.append((weights * every).sum() / weights.sum())
    smooth = torch.stack(cells).reshape(1, 1, rows, columns)
    return F.interpolate(smooth, size=size, mode="bilinear", align_corners=False)[0, 0]


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [C, H, W] with the border repeated, pixel by pixel along each axis."""
    if sigma == 0:
        return image
    reach = max(1, math.ceil(3 * sigma))
    kernel = [math.exp(-0.5 * (o / sigma) ** 2) for o in range(-reach, reach + 1)]
    for axis in (1, 2):
        length = image.shape[axis]
        lines = []
        for place in range(length):
            parts = [
                weight * image.select(axis, min(max(place + offset, 0), length - 1))
                for offset, weight in zip(range(-reach, reach + 1), kernel, strict=True)
            ]
            lines.append(torch.stack(parts).sum(0) / sum(kernel))
        image = torch.stack(lines, dim=axis)
    return image


def perturbed(levels: Sequence[Tensor], mask: Tensor) -> Tensor:
    """[C, H, W]: each pixel between the two levels of blur that (1 - m) 7 lies between."""
    depth = (1 - mask) * (LEVELS - 1)
    found = torch.zeros_like(levels[0])
    for number, level in enumerate(levels):
        found = found + (1 - (depth - number).abs()).clamp_min(0) * level
    return found


def area_error(mask: Tensor, area: float) -> Tensor:
    ordered = mask.reshape(-1).sort(stable=True).values
    zeros = len(ordered) - round(area * len(ordered))
    wanted = torch.tensor([0.0 if place < zeros else 1.0 for place in range(len(ordered))]).double()
    return (ordered - wanted).square().sum() / len(ordered)


def ascend(
    score: Callable[[Tensor], Tensor],
    image: Tensor,
    area: float,
    settings: tuple[int, int, float, bool],
    published: tuple[float, float, float, float],
) -> Tensor:
    """The mask after some steps.

    Args:
        score: image [C, H, W] -> scalar.
        settings: steps, cells along the shorter side, blur, whether the region is deleted.
        published: momentum, rate, first and last weight of the area.
    """
    steps, cells, blur, deletes = settings
    momentum, rate, first, last = published
    size = (int(image.shape[1]), int(image.shape[2]))
    levels = [blurred(image, blur * min(size) * level / (LEVELS - 1)) for level in range(LEVELS)]
    shape = [round(side * cells / min(size)) + 2 * MARGIN for side in size]
    grid, velocity = torch.ones(*shape).double(), torch.zeros(*shape).double()
    scale = float((score(levels[0]) - score(levels[-1])).abs())
    for step in range(steps):
        grid.requires_grad_()
        mask = smooth_mask(grid, size)
        weight = first * (last / first) ** (step / (steps - 1)) if step else 0.0
        there = score(perturbed(levels, 1 - mask if deletes else mask))
        objective = (-there if deletes else there) / scale - weight * area_error(mask, area)
        [uphill] = torch.autograd.grad(objective, grid)
        velocity = momentum * velocity - uphill * (grid.numel() / (1 + weight))
        grid = (grid.detach() - rate * velocity).clamp(0, 1)
    return smooth_mask(grid, size).detach()
