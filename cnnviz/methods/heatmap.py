"""What every method returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Raw values of a method, unscaled.

    Attributes:
        values: float32; [N, h, w] at a layer's resolution, [N, C, H, W] for input gradients, [N, rows, cols] for grids.
        maps: [N, H, W] at the input's resolution when the method defines it itself; otherwise made by
            :func:`upsample`.
        facts: What the method states about all images of the batch (goes into the record).
        scores: Figures of the method, listed among the scores of each map; a tensor [N, ...] has one for each image.
        arrays: Further arrays, one for each image ([N, ...]), stored beside the raw map.
        notes: What the user of this network should know, told once a run.
    """

    values: Tensor
    maps: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def upsample(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, h, w] -> [N, H, W], bilinear with cell centres kept in place.

    ``align_corners=False``: cell j of w covers pixels [j W/w, (j+1) W/w), so its peak stays at its centre.
    """
    return F.interpolate(values[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def gap_share(gap: Tensor, score: Tensor) -> Tensor:
    """What a map leaves out, as a share of the score [N]; 0 where the score is 0."""
    whole = rt.wide(score.detach()).abs()
    return torch.where(whole > 0, rt.wide(gap).abs() / whole.clamp_min(1e-30), 0.0).float()
