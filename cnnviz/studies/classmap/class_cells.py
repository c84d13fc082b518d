"""Class maps of several scales made one: every scale read at the middles of the finest one's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt

MERGES = ("mean", "max")
Place = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Placement:
    """A map of cells and where they lie.

    Attributes:
        values: [K, h, w].
        rows: Middle of the first row of cells, and the way from one to the next, in pixels of the image.
        cols: The same of the columns.
    """

    values: Tensor
    rows: Place
    cols: Place


def reading(count: int, place: Place, points: Tensor) -> Tensor:
    """[P, count] weights that read ``count`` cells linearly at ``points`` [P], the last values beyond the ends."""
    position = ((points - place[0]) / place[1]).clamp(0, count - 1)
    cells = torch.arange(count, dtype=points.dtype, device=points.device)
    return (1 - (position[:, None] - cells[None, :]).abs()).clamp_min(0)


def merged(scales: Sequence[Placement], how: str = "mean") -> Placement:
    """The mean or the maximum over scales of what each says at the middles of the finest scale's cells.

    Args:
        scales: The maps of one image, the same classes in all.
        how: ``"mean"`` (probabilities stay a distribution) or ``"max"``.
    """
    finest = min(scales, key=lambda scale: scale.rows[1] * scale.cols[1])
    if len(scales) == 1:
        return finest
    device, (_, h, w) = finest.values.device, finest.values.shape
    points = [
        place[0] + place[1] * rt.wide(torch.arange(count, device=device))
        for place, count in ((finest.rows, h), (finest.cols, w))
    ]
    read = []
    for scale in scales:
        rows = reading(scale.values.shape[1], scale.rows, points[0]).to(scale.values.dtype)
        cols = reading(scale.values.shape[2], scale.cols, points[1]).to(scale.values.dtype)
        read.append(rows @ scale.values @ cols.T)
    stacked = torch.stack(read)
    return Placement(stacked.amax(0) if how == "max" else stacked.mean(0), finest.rows, finest.cols)
