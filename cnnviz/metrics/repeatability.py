"""How alike the maps of another seed would be, of methods that draw by chance."""

from __future__ import annotations

from collections.abc import Iterable

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.registry.metrics import MetricSpec, RepeatabilityOptions
from cnnviz.report import cautions


def summarize(rows: Iterable[Row], spec: MetricSpec, params: RepeatabilityOptions) -> RunSummary:
    """How many of the maps with a ``reliability`` have less than is enough, the least, and of how many it is not known.

    Args:
        rows: Their figures, as the method states them.
        spec: The metric.
        params: ``reason``: how the method's maps come out more alike, for people.
    """
    said = [row.scores["reliability"] for row in rows if row.scores and "reliability" in row.scores]
    if not said:
        return RunSummary(None)
    stated = [each for each in said if each is not None]
    below, unknown = sum(each < cautions.ALIKE for each in stated), len(said) - len(stated)
    least = min(stated, default=None)
    counts = {"maps": len(said), "below_enough": below, "unknown": unknown}
    figures = {**counts, "enough": cautions.ALIKE, "least": least}
    return RunSummary.warning(figures, cautions.repeatability(figures), params.reason)
