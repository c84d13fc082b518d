"""Figures of localization over a run: rates and means with intervals over images, by size, beside baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.metrics.intervals import Interval, bootstrap_mean, wilson
from cnnviz.metrics.summaries import unscored_maps
from cnnviz.registry.metrics import MetricSpec

Values = Sequence[tuple[str, float]]
"""Image and figure of each map that counts."""
Scored = Sequence[tuple[str, Mapping[str, Any]]]
"""Image and scores of each map."""
Remarks = tuple[tuple[str, str], ...]
"""Titles of metrics with a sentence each."""


def figure(value: float | None, interval: Interval | None, count: int) -> dict[str, Any]:
    """``value``, ``ci95`` and ``n`` as summaries have them."""
    return {
        "value": None if value is None else round(value, 6),
        "ci95": None if interval is None else [round(end, 6) for end in interval],
        "n": count,
    }


def rate_interval(value: float, images: Iterable[str]) -> Interval:
    """Wilson's interval of a rate over maps: they count as of as many trials as there are images."""
    trials = len(set(images))
    return wilson(min(1.0, max(0.0, value)) * trials, trials)


def rate(rows: Values) -> dict[str, Any]:
    """The share of maps whose figure is 1, with Wilson's interval."""
    if not rows:
        return figure(None, None, 0)
    value = sum(number for _, number in rows) / len(rows)
    return figure(value, rate_interval(value, (image for image, _ in rows)), len(rows))


def mean(rows: Values) -> dict[str, Any]:
    """The mean over maps, with a bootstrap interval that draws whole images."""
    if not rows:
        return figure(None, None, 0)
    images, numbers = [image for image, _ in rows], [number for _, number in rows]
    return figure(sum(numbers) / len(numbers), bootstrap_mean(numbers, images), len(rows))


def by_size(sizes: Sequence[str], rows: Values, sum_up: Callable[[Values], dict[str, Any]]) -> dict[str, Any]:
    """The same figure of the maps of small, medium and large objects."""
    return {
        size: sum_up([row for row, own in zip(rows, sizes, strict=True) if own == size])
        for size in ("small", "medium", "large")
    }


def summed(
    rows: Iterable[Row],
    spec: MetricSpec,
    figures: Callable[[Scored], dict[str, Any]],
    shown: Sequence[str] = (),
    unscored: Callable[[MetricSpec, int], Remarks] = unscored_maps,
) -> RunSummary:
    """The summary of a run: ``maps``, ``without_truth``, the figures, and the same of each baseline.

    Args:
        rows: Of the run.
        spec: The metric.
        figures: Of the maps that were scored.
        shown: Figures of the map alone, too long to be repeated for each baseline.
        unscored: What is told of maps that were not scored: so many.
    """
    known: list[tuple[str, Mapping[str, Any]]] = []
    without = 0
    shared: dict[Any, Any] = {}
    for row in rows:
        shared = row.shared
        if row.scores is None:
            without += 1
        else:
            known.append((row.image, row.scores))
    if not known and not without:
        return RunSummary(None)
    own = figures(known)
    beside = {name: dict(_of_baseline(name, known, figures, shared)) for name in spec.baselines}
    for each in beside.values():
        for name in shown:
            each.pop(name, None)
    said = {"maps": len(known), "without_truth": without, **own, "baselines": beside}
    told = unscored(spec, without)
    return RunSummary(said, (*_notes(spec, own, beside), *map(": ".join, told)), told)


def _of_baseline(
    name: str, known: Scored, figures: Callable[[Scored], dict[str, Any]], shared: dict[Any, Any]
) -> Mapping[str, Any]:
    """The figures of a baseline, computed once for the methods beside which it scores the same.

    Told by its scores, which :func:`~cnnviz.metrics.chosen.gathered` makes one object, and by ``figures``, whose
    ``repr`` has its options.
    """
    rows = [(image, scores["baselines"]) for image, scores in known if "baselines" in scores]
    key = name, repr(figures), *((image, id(baselines)) for image, baselines in rows)
    if key not in shared:
        # With the rows, lest others get their numbers.
        shared[key] = figures([(image, baselines[name]) for image, baselines in rows]), rows
    found: Mapping[str, Any] = shared[key][0]
    return found


def _notes(spec: MetricSpec, own: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    parts = []
    for name, each in own.items():
        if isinstance(each, Mapping) and each.get("value") is not None:
            better = min if name.endswith("error") else max
            values = [row[name]["value"] for row in beside.values()]
            best = better((value for value in values if value is not None), default=None)
            ends = "" if each["ci95"] is None else "{:.3g} to {:.3g}; ".format(*each["ci95"])
            oracle = "; threshold chosen on these images" if each.get("oracle") else ""
            against = "no baseline" if best is None else f"best baseline {best:.3g}"
            parts.append(f"{name.replace('_', ' ')} {each['value']:.3g} ({ends}{against}{oracle})")
    return (f"{spec.title}: {', '.join(parts)}",) if parts else ()
