"""Figures of the filters of a convolution: how large they are, and which do nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cnnviz.models.graph.trace import Graph
from cnnviz.schema.studies.filters import Filter

DEAD_SHARE = 1e-3
"""A filter is dead when its norm is at most this share of the layer's median."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FilterFigures:
    """Figures [O] of the filters W_o [C, h, w].

    Attributes:
        l1, l2: Sums of |w|, and the square root of the sum of w^2.
        mean, largest: Mean of w, and largest |w|.
        gain: Factor of a batch normalisation right behind, |gamma| / sqrt(variance + eps); None without one.
    """

    l1: Floats
    l2: Floats
    mean: Floats
    largest: Floats
    gain: Floats | None

    @property
    def effective(self) -> Floats:
        """L2 norms with the gain of the normalisation."""
        return self.l2 if self.gain is None else self.l2 * self.gain

    @property
    def dead(self) -> list[int]:
        """Filters whose effective norm is at most :data:`DEAD_SHARE` of the median; those of zeros always."""
        norms = self.effective
        return np.flatnonzero(norms <= DEAD_SHARE * float(np.median(norms))).tolist()

    def rows(self) -> list[Filter]:
        """One row a filter, plain values."""
        dead = set(self.dead)
        return [
            {
                "filter": index,
                "l1": float(self.l1[index]),
                "l2": float(self.l2[index]),
                "mean": float(self.mean[index]),
                "max_abs": float(self.largest[index]),
                "gain": None if self.gain is None else float(self.gain[index]),
                "dead": index in dead,
            }
            for index in range(len(self.l2))
        ]


def filter_figures(weight: NDArray[np.float32], gain: Floats | None = None) -> FilterFigures:
    """Figures of the filters of [O, C, h, w]."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    size = np.abs(flat)
    return FilterFigures(size.sum(1), np.sqrt((flat**2).sum(1)), flat.mean(1), size.max(1), gain)


def norm_gains(graph: Graph, name: str) -> Floats | None:
    """The factors of the batch normalisation that alone reads the convolution ``name``; None where there is none."""
    nodes = [node for node in graph.module.graph.nodes if node.op == "call_module" and str(node.target) == name]
    if len(nodes) != 1 or len(nodes[0].users) != 1:
        return None
    norm = graph.submodule(next(iter(nodes[0].users)))
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
        return None
    scale = 1.0 / (norm.running_var.detach().cpu().double() + norm.eps).sqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().cpu().double().abs()
    gains: Floats = scale.numpy()
    return gains
