"""``evaluate``: how faithful the maps of several methods are to the network, beside maps that know nothing of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.maps.comparison import Comparison, Conclusion, beside_baselines
from cnnviz.maps.prepared_method import BLURRED
from cnnviz.maps.unmeasured import why_nothing
from cnnviz.metrics import standing
from cnnviz.metrics.faithfulness_baselines import NAMES
from cnnviz.metrics.intervals import bootstrap_mean
from cnnviz.registry import lookup
from cnnviz.registry.comparisons import EvaluateOptions
from cnnviz.registry.metrics import RANDOMIZATION, MetricRequest, MetricSpec
from cnnviz.render.curves import Curve, curves
from cnnviz.report import cautions
from cnnviz.report.figures_table import better_by_name, column_name, heading
from cnnviz.report.text_table import text_table
from cnnviz.schema.images import Figure

ALL = (
    "insertion:baselines=no", "deletion:baselines=no", "road:baselines=no", "average_drop", "increase",
    "sensitivity_n", "infidelity", "max_sensitivity", "sparseness", "occlusion_agreement",
)  # fmt: skip
SMALL = (
    "insertion:steps=14,baselines=no", "deletion:steps=14,baselines=no", "average_drop", "increase", "sparseness",
)  # fmt: skip
"""Blurred copies are measured as methods are, so metrics need not measure them too."""
_CURVES = {"insertion": "share of the pixels put back", "deletion": "share of the pixels taken away"}
_PROBABILITY = "probability"
_REWARD_BLUR = ("insertion", "deletion", "road")
_WORST = 5


class Evaluate(Comparison[EvaluateOptions]):
    """Metrics of many methods, in one table."""

    def metrics(self, method: str) -> tuple[MetricRequest, ...]:
        return self._usual()

    def _usual(self) -> tuple[MetricRequest, ...]:
        # What was asked for takes the place of the usual ones.
        usual = () if self.target.metrics else SMALL if self.params.preset == "small" else ALL
        mosaics = (f"grid_pointing:mosaics={self.params.mosaics}",) if self.params.mosaics else ()
        return tuple(lookup.read_metric(text) for text in (*usual, *mosaics))

    def baselines(self) -> tuple[str, ...]:
        return NAMES if self.params.baselines else ()

    def writes(self) -> Sequence[str]:
        return [f"{name}.png" for name in _CURVES if name in self._names()]

    def _names(self) -> list[str]:
        named = [lookup.read_metric(text) for text in self.target.metrics]
        names = [request.spec.name for request in (*self._usual(), *named)]
        return [*names, RANDOMIZATION.name] if self.target.sanity else names

    def conclude(
        self, figures: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]], store: Store
    ) -> Conclusion:
        specs = [lookup.find_metric(name) for name in dict.fromkeys(self._names())]
        said = {method: {spec.name: _summary(spec, own) for spec in specs} for method, own in figures.items()}
        found = {method: {spec.name: _main(spec, own[spec.name]) for spec in specs} for method, own in said.items()}
        rows = list(records)
        _rank(found, specs, rows)
        values = [each["value"] for own in found.values() for each in own.values()]
        by_truth = all(spec.truth in ("boxes", "masks") for spec in specs)
        summed = any(each is not None for own in said.values() for each in own.values())
        nothing = not _explained(rows) or (by_truth and summed and all(value is None for value in values))
        unmeasured = why_nothing(rows, self.target) if nothing else ""
        heads = {spec.name: _head(spec, [own[spec.name] for own in found.values()]) for spec in specs}
        pictures = _write_curves(self.writes(), rows, store)
        methods = [spec.name for spec, _ in self.methods() if spec.name in found]
        judged = {spec.name: _called(found, spec.name) for spec in specs if spec.baselines_lose}
        beside = beside_baselines(found, methods, judged, len(_explained(rows)))
        figures_told = [] if unmeasured else [*text_table(found, heads, methods, "evaluate"), *cautions.beside(beside)]
        # What a metric says itself of a method and its blur is told already.
        untold = {spec: [each for each in figures if not _says_of_blur(said[each][spec.name])] for spec in specs}
        blurred = _no_better_than_blurred(untold, rows)
        sentences = [*figures_told, *blurred]
        summary = {"metrics": found, "beside_baselines": beside, "worst": _worst(specs, rows)}
        return Conclusion(summary, pictures, sentences, unmeasured=unmeasured, remarks=blurred)


def _headline(spec: MetricSpec) -> str | None:
    """The figure of a map that says how good it is: the first that is summed up."""
    return next((figure.name for figure in spec.figures if figure.summed_up != "no"), None)


def _head(spec: MetricSpec, figures: Sequence[Mapping[str, Any]]) -> str:
    """What stands above a metric's column, of which these are the methods' figures."""
    own = figures[0] if figures else {"figure": spec.name, "better": spec.direction}
    return heading(column_name(spec.name, own["figure"]), own["better"], _unit(spec))


def _called(table: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: str) -> tuple[str, str]:
    """What a metric's column is called, without its unit, and which of its values are better."""
    own = next(iter(table.values()))[metric]
    return heading(column_name(metric, own["figure"]), ""), own["better"]


