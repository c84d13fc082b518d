"""The figures of a run with their intervals, by what kind of figure each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cnnviz.errors import counted
from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.metrics.intervals import Interval, bootstrap_mean, wilson
from cnnviz.registry.metrics import Figure, MetricSpec
from cnnviz.registry.params import Options

_SMALL = 1e-3


def by_kind(rows: Iterable[Row], spec: MetricSpec, params: Options) -> RunSummary:
    """Means with a bootstrap interval, rates with Wilson's; see :attr:`cnnviz.registry.metrics.Figure.summed_up`.

    A map whose figure is None is not counted in it. Maps of one image are not independent: the bootstrap draws whole
    images, and a rate counts as of as many trials as there are images.

    Returns:
        ``maps`` that were scored, ``without_truth`` that could not be, and by figure ``value``, ``ci95`` and ``n``;
        under ``baselines`` the same of each baseline. None where there are no maps.
    """
    summed = [figure for figure in spec.figures if figure.summed_up != "no"]
    found: dict[str, dict[str, list[tuple[str, float]]]] = {name: {} for name in ("", *spec.baselines)}
    maps = without = 0
    for row in rows:
        if row.scores is None:
            without += 1
            continue
        maps += 1
        for name, of_figure in found.items():
            scores = row.scores if not name else (row.scores.get("baselines") or {}).get(name) or {}
            for figure in summed:
                value = scores.get(figure.name)
                if value is not None:
                    of_figure.setdefault(figure.name, []).append((row.image, float(value)))
    if not maps and not without:
        return RunSummary(None)
    own, *others = ({each.name: _figure(each, rows.get(each.name, [])) for each in summed} for rows in found.values())
    figures = {"maps": maps, "without_truth": without, **own}
    if spec.baselines:
        figures["baselines"] = dict(zip(spec.baselines, others, strict=True))
    unscored = unscored_maps(spec, without)
    return RunSummary(figures, (*_notes(spec, own), *map(": ".join, unscored)), unscored)


def _figure(figure: Figure, rows: list[tuple[str, float]]) -> dict[str, Any]:
    if not rows:
        return {"value": None, "ci95": None, "n": 0}
    images, values = [image for image, _ in rows], [value for _, value in rows]
    mean, trials = sum(values) / len(values), len(set(images))
    interval: Interval | None
    if figure.summed_up == "rate":
        interval = wilson(min(1.0, max(0.0, mean)) * trials, trials)
    else:
        interval = bootstrap_mean(values, images)
    return {"value": _rounded(mean), "ci95": interval and [_rounded(end) for end in interval], "n": len(values)}


def _rounded(value: float) -> float:
    """To six decimals; what is too small for them, such as a squared difference of probabilities, to four digits."""
    return round(value, 6) if abs(value) >= _SMALL else float(f"{value:.4g}")


def _notes(spec: MetricSpec, own: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    parts = []
    for name, figure in own.items():
        if figure["value"] is not None:
            ends = "" if figure["ci95"] is None else " ({:.3g} to {:.3g})".format(*figure["ci95"])
            unit = f" {spec.unit}" if spec.unit else ""
            parts.append(f"{name.replace('_', ' ')} {figure['value']:.3g}{unit}{ends}")
    return (f"{spec.title}: {', '.join(parts)}",) if parts else ()


def unscored_maps(spec: MetricSpec, without: int) -> tuple[tuple[str, str], ...]:
    """A remark on maps that could not be scored, where there are any."""
    if not without:
        return ()
    were = "was" if without == 1 else "were"
    return ((spec.title, f"{counted(without, 'map')} of images without {spec.truth} {were} not scored"),)
