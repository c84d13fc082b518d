"""Sparseness: the Gini index of a map's magnitudes.

Chalasani et al., "Concise Explanations of Neural Networks using Adversarial Training", ICML 2020, section 6:

    G(v) = 1 - 2 sum_k (|v|_(k) / ||v||_1) (d - k + 1/2) / d

with |v|_(1) <= ... <= |v|_(d) over the d pixels that the network saw: 0 where all are equal, 1 - 1/d for a single one.
It says nothing about whether the map is right.
"""

from __future__ import annotations

import numpy as np

from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.contract import ExplainedImage
from cnnviz.registry.params import Options


def score(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: Options) -> dict[str, float | None]:
    """``gini`` of the map on the image, None for a map of zeros."""
    x0, y0, x1, y1 = placed.seen
    magnitudes = np.sort(np.abs(placed.values[y0:y1, x0:x1]), axis=None).astype(np.float64)
    total, count = float(magnitudes.sum()), magnitudes.size
    if not total > 0:
        return {"gini": None}
    weights = (count - np.arange(1, count + 1) + 0.5) / count
    return {"gini": max(0.0, 1 - 2 * float(magnitudes @ weights) / total)}
