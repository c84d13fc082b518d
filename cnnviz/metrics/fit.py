"""How well a linear model of the score fits, of methods whose values are its coefficients."""

from __future__ import annotations

from collections.abc import Iterable

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.registry.metrics import FitOptions, MetricSpec
from cnnviz.report import cautions


def summarize(rows: Iterable[Row], spec: MetricSpec, params: FitOptions) -> RunSummary:
    """How many of the maps with a ``fit`` explain less than a constant would, and the least.

    Args:
        rows: Their figures, as the method states them.
        spec: The metric.
        params: ``reason``: what says more of such a score, for people.
    """
    found = [row.scores["fit"] for row in rows if row.scores and row.scores.get("fit") is not None]
    if not found:
        return RunSummary(None)
    below, least = sum(each < cautions.FITS for each in found), min(found)
    figures = {"maps": len(found), "below_enough": below, "enough": cautions.FITS, "least": least}
    return RunSummary.warning(figures, cautions.fit(figures), params.reason)
