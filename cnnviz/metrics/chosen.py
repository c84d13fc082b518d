"""The metrics of a run: asked of each map where it is made or placed, and of all of them at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import Truth
from cnnviz.metrics.baseline_maps import baseline
from cnnviz.metrics.contract import ExplainedBatch, ExplainedImage, ExplainedNetwork, ModelMetric, Row, RunSummary
from cnnviz.registry import lookup
from cnnviz.registry.metrics import (
    CONSERVATION,
    FIT,
    MAP_STATISTICS,
    RANDOMIZATION,
    REPEATABILITY,
    MetricRequest,
    MetricSpec,
)
from cnnviz.registry.params import Options
from cnnviz.settings import TargetSettings

_JSON = frozenset({bool, int, float, str, type(None)})
# Longer lists of whole numbers, such as histograms, take a tenth of the memory as arrays.
_SHORT = 16

Score = Callable[[PlacedMap, ExplainedImage, "Truth | None", Options], Mapping[str, Any]]


@dataclass(frozen=True)
class _Stated:
    """A metric of what methods state themselves, which no other can be asked for.

    Attributes:
        spec: The metric. Its reason comes from the method.
        lack: Why a method has none.
        have: The methods that measure it by themselves.
    """

    spec: MetricSpec
    lack: str
    have: str


_STATED = (
    _Stated(FIT, "this method fits no linear model of the score", "superpixels (kernelshap, lime)"),
    _Stated(
        REPEATABILITY,
        "this method does not state how far its values are from those of another seed",
        "rise, sensitivity or superpixels",
    ),
    _Stated(
        CONSERVATION,
        "the maps of this method are not meant to add up to the score",
        "lrp, excitation-backprop, integrated_gradients or fullgrad",
    ),
)


def requested(
    target: TargetSettings,
    stated: Mapping[str, str | Mapping[str, Any]] = MappingProxyType({}),
    own: Sequence[MetricRequest] = (),
) -> tuple[MetricRequest, ...]:
    """The metrics of a run of maps: map statistics, those that are named, and what the method's maps call for.

    Args:
        target: ``metrics`` as ``--metric`` has them; ``sanity`` is short for the randomization test.
        stated: By metric the reason with which a method states it, or that and other options of the metric; empty, or
            missing, where it does not. ``conservation``: why values that should add up to the score may not.
            ``repeatability``: how the error of values that are drawn by chance becomes less. ``fit``: what says more
            where coefficients explain nothing.
        own: What the command measures of itself; ``--metric`` may ask for the same with other options.

    Raises:
        CnnvizError: An unknown metric or option, or one that the method does not state.
    """
    found = {MAP_STATISTICS.name: MAP_STATISTICS.request(), **{each.spec.name: each for each in own}}
    found |= {each.spec.name: each for each in map(lookup.read_metric, target.metrics)}
    if target.sanity:
        found.setdefault(RANDOMIZATION.name, RANDOMIZATION.request())
    for each in _STATED:
        name = each.spec.name
        if reason := stated.get(name):
            found[name] = each.spec.request({"reason": reason} if isinstance(reason, str) else reason)
        elif name in found:
            hint = f"Use it with {each.have}, which measure it by themselves."
            raise CnnvizError(f"--metric {name}: {each.lack}.", hint)
    return tuple(found.values())


@dataclass(frozen=True)
class _MapMetric:
    """A metric of single maps, loaded."""

    spec: MetricSpec
    score: Score
    params: Options


class MapMetrics:
    """Those that look at one map at a time; safe to call from many threads."""

    def __init__(self, requests: Sequence[MetricRequest]) -> None:
        self._metrics = [
            _MapMetric(each.spec, each.spec.load(), each.params)
            for each in requests
            if each.spec.measures in ("map", "map and truth")
        ]

    def score(
        self, placed: PlacedMap, image: ExplainedImage, truth: Truth | None, beside: dict[Any, Any] | None = None
    ) -> dict[str, Any]:
        """What the record's ``scores`` hold of a map; one that needs truth which the image lacks has None there.

        Args:
            placed: The map.
            image: Its image, and what it explains.
            truth: What is known of the image.
            beside: Keeps what baselines score: the same for all methods of an image and a class.

        Raises:
            CnnvizError: A metric gave something that its entry does not list.
        """
        found: dict[str, Any] = {}
        for metric in self._metrics:
            spec = metric.spec
            known_truth = truth
            if not _is_known(spec, image, truth):
                if spec.without_truth == "unscored":
                    found.update(dict.fromkeys(spec.score_keys()))
                    continue
                known_truth = None
            scores = plain(spec, metric.score(placed, image, known_truth, metric.params))
            if spec.baselines:
                known = {} if beside is None else beside
                key = spec.name, metric.params, image.target, placed.seen
                if key not in known:
                    known[key] = {
                        name: plain(
                            spec, metric.score(baseline(name, placed, image.name), image, known_truth, metric.params)
                        )
                        for name in spec.baselines
                    }
                scores["baselines"] = known[key]
            found.update({spec.score_key: scores} if spec.score_key else scores)
        return found


class ModelMetrics:
    """Those that run the network again, for a batch of explained images.

    Attributes:
        seconds: By metric what it took so far, in seconds of the threads that ran it.
    """

    def __init__(self, requests: Sequence[MetricRequest], network: ExplainedNetwork) -> None:
        self._metrics: list[tuple[MetricSpec, ModelMetric]] = [
            (each.spec, each.spec.load()(network, each.params)) for each in requests if each.spec.measures == "model"
        ]
        self.seconds = dict.fromkeys((spec.name for spec, _ in self._metrics), 0.0)
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._metrics)

    def score(self, batch: ExplainedBatch, done: Callable[[], None] = lambda: None) -> list[list[dict[str, Any]]]:
        """For each image, for each of its maps, what the record's ``scores`` hold of it; ``done`` is called after each
        metric."""
        found: list[list[dict[str, Any]]] = [[{} for _ in own] for own in batch.maps]
        for spec, metric in self._metrics:
            began = time.perf_counter()
            scored = metric.score(batch)
            with self._turn:
                self.seconds[spec.name] += time.perf_counter() - began
            for of_image, rows in zip(found, scored, strict=True):
                for of_map, scores in zip(of_image, rows, strict=True):
                    if isinstance(scores, Mapping):
                        of_map[spec.score_key] = plain(spec, scores)
                    else:
                        of_map[spec.score_key] = [plain(spec, row) for row in scores]
            done()
        return found


@dataclass(frozen=True)
class SummedUp:
    """What all metrics say of all maps of a run.

    Attributes:
        figures: Of the report's ``summary``.
        notes, remarks: As a :class:`RunSummary` has them.
    """

    figures: dict[str, Any]
    notes: tuple[str, ...]
    remarks: tuple[tuple[str, str], ...]


def gathered(
    asked: Mapping[str, Sequence[MetricRequest]], records: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, list[Row]]]:
    """By method and metric, a row for each map of a run; the records are gone through once.

    Baselines of an image that are the same beside several methods are one object.

    Args:
        asked: The metrics of each method; under the empty name those of all maps, whatever made them.
        records: Of the run.
    """
    summed = {
        method: [each.spec for each in own if each.spec.summarizer and each.spec.measures != "mosaics"]
        for method, own in asked.items()
    }
    found: dict[str, dict[str, list[Row]]] = {method: {spec.name: [] for spec in own} for method, own in summed.items()}
    shared: dict[Any, Any] = {}
    if not any(summed.values()):
        return found  # a record of a thousand classes takes 5 ms to read
    for record in records:
        path, label = str(record.get("path")), record.get("label")
        known: dict[str, list[tuple[Any, Any]]] = {}
        for explanation in record.get("explanations") or ():
            scores = explanation.get("scores") or {}
            for method in {"", explanation.get("method", "")} & summed.keys():
                for spec in summed[method]:
                    if not spec.score_key or spec.score_key in scores:
                        own = scores[spec.score_key] if spec.score_key else scores
                        made = _compact_scores(own, known.setdefault(spec.name, []))
                        found[method][spec.name].append(Row(made, path, label, shared))
    return found


def _compact_scores(scores: Any, known: list[tuple[Any, Any]]) -> Any:
    """What a metric says of a map, and its baselines as they are known of the image, or else become known."""
    if not isinstance(scores, dict) or "baselines" not in scores:
        return _compact(scores)
    beside = scores["baselines"]
    made = next((made for each, made in known if each == beside), None)
    if made is None:
        made = _compact(beside)
        known.append((beside, made))
    return {key: made if key == "baselines" else _compact(value) for key, value in scores.items()}


def _compact(scores: Any) -> Any:
    if isinstance(scores, dict):
        return {key: _compact(value) for key, value in scores.items()}
    if isinstance(scores, list) and scores and isinstance(scores[0], list):
        return [_compact(each) for each in scores]
    if isinstance(scores, list) and len(scores) > _SHORT and set(map(type, scores)) == {int}:
        return np.array(scores)
    return scores


def summed_up(
    requests: Sequence[MetricRequest], rows: Mapping[str, Sequence[Row]], mosaics: Sequence[Row] = ()
) -> SummedUp:
    """What the report's ``summary`` says of all maps of a run, and what people are told.

    Args:
        requests: The metrics.
        rows: Of each metric.
        mosaics: Of the metric that looks at mosaics, its rows.
    """
    found: dict[str, Any] = {}
    notes: list[str] = []
    remarks: list[tuple[str, str]] = []
    for request in requests:
        spec = request.spec
        summarize = spec.load_summarizer()
        if summarize is None:
            continue
        own = mosaics if spec.measures == "mosaics" else rows[spec.name]
        said: RunSummary = summarize(own, spec, request.params)
        notes += said.notes
        remarks += said.remarks
        if said.figures is not None and spec.summary_key:
            found[spec.summary_key] = said.figures
        elif said.figures is not None:
            found.setdefault("metrics", {})[spec.name] = said.figures
    return SummedUp(found, tuple(notes), tuple(remarks))


def _is_known(spec: MetricSpec, image: ExplainedImage, truth: Truth | None) -> bool:
    if spec.truth == "nothing" or (spec.truth == "label" and image.label is not None):
        return True
    return truth is not None and truth.knows(spec.truth)


def plain(spec: MetricSpec, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as JSON has them.

    Raises:
        CnnvizError: There is one that the entry does not list, or something is no figure.
    """
    listed = {figure.name for figure in spec.figures}
    if not isinstance(scores, Mapping) or not listed >= set(scores):
        got = ", ".join(sorted(map(str, set(scores) - listed))) if isinstance(scores, Mapping) else repr(scores)
        raise CnnvizError(
            f"Metric {spec.name} gave {got}, which its entry does not list.",
            "Name every figure in the MetricSpec: figures=(Figure(...), ...).",
        )
    return {name: _value(spec, value) for name, value in scores.items()}


def _value(spec: MetricSpec, value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        if _JSON.issuperset(map(type, value)):
            return list(value)
        return [_value(spec, each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CnnvizError(
        f"Metric {spec.name} gave a {type(value).__name__}, which JSON does not have.",
        "Return numbers, None, or lists of them.",
    )
