"""Extremal perturbation in float64: masks and blurs pixel by pixel, regions as sets of cells, and every one of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

LEVELS, EDGE = 8, 0.3
Cell = tuple[int, int]


@cache
def _mask_of_one(cell: Cell, lattice: Cell, size: tuple[int, int]) -> Tensor:
    return mask({cell}, lattice, size)


def mask(region: set[Cell], lattice: Cell, size: tuple[int, int]) -> Tensor:
    """[H, W]: one in the cells of the region, smoothed along both axes with weights that sum to one."""
    sharp = torch.zeros(size).double()
    for y in range(size[0]):
        for x in range(size[1]):
            sharp[y, x] = (y * lattice[0] // size[0], x * lattice[1] // size[1]) in region
    for axis in (0, 1):
        sigma = EDGE * size[axis] / lattice[axis]
        lines = []
        for place in range(size[axis]):
            weights = [math.exp(-0.5 * ((place - other) / sigma) ** 2) for other in range(size[axis])]
            parts = [w * sharp.select(axis, other) for other, w in enumerate(weights)]
            lines.append(torch.stack(parts).sum(0) / sum(weights))
        sharp = torch.stack(lines, dim=axis)
    return sharp


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


def best_of_all(
    score: Callable[[Tensor], Tensor], levels: Sequence[Tensor], lattice: Cell, count: int, *, deletes: bool
) -> tuple[set[Cell], dict[frozenset[Cell], float]]:
    """The best region of ``count`` cells of all that there are, and every one's score.

    Args:
        score: images [B, C, H, W] -> [B].
    """
    size = (int(levels[0].shape[1]), int(levels[0].shape[2]))
    cells = [(row, column) for row in range(lattice[0]) for column in range(lattice[1])]
    regions = [set(chosen) for chosen in itertools.combinations(cells, count)]
    single = {cell: _mask_of_one(cell, lattice, size) for cell in cells}
    made = []
    for region in regions:
        shown = torch.stack([single[cell] for cell in sorted(region)]).sum(0)
        made.append(perturbed(levels, 1 - shown if deletes else shown))
    found = [float(value) for part in torch.stack(made).split(512) for value in score(part)]
    every = {frozenset(region): value for region, value in zip(regions, found, strict=True)}
    choose = min if deletes else max
    return set(choose(every, key=lambda region: every[region])), every
