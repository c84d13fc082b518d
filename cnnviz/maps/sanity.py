"""``--sanity``: does a map depend on what the network has learned?

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: the network's layers are made random from the top
down, and the map of the same class is compared with the first one at each step. A map that stays alike shows the
image, not the network.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.session import ForwardPass
from cnnviz.metrics.random_weights import Cascade
from cnnviz.metrics.similarity import spearman, ssim
from cnnviz.run.prepared_model import PreparedModel

Map = NDArray[np.float32]
Maps = list[list[Map]]

_FIGURES = ("spearman", "spearman_abs", "ssim")


class Sanity:
    """The network of a run with random weights, in float32 on a copy of its own.

    Args:
        prepared: The network.
        cut: Where the method needs the network to be cut.
        signed: Whether the method's values have a sign: their magnitudes are compared too.
    """

    def __init__(self, prepared: PreparedModel, cut: Cut, signed: bool) -> None:
        self._signed = signed
        module = copy.deepcopy(prepared.loaded.module).to(prepared.runtime.device)
        with torch.inference_mode(False):
            for parameter in module.parameters():
                parameter.data = parameter.detach().clone()
        key, tracing = prepared.settings.target.logits_key, prepared.settings.runtime.tracing
        options = SessionOptions(cut, key, private=False, tracing=tracing)
        shape = prepared.preprocess.input_size
        runtime = rt.Runtime(prepared.runtime.device, "fp32")
        self._session = prepare(module, prepared.loaded.name, shape, runtime, options)
        self._session.preprocess = prepared.preprocess
        self._size = (shape[2], shape[1])
        with rt.scope():
            self._cascade = Cascade(module, self._session.graph, shape, prepared.settings.runtime.seed)
        # There is one set of weights: lanes take turns.
        self._turn = threading.Lock()

    def compare(
        self, pixels: Tensor, maps: Maps, explain: Callable[[ForwardPass], Maps]
    ) -> list[list[list[dict[str, Any]]]]:
        """For each image and class, one row a step: how alike the map is to that of the trained network.

        Args:
            pixels: The batch, normalised.
            maps: For each image, for each of its classes, the map of the trained network.
            explain: The maps of another pass over the same batch, for the same classes.
        """
        found: list[list[list[dict[str, Any]]]] = [[[] for _ in own] for own in maps]
        for cut in self._cascade.cuts:
            with self._turn, self._cascade.at(cut):
                self._session.forget()
                others = explain(self._session.forward(pixels))
            self._session.forget()
            for image, own in enumerate(maps):
                for place, map_ in enumerate(own):
                    row = {"down_to": cut.down_to, "layers": cut.layers}
                    found[image][place].append({**row, **self._alike(map_, others[image][place])})
        return found

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


def conclude(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The means over all maps of a run, one row a step; each figure with the half-width of its 95 % interval.

    A step at which no map could be compared (all flat) has None.
    """
    sums: dict[tuple[str, int], dict[str, list[float]]] = {}
    for record in records:
        for explanation in record.get("explanations") or ():
            for row in explanation.get("scores", {}).get("sanity") or ():
                of_step = sums.setdefault((row["down_to"], row["layers"]), {})
                for name in _FIGURES:
                    if name in row:
                        total = of_step.setdefault(name, [0.0, 0.0, 0.0])
                        if row[name] is not None:
                            total[0] += 1
                            total[1] += row[name]
                            total[2] += row[name] ** 2
    return [
        {"down_to": name, "layers": layers, **{figure: _mean(total) for figure, total in figures.items()}}
        for (name, layers), figures in sums.items()
    ]


def _mean(total: Sequence[float]) -> dict[str, Any]:
    count, first, second = total
    if not count:
        return {"value": None, "ci95": None, "n": 0}
    mean = first / count
    spread = math.sqrt(max(0.0, second / count - mean * mean) / max(1.0, count - 1))
    half = 1.96 * spread
    return {"value": round(mean, 4), "ci95": [round(mean - half, 4), round(mean + half, 4)], "n": int(count)}


def said(rows: Sequence[Mapping[str, Any]]) -> str:
    """The conclusion in a line for people."""
    parts = []
    for row in (rows[0], rows[len(rows) // 2], rows[-1]) if len(rows) > 2 else rows:
        value = row["spearman"]["value"]
        parts.append(f"{row['down_to']} {'undefined' if value is None else f'{value:.2f}'}")
    return "sanity: rank correlation with the map of the trained network, weights random down to " + ", ".join(parts)