def _unit(spec: MetricSpec) -> str:
    """Of that figure: ``%``; ``share`` of a rate, which is 0 to 1; empty of a plain number."""
    rate = any(figure.summed_up == "rate" for figure in spec.figures if figure.name == _headline(spec))
    return spec.unit or "share" * rate


def _summary(spec: MetricSpec, own: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the summary of a method says by a metric; of several steps, as of layers made random, the last."""
    said = own.get(spec.summary_key) if spec.summary_key else own.get("metrics", {}).get(spec.name)
    found: Mapping[str, Any] | None = said[-1] if isinstance(said, list) and said else said or None
    return found


def _main(spec: MetricSpec, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first figure of a method, which way is better, and the other figures."""
    figures = {key: each for key, each in (found or {}).items() if isinstance(each, Mapping) and "value" in each}
    name = _headline(spec) or next(iter(figures), spec.name)
    own = figures.pop(name, {"value": None, "ci95": None, "n": 0})
    # Of a figure that was measured of no map, such as that of a blurred copy which stands in a row of its own, nothing.
    figures = {key: each for key, each in figures.items() if each.get("n")}
    unit = {"unit": unit} if (unit := _unit(spec)) else {}
    several = spec.direction == "neither" and column_name(spec.name, name) == name != spec.name
    better = better_by_name(name) if several else spec.direction
    return {**own, "better": better, "figure": name, **unit, **({"others": figures} if figures else {})}


def _rank(
    table: Mapping[str, dict[str, dict[str, Any]]], specs: Sequence[MetricSpec], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write to each figure than which other rows it is better by more than chance explains.

    Map by map, where a metric says its figure of each map; of others, such as of mosaics, by their intervals.
    """
    for spec in specs:
        figures = {name: own[spec.name] for name, own in table.items() if own[spec.name]["value"] is not None}
        better = next((each["better"] for each in figures.values()), "neither")
        values = _values(spec, {each["figure"] for each in figures.values()}, rows)
        if set(values) >= set(figures):
            found = standing.paired({name: values[name] for name in figures}, better)
        else:
            found = standing.apart(figures, better, len(_explained(rows)))
        for name, own in figures.items():
            own["better_than"] = found[name]


def _values(
    spec: MetricSpec, figures: Collection[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[tuple[str, int], float]]:
    """By method, and baseline, the figure of each of its maps that has one, where its mean is what the table has."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    summed = {each.name: each.summed_up for each in spec.figures}
    [name, *others] = figures or [""]
    if others or summed.get(name, "no") == "no":
        return found
    for row in rows:
        places: dict[str, int] = {}
        for each in row.get("explanations") or ():
            method = each["method"]
            place = places[method] = places.get(method, -1) + 1
            scores = each["scores"].get(spec.score_key) if spec.score_key else each["scores"]
            value = scores.get(name) if isinstance(scores, Mapping) else None
            if isinstance(value, (int, float)):
                found.setdefault(method, {})[row["path"], place] = float(value)
    return found


def _explained(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get("error") is None and not row.get("skipped")]


def _worst(specs: Sequence[MetricSpec], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each metric the maps of which it says the worst, the worst first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for spec in specs:
        name = _headline(spec)
        if name is None or spec.direction == "neither":
            continue
        sign = 1 if spec.direction == "higher" else -1
        every = [
            {"path": row["path"], "method": each["method"], "label": each["target"].get("label"), "value": float(value)}
            for row in rows
            for each in row.get("explanations") or ()
            if each["method"] in lookup.method_names()
            and isinstance(value := (each["scores"].get(spec.score_key) or {}).get(name), (int, float))
        ]
        found[spec.name] = sorted(every, key=lambda each: sign * float(each["value"]))[:_WORST]
    return found


def _says_of_blur(summary: Mapping[str, Any] | None) -> bool:
    return bool((summary or {}).get("over_blurred", {}).get("n"))


def _no_better_than_blurred(asked: Mapping[MetricSpec, Sequence[str]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """By which metrics that reward blur the maps of which methods are not better than their own blur for certain.

    The difference of a map and its blur is averaged; its bootstrap interval draws whole images.
    """
    found = []
    for spec, methods in asked.items():
        name, sign = _headline(spec), 1 if spec.direction == "higher" else -1
        some = []
        for method in methods if spec.name in _REWARD_BLUR else ():
            differences, images = [], []
            for row in rows:
                own, blurred = (
                    [
                        (each["scores"].get(spec.score_key) or {}).get(name)
                        for each in row.get("explanations") or ()
                        if each["method"] == kind
                    ]
                    for kind in (method, f"{method}:{BLURRED}")
                )
                pairs = [(a, b) for a, b in zip(own, blurred, strict=False) if a is not None and b is not None]
                differences += [sign * (a - b) for a, b in pairs]
                images += [row["path"]] * len(pairs)
            interval = bootstrap_mean(differences, images) if differences else None
            if differences and (np.mean(differences) if interval is None else interval[0]) <= 0:
                some.append(method)
        if some:
            found.append(f"{spec.title}: not better than their own blur for certain: {', '.join(some)}")
    return found


_Curves = dict[str, list[list[float]]]
"""Curves of maps, by method."""


def _write_curves(names: Sequence[str], rows: Sequence[Mapping[str, Any]], store: Store) -> list[Figure]:
    pictures: list[Figure] = []
    for file in names:
        metric = file.removesuffix(".png")
        followed = _followed(metric, rows)
        of_what = next(iter(followed), None)
        # What two units say, or a class and a unit, has no common scale: then those of classes alone.
        if of_what is None or (len(followed) > 1 and _PROBABILITY not in followed):
            continue
        of_what = _PROBABILITY if _PROBABILITY in followed else of_what
        lines = [
            Curve(
                method,
                list(zip(np.linspace(0, 1, len(own[0])).tolist(), np.mean(own, axis=0).tolist(), strict=True)),
                beside=method not in lookup.method_names(),
            )
            for method, own in followed[of_what].items()
        ]
        spec = lookup.find_metric(metric)
        title = f"{spec.title}: mean {of_what}; a {spec.direction} area is better"
        values = [y for line in lines for _, y in line.points]
        limits = None if of_what == _PROBABILITY else (min(0.0, *values), max(0.0, *values))
        store.write(file, encode(curves(lines, title, _CURVES[metric], limits), ImageFormat("png")))
        left_out = len(followed) > 1
        caption = f"{spec.title}: {spec.summary.replace('the probability', f'the {of_what}')}" + (
            " Classes alone: units have other scales." if left_out else ""
        )
        pictures.append({"file": file, "caption": caption})
    return pictures


def _followed(metric: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, _Curves]:
    """The curves of a metric by what they follow: the probability, or what is explained where that has none."""
    found: dict[str, _Curves] = {}
    for row in rows:
        for each in row.get("explanations") or ():
            own = each["scores"].get(metric) or {}
            curve = own.get("curve")
            # Blurred copies would hide the lines of the methods.
            if curve and BLURRED not in each["method"] and all(value is not None for value in curve):
                unit = own.get("unit", _PROBABILITY)
                of_what = unit if unit == _PROBABILITY else f"{unit} of {each['target'].get('label')}"
                found.setdefault(of_what, {}).setdefault(each["method"], []).append(curve)
    return found
