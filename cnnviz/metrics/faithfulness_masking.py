"""Average drop and increase: what the score does when only what the map shows is left of the image.

Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
WACV 2018, section 4.1. With the map as a mask m, x the image and b what replaces it:

    m = max(v, 0) / max v        y' = f(m x + (1 - m) b)        drop = 100 max(0, y - y') / y        increase: y' > y

with f the probability of what the map explains, and y that of the whole image. A map without a positive value hides
everything. A map that is the same everywhere loses nothing: the drop rewards maps for being large.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cnnviz.metrics.contract import ExplainedNetwork, Map, Scores
from cnnviz.metrics.faithfulness import OfEachMap, OneMap, replacement
from cnnviz.registry.faithfulness_metrics import MaskingOptions


class _Masking(OfEachMap):
    def __init__(self, network: ExplainedNetwork, params: MaskingOptions) -> None:
        self._params = params

    def _before_and_after(self, map_: OneMap) -> tuple[float, float]:
        """y and y', once for both metrics."""
        key = "masked", self._params.replace, map_.image, map_.place
        return map_.batch.remember(key, lambda: self._measured(map_))

    def _measured(self, map_: OneMap) -> tuple[float, float]:
        mask = torch.from_numpy(as_mask(map_.values)).to(map_.pixels)
        masked = mask * map_.pixels + (1 - mask) * replacement(map_.pixels, self._params.replace)
        both = torch.stack([map_.pixels, masked])

        def make(part: range) -> Tensor:
            return both[part.start : part.stop]

        before, after = map_.scores(2, make, map_.unit("probability")).tolist()
        return before, after


class AverageDrop(_Masking):
    """The drop of each map, in percent; None where the score of the image is not positive."""

    figures = ("drop",)

    def of_map(self, map_: OneMap) -> Scores:
        before, after = self._before_and_after(map_)
        return {"drop": 100 * max(0.0, before - after) / before if before > 0 else None}


class Increase(_Masking):
    """Whether the score rises."""

    figures = ("increase",)

    def of_map(self, map_: OneMap) -> Scores:
        before, after = self._before_and_after(map_)
        return {"increase": after > before}


def as_mask(values: Map) -> Map:
    """A map as a mask, 0 to 1: its positive part over its largest value."""
    positive: Map = np.maximum(values, np.float32(0))
    highest = float(positive.max())
    return np.divide(positive, np.float32(highest)) if highest > 0 else positive
