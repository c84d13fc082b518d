"""``localize``: boxes from the maps of several methods, and how well they find the objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnnviz.errors import CnnvizError, of_all
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.maps.comparison import Comparison, Conclusion, beside_baselines
from cnnviz.maps.other_thresholds import OtherThresholds
from cnnviz.maps.unmeasured import why_nothing
from cnnviz.metrics import standing
from cnnviz.metrics.localization_thresholds import at_thresholds
from cnnviz.registry import lookup
from cnnviz.registry.comparisons import LocalizeOptions
from cnnviz.registry.metrics import MetricRequest
from cnnviz.render.curves import Curve, curves
from cnnviz.report import cautions
from cnnviz.report.figures_table import better_by_name, heading
from cnnviz.report.text_table import text_table
from cnnviz.schema.images import Figure
from cnnviz.settings import TargetSettings

_THRESHOLDS = {"cam2016": 0.2, "gradcam2017": 0.15}
_METRICS = ("max_box_acc", "max_box_acc_v2", "pointing_game", "energy_pointing_game", "pxap")
_CURVES = "max_box_acc.png"
_COLUMNS = (
    "top1_error", "top5_error", "gt_known_accuracy", "object_recall", "box_precision", *_METRICS,
)  # fmt: skip
_OF_THRESHOLDS = ("max_box_acc", "max_box_acc_v2")
_ORACLE = "MaxBoxAcc and MaxBoxAccV2: the best threshold of these very images; --threshold-from takes that of others"
_COUNTS = ("maps", "without_truth", "classes_outside_truth", "flat")


class Localize(Comparison[LocalizeOptions]):
    """Weakly supervised localization: Zhou et al., CVPR 2016, tables 2 and 3; Choe et al., CVPR 2020."""

    def __init__(self, params: LocalizeOptions, target: TargetSettings) -> None:
        super().__init__(params, target)
        self._others: OtherThresholds | None = None
        self._before: Sequence[str] = ()
        if params.threshold_from is not None:
            self._check_thresholds(params, target)
            self._others = OtherThresholds(params.threshold_from, params.protocol)

    @staticmethod
    def _check_thresholds(params: LocalizeOptions, target: TargetSettings) -> None:
        """Refuse two sources of one threshold."""
        asked = {request.spec.name: request.params for request in map(lookup.read_metric, target.metrics)}
        at = [name for name in _OF_THRESHOLDS if getattr(asked.get(name), "at", None) is not None]
        given = ["--threshold"] if params.threshold is not None else [f"--metric {name}:at" for name in at]
        if given:
            raise CnnvizError(f"--threshold-from and {given[0]} both say which threshold.", "Leave one of them out.")

    def metrics(self, method: str) -> tuple[MetricRequest, ...]:
        params = self.params
        boxes = {
            "threshold": self._threshold(method),
            "component": params.component,
            "per_component": params.per_component,
            "protocol": params.protocol,
        }
        found = [lookup.find_metric("box_localization").request(boxes)]
        for name in _METRICS if self.target.truth is not None else ():
            spec = lookup.find_metric(name)
            # Of the protocol of ImageNet's kit only its boxes differ.
            takes = {choice for param in spec.params if param.name == "protocol" for choice in param.choices}
            found.append(spec.request({"protocol": params.protocol} if params.protocol in takes else {}))
        return tuple(found)

    def remarks_on(self, model: Mapping[str, Any]) -> Sequence[str]:
        self._before = () if self._others is None else self._others.remarks_on(model)
        return self._before

    def _threshold(self, method: str) -> float:
        """That of the boxes of a method."""
        if self._others is not None:
            return self._others.best(method)
        return _THRESHOLDS[self.params.preset] if self.params.threshold is None else self.params.threshold

    def writes(self) -> Sequence[str]:
        return () if self.target.truth is None else (_CURVES,)

    def conclude(
        self, figures: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]], store: Store
    ) -> Conclusion:
        if self.target.truth is None:
            only = ["boxes only: with --truth PATH they are measured"]
            return Conclusion({"localization": {}}, sentences=only, remarks=only)
        found: dict[str, dict[str, Any]] = {}
        beside: dict[str, dict[str, Any]] = {}
        lines: list[Curve] = []
        for method, own in figures.items():
            metrics = own.get("metrics", {})
            found[method] = _flat(metrics)
            lines += _curve(method, metrics)
            for name in lookup.find_metric("box_localization").baselines:
                # They know nothing of the method: of each the same figures, but for the threshold of the boxes.
                known = {
                    key: each["baselines"][name] for key, each in metrics.items() if name in each.get("baselines", {})
                }
                beside.setdefault(name, _flat(known))
        found.update(beside)
        for method in figures:
            found[method]["box_threshold"] = self._threshold(method)
        figures_of = (each for row in found.values() for each in row.values() if isinstance(each, Mapping))
        if not any(each.get("value") is not None for each in figures_of):
            return Conclusion({"localization": found}, unmeasured=why_nothing(records, self.target))
        records = records if self._others is None else list(records)  # of many images they are large
        told = [_ORACLE] if self._others is None else self._use(self._others, found, records)
        pictures: list[Figure] = []
        if lines:
            title = "Box accuracy over threshold (MaxBoxAcc, IoU 0.5)"
            axis = "threshold, as a share of the map's maximum"
            store.write(_CURVES, encode(curves(lines, title, axis), ImageFormat("png")))
            pictures.append({"file": _CURVES, "caption": title})
        heads = {name: heading(name, better_by_name(name)) for name in _COLUMNS}
        beside = _ranked(found, list(figures), records)
        sentences = [*text_table(found, heads, list(figures), "localize"), *cautions.beside(beside), *told]
        summary = {"localization": found, "beside_baselines": beside}
        return Conclusion(summary, pictures, sentences, remarks=[*self._before, *told])

    def _use(
        self, others: OtherThresholds, found: dict[str, dict[str, Any]], records: Iterable[Mapping[str, Any]]
    ) -> list[str]:
        """Put the figures at thresholds of another run in the place of the best ones; what is told of them."""
        rows = list(records)
        common = sum(map(others.has, rows))
        told = [f"thresholds of MaxBoxAcc and of boxes: those that are best in {others.path}"]
        if common:
            what = "it" if common == 1 else "them"
            told.append(
                f"{of_all(common, len(rows), 'image')} in {others.path} too: the thresholds were chosen on {what}"
            )
        for (row, metric), scores in _scores_by_row(rows, next(iter(found))).items():
            chosen = others.of(row, metric)
            if chosen is None or metric not in found.get(row, {}):
                continue
            at: dict[str, Any] = {"threshold": chosen[0]}
            if metric == "max_box_acc_v2":
                at = {"thresholds": dict(zip(found[row][metric]["thresholds"], chosen, strict=True))}
            own = at_thresholds(metric, scores, chosen, self.params.protocol)
            found[row][metric] = {**own, **at, "threshold_from": others.path, "oracle": bool(common)}
        return told


def _ranked(
    table: Mapping[str, dict[str, Any]],
    methods: Sequence[str],
    records: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write to each figure than which other rows it is better by more than chance explains; what the summary says of
    methods that are no better than what knows nothing of the network."""
    images = len({row["path"] for row in records if _is_measured(row)})
    for name in _COLUMNS:
        figures = {row: own[name] for row, own in table.items() if own.get(name, {}).get("value") is not None}
        for row, others in standing.apart(figures, better_by_name(name), images).items():
            figures[row]["better_than"] = others
    columns = {name: (heading(name, ""), better_by_name(name)) for name in _COLUMNS}
    return beside_baselines(table, methods, columns, images)


