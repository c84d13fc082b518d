"""The figures of a run, with what stands for hidden pixels in the sentence, and whether a map beats its own blur."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.metrics.faithfulness import REPLACED_BY
from cnnviz.metrics.summaries import by_kind
from cnnviz.registry.metric_specs import MetricSpec
from cnnviz.registry.params import Options


def summarize(rows: Iterable[Row], spec: MetricSpec, params: Options) -> RunSummary:
    """As :func:`~cnnviz.metrics.summaries.by_kind`.

    People are also told what stands for hidden pixels, and where ``over_blurred`` is not above 0 for certain (the
    lower end of its interval; without an interval its value) that the maps are not better than their own blur. ROAD
    and its like reward maps for being blurred (Song et al., "On Pitfalls of RemOve-And-Retrain", arXiv 2304.13836).
    """
    hidden = getattr(params, "replace", None)
    title = spec.title if hidden is None else f"{spec.title} (hidden: {REPLACED_BY[hidden]})"
    found = by_kind(rows, replace(spec, title=title), params)
    if hidden is not None and found.figures is not None:
        found = replace(found, remarks=((spec.title, f"hidden pixels are {REPLACED_BY[hidden]}"), *found.remarks))
    over = (found.figures or {}).get("over_blurred")
    if over is None or over["value"] is None:
        return found
    low, value = over["value"] if over["ci95"] is None else over["ci95"][0], over["value"]
    if low > 0:
        return found
    verdict = f"not better than its own blur: {value:+.3g} on average, at least {low:+.3g}"
    told, remarked = f"{spec.title}: {verdict}", (spec.title, verdict)
    return replace(found, notes=(*found.notes, told), remarks=(*found.remarks, remarked))
