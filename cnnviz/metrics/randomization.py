"""The parameter randomization test (``--sanity``): does a map depend on what the network has learned?

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: the network's layers are made random from the top
down, and the map of the same class is compared with the first one at each step. A map that stays alike shows the
image, not the network.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import prepare
from cnnviz.metrics.contract import ExplainedBatch, ExplainedNetwork, Map, ModelMetric, Row, RunSummary, Scores
from cnnviz.metrics.random_weights import Cascade
from cnnviz.metrics.similarity import spearman, ssim
from cnnviz.registry.metrics import MetricSpec, RandomizationOptions
from cnnviz.registry.params import Options
from cnnviz.report import cautions

_FIGURES = ("spearman", "spearman_abs", "ssim")


class Randomization(ModelMetric):
    """The network of a run with random weights, in float32 on a copy of its own.

    Of methods whose values have a sign, magnitudes are compared too.
    """

    def __init__(self, network: ExplainedNetwork, params: RandomizationOptions) -> None:
        self._signed = network.signed
        preprocess = network.session.preprocess
        assert preprocess is not None, "a run's session knows its preprocessing"
        shape = preprocess.input_size
        module = copy.deepcopy(network.module).to(network.session.device)
        with torch.inference_mode(False):
            for parameter in module.parameters():
                parameter.data = parameter.detach().clone()
        runtime = rt.Runtime(network.session.device, "fp32")
        session = prepare(module, network.name, shape, runtime, network.options)
        self._session = session.of_pictures(preprocess)
        self._size = (shape[2], shape[1])
        with rt.scope():
            self._cascade = Cascade(module, self._session.graph, shape, network.seed)
        self._cuts = self._cascade.cuts if params.steps == "all" else self._cascade.cuts[-1:]
        # There is one set of weights: lanes take turns.
        self._turn = threading.Lock()

    def score(self, batch: ExplainedBatch) -> list[list[Scores]]:
        """For each map one row a step: how alike it is to that of the trained network."""
        found: list[list[list[dict[str, Any]]]] = [[[] for _ in own] for own in batch.maps]
        for cut in self._cuts:
            with self._turn, self._cascade.at(cut):
                self._session.forget()
                others = batch.explain(self._session.forward(batch.run.pixels))
            self._session.forget()
            for image, own in enumerate(batch.maps):
                for place, map_ in enumerate(own):
                    row = {"down_to": cut.down_to, "layers": cut.layers}
                    found[image][place].append({**row, **self._alike(map_, others[image][place])})
        return [list[Scores](own) for own in found]

    def _alike(self, a: Map, b: Map) -> dict[str, float | None]:
        if not np.isfinite(b).all():
            return dict.fromkeys(_FIGURES if self._signed else (_FIGURES[0], _FIGURES[2]))
        # Compared as they are seen, at the size of the network's input.
        x, y = (cv2.resize(m, self._size, interpolation=cv2.INTER_LINEAR).astype(np.float32) for m in (a, b))
        if not self._signed:
            return {"spearman": _rounded(spearman(x, y)), "ssim": _rounded(ssim(x, y))}
        return {
            "spearman": _rounded(spearman(x, y)),
            "spearman_abs": _rounded(spearman(np.abs(x), np.abs(y))),
            "ssim": _rounded(ssim(np.abs(x), np.abs(y))),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summarize(rows: Iterable[Row], spec: MetricSpec, params: Options) -> RunSummary:
    """The means over all maps of a run, one row a step; each figure with the half-width of its 95 % interval.

    A step at which no map could be compared (all flat) has None.
    """
    sums: dict[tuple[str, int], dict[str, list[float]]] = {}
    for step in (step for row in rows for step in row.scores or ()):
        of_step = sums.setdefault((step["down_to"], step["layers"]), {})
        for name in _FIGURES:
            if name in step:
                total = of_step.setdefault(name, [0.0, 0.0, 0.0])
                if step[name] is not None:
                    total[0] += 1
                    total[1] += step[name]
                    total[2] += step[name] ** 2
    found = [
        {"down_to": name, "layers": layers, **{figure: _mean(total) for figure, total in figures.items()}}
        for (name, layers), figures in sums.items()
    ]
    return RunSummary(found, (_sentence(found),) if found else ())


def _mean(total: Sequence[float]) -> dict[str, Any]:
    count, first, second = total
    if not count:
        return {"value": None, "ci95": None, "n": 0}
    mean = first / count
    spread = math.sqrt(max(0.0, second / count - mean * mean) / max(1.0, count - 1))
    half = 1.96 * spread
    low, high = max(-1.0, mean - half), min(1.0, mean + half)  # likeness is never beyond these
    return {"value": round(mean, 4), "ci95": [round(low, 4), round(high, 4)], "n": int(count)}


def _sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """The conclusion in a line for people."""
    parts = []
    for row in (rows[0], rows[len(rows) // 2], rows[-1]) if len(rows) > 2 else rows:
        value = row["spearman"]["value"]
        parts.append(f"{row['down_to']} {'undefined' if value is None else f'{value:.2f}'}")
    said = "sanity: rank correlation with the map of the trained network, weights random down to"
    return f"{said} {', '.join(parts)} ({cautions.SANE})"