def _is_measured(record: Mapping[str, Any]) -> bool:
    """Whether any metric that needs truth has a figure of an image."""
    names = ("box_localization", *_METRICS)
    scores = [each["scores"].get(name) or {} for each in record.get("explanations") or () for name in names]
    return any(own.get("truth_classes") or own.get("true_labels") or own.get("levels") for own in scores)


def _scores_by_row(
    records: Iterable[Mapping[str, Any]], first: str
) -> dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]]:
    """By method, or baseline, and metric of thresholds: image and scores of each map.

    Baselines are the same beside each method: those of the first count.
    """
    found: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for record in records:
        for each in record.get("explanations") or ():
            for metric in _OF_THRESHOLDS:
                own = each["scores"].get(metric)
                if not own:
                    continue
                rows = {each["method"]: own, **(own["baselines"] if each["method"] == first else {})}
                for row, scores in rows.items():
                    found.setdefault((row, metric), []).append((record["path"], scores))
    return found


def _flat(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all metrics side by side; those by the size of objects under the name of the whole figure."""
    found: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    boxes = metrics.get("box_localization", {})
    # How many maps there are, and how many of them no figure counts.
    counts = {name: boxes[name] for name in _COUNTS if name in boxes}
    for figures in metrics.values():
        named = {key: each for key, each in figures.items() if isinstance(each, Mapping) and "value" in each}
        if "by_iou" in figures and "max_box_acc_v2" in named:
            of_iou = {iou: each["threshold"] for iou, each in figures["by_iou"].items()}
            named["max_box_acc_v2"] = {**named["max_box_acc_v2"], "thresholds": of_iou}
        found |= named
        if "by_size" in figures:
            headline = "gt_known_accuracy" if "gt_known_accuracy" in named else next(iter(named))
            sizes[headline] = figures["by_size"]
    return {**counts, **found, **({"by_size": sizes} if sizes else {})}


def _curve(method: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    points = metrics.get("max_box_acc", {}).get("curve")
    return [Curve(method, [(float(x), float(y)) for x, y in points])] if points else []
