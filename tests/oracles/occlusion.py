"""Occlusion by brute force in float64: one window at a time, one pixel at a time."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows: every ``stride``, the last moved inside so that it ends at the border."""
    found = []
    position = 0
    while position + window < length:
        found.append(position)
        position += stride
    return [*found, length - window]


def occlusion(
    network: nn.Module,
    image: torch.Tensor,
    fill: torch.Tensor,
    class_index: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    probability: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Drops [rows, cols], the map [H, W] and the coverage [H, W] of one image [C, H, W]."""
    exact = copy.deepcopy(network).double().eval()

    def score(pixels: torch.Tensor) -> float:
        with torch.no_grad():
            logits = exact(pixels[None].double())[0]
        return float(torch.softmax(logits, 0)[class_index] if probability else logits[class_index])

    _, height, width = image.shape
    rows = starts(height, window[0], stride[0])
    cols = starts(width, window[1], stride[1])
    clean = score(image)
    drops = np.zeros((len(rows), len(cols)))
    total, covered = np.zeros((height, width)), np.zeros((height, width), dtype=np.int64)
    for i, top in enumerate(rows):
        for j, left in enumerate(cols):
            hidden = image.double().clone()
            hidden[:, top : top + window[0], left : left + window[1]] = fill.double()[
                :, top : top + window[0], left : left + window[1]
            ]
            drops[i, j] = clean - score(hidden)
            for y in range(top, top + window[0]):
                for x in range(left, left + window[1]):
                    total[y, x] += drops[i, j]
                    covered[y, x] += 1
    return drops, total / np.maximum(covered, 1), covered
