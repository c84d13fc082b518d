"""``localize``: boxes from the maps of several methods, and how well they find the objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.maps.comparison import Comparison, Conclusion, table
from cnnviz.registry import lookup
from cnnviz.registry.comparisons import LocalizeOptions
from cnnviz.registry.metrics import MetricRequest
from cnnviz.render.curves import Curve, curves
from cnnviz.schema.images import Figure

_THRESHOLDS = {"cam2016": 0.2, "gradcam2017": 0.15}
_METRICS = ("max_box_acc", "max_box_acc_v2", "pointing_game", "energy_pointing_game", "pxap")
_CURVES = "max_box_acc.png"
_COLUMNS = {
    "top1_error": "top-1 error ↓",
    "top5_error": "top-5 error ↓",
    "gt_known_accuracy": "GT-known ↑",
    "max_box_acc": "MaxBoxAcc ↑",
    "max_box_acc_v2": "MaxBoxAccV2 ↑",
    "pointing_game": "pointing game ↑",
    "energy_pointing_game": "energy inside ↑",
    "pxap": "PxAP ↑",
}
_COUNTS = ("maps", "without_truth", "classes_outside_truth", "flat")
_NOTHING = "nothing was measured: no map is of a class that --truth marks on its image (--class truth asks for them)"


class Localize(Comparison[LocalizeOptions]):
    """Weakly supervised localization: Zhou et al., CVPR 2016, tables 2 and 3; Choe et al., CVPR 2020."""

    def metrics(self) -> tuple[MetricRequest, ...]:
        params = self.params
        threshold = _THRESHOLDS[params.preset] if params.threshold is None else params.threshold
        boxes = {"threshold": threshold, "component": params.component, "protocol": params.protocol}
        found = [lookup.find_metric("box_localization").request(boxes)]
        for name in _METRICS if self.target.truth is not None else ():
            spec = lookup.find_metric(name)
            # Of the protocol of ImageNet's kit only its boxes differ.
            takes = {choice for param in spec.params if param.name == "protocol" for choice in param.choices}
            found.append(spec.request({"protocol": params.protocol} if params.protocol in takes else {}))
        return tuple(found)

    def writes(self) -> Sequence[str]:
        return () if self.target.truth is None else (_CURVES,)

    def conclude(
        self, figures: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]], store: Store
    ) -> Conclusion:
        if self.target.truth is None:
            return Conclusion({"localization": {}}, sentences=["boxes only: with --truth PATH they are measured"])
        found: dict[str, dict[str, Any]] = {}
        beside: dict[str, dict[str, Any]] = {}
        lines: list[Curve] = []
        for method, own in figures.items():
            metrics = own.get("metrics", {})
            found[method] = _flat(metrics)
            lines += _curve(method, metrics)
            for name in lookup.find_metric("box_localization").baselines:
                # They know nothing of the method: of each the same figures.
                known = {
                    key: each["baselines"][name] for key, each in metrics.items() if name in each.get("baselines", {})
                }
                beside.setdefault(name, _flat(known))
        found.update(beside)
        pictures: list[Figure] = []
        if lines:
            title = "Box accuracy over threshold (MaxBoxAcc, IoU 0.5)"
            axis = "threshold, as a share of the map's maximum"
            store.write(_CURVES, encode(curves(lines, title, axis), ImageFormat("png")))
            pictures.append({"file": _CURVES, "caption": title})
        figures_of = (each for row in found.values() for each in row.values() if isinstance(each, Mapping))
        measured = any(each.get("value") is not None for each in figures_of)
        return Conclusion({"localization": found}, pictures, table(found, _COLUMNS) if measured else [_NOTHING])


def _flat(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all metrics side by side; those by the size of objects under the name of the whole figure."""
    found: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    boxes = metrics.get("box_localization", {})
    # How many maps there are, and how many of them no figure counts.
    counts = {name: boxes[name] for name in _COUNTS if name in boxes}
    for figures in metrics.values():
        named = {key: each for key, each in figures.items() if isinstance(each, Mapping) and "value" in each}
        found |= named
        if "by_size" in figures:
            headline = "gt_known_accuracy" if "gt_known_accuracy" in named else next(iter(named))
            sizes[headline] = figures["by_size"]
    return {**counts, **found, **({"by_size": sizes} if sizes else {})}


def _curve(method: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[Curve]:
    points = metrics.get("max_box_acc", {}).get("curve")
    return [Curve(method, [(float(x), float(y)) for x, y in points])] if points else []
