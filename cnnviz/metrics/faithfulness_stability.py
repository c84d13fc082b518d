"""Max-sensitivity: how much a map changes when the image hardly does.

Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, definition 2.4, estimated as there:

    max over k of ||map(x + u_k) - map(x)|| / ||map(x)||,    u_k uniform in [-radius, radius] for each normalised value

over 10 draws with a radius of 0.02. Norms are Euclidean, of the maps in their own cells. Some methods are random
themselves; those here draw from the image, so that another image also means other draws.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from cnnviz.engine.seeding import generators_for
from cnnviz.metrics.contract import ExplainedBatch, ExplainedNetwork, Map, ModelMetric, Scores
from cnnviz.registry.faithfulness_metrics import MaxSensitivityOptions


class MaxSensitivity(ModelMetric):
    """The largest relative change over a few draws; None for a map of zeros, or where a map is not finite."""

    def __init__(self, network: ExplainedNetwork, params: MaxSensitivityOptions) -> None:
        self._params = params

    def score(self, batch: ExplainedBatch) -> list[list[Scores]]:
        """For each map its ``max_sensitivity``. Every draw is one pass over the whole batch."""
        params, pixels = self._params, batch.run.pixels.detach().float()
        sources = generators_for(pixels, params.seed)
        largest = [[0.0 for _ in own] for own in batch.maps]
        for _ in range(params.draws):
            noise = torch.stack([2 * torch.rand(pixels.shape[1:], generator=source) - 1 for source in sources])
            others = batch.explain(batch.run.session.forward(pixels + params.radius * noise.to(pixels)))
            for image, own in enumerate(batch.maps):
                for place, map_ in enumerate(own):
                    largest[image][place] = max(largest[image][place], _change(map_, others[image][place]))
        return [
            [_relative(change, map_) for change, map_ in zip(changes, own, strict=True)]
            for changes, own in zip(largest, batch.maps, strict=True)
        ]


def _change(map_: Map, other: Map) -> float:
    """The norm of the difference; infinite where one of them is not finite."""
    if not (np.isfinite(map_).all() and np.isfinite(other).all()):
        return math.inf
    return float(np.linalg.norm(other.astype(np.float64) - map_))


def _relative(change: float, map_: Map) -> Scores:
    norm = float(np.linalg.norm(map_.astype(np.float64)))
    return {"max_sensitivity": change / norm if norm > 0 and math.isfinite(change) else None}
