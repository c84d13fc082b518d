"""Insertion and deletion: the score while the map's best pixels are put back, or taken away, part by part.

Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section 4.2.

With x the image, b what replaces its pixels, and S_j the best j/J of the map's pixels:

    insertion_j = f(x on S_j, b elsewhere)        deletion_j = f(b on S_j, x elsewhere)        j = 0 ... J

with f the probability of what the map explains. The figure is the area below the curve by the trapezoidal rule over the
share of pixels, as in the reference implementation, which takes a row of 224 pixels at a time; 28 parts of 224 x 8
pixels make the area of these curves, which are smooth, with an eighth of the passes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.metrics.contract import ExplainedNetwork, Map, Scores
from cnnviz.metrics.faithfulness import OfEachMap, OneMap, own_blur, pixel_order, replacement, rounded
from cnnviz.registry.faithfulness_metrics import DeletionOptions, InsertionOptions


class _Curve(OfEachMap):
    figures = ("area", "curve", "unit")
    better: ClassVar[int]
    """1 where a larger area is better, else -1."""

    def __init__(self, network: ExplainedNetwork, params: InsertionOptions | DeletionOptions) -> None:
        self._params = params

    @abstractmethod
    def ends(self, pixels: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """What the image is before the first step, and after the last."""

    def of_map(self, map_: OneMap) -> Scores:
        """``area``, ``curve`` and ``unit``; with baselines also ``blurred`` and ``over_blurred``."""
        unit = map_.unit("probability")
        area, curve = self._measured(map_, map_.values, unit)
        found = {"area": area, "curve": rounded(curve), "unit": unit}
        if self._params.baselines:
            smooth, _ = self._measured(map_, own_blur(map_.values), unit)
            found.update(blurred=smooth, over_blurred=self.better * (area - smooth))
        return found

    def _measured(self, map_: OneMap, values: Map, unit: str) -> tuple[float, NDArray[np.float64]]:
        params, count = self._params, values.size
        before, after = self.ends(map_.pixels, replacement(map_.pixels, params.replace))
        ranks = pixel_order(values, map_.generator(params.seed)).to(before.device)
        bounds = torch.linspace(0, count, params.steps + 1, dtype=torch.float64).round().long().to(before.device)

        def make(part: range) -> Tensor:
            changed = ranks < bounds[part.start : part.stop, None, None]
            return torch.where(changed[:, None], after, before)

        curve = map_.scores(len(bounds), make, unit)
        shares = bounds.cpu().double().numpy() / count
        return float(np.trapezoid(curve, shares)), curve


class Insertion(_Curve):
    """From what replaces the pixels to the image."""

    better = 1

    def ends(self, pixels: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return other, pixels


class Deletion(_Curve):
    """From the image to what replaces its pixels."""

    better = -1

    def ends(self, pixels: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return pixels, other
