"""How much of the score the maps of a run leave out, for methods whose maps should sum to it."""

from __future__ import annotations

from collections.abc import Iterable

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.registry.metrics import ConservationOptions, MetricSpec
from cnnviz.report import cautions


def summarize(rows: Iterable[Row], spec: MetricSpec, params: ConservationOptions) -> RunSummary:
    """How many of the maps with a ``gap_share`` leave out more than is tolerated, and the largest share.

    Args:
        rows: Their figures, as the method states them.
        spec: The metric.
        params: ``reason``: why the method's values may not add up, for people.
    """
    maps = above = 0
    largest = 0.0
    for row in rows:
        share = (row.scores or {}).get("gap_share")
        if share is not None:
            maps += 1
            above += share > cautions.TOLERATED
            largest = max(largest, share)
    if not maps:
        return RunSummary(None)
    figures = {"maps": maps, "above_tolerance": above, "tolerance": cautions.TOLERATED, "largest": largest}
    return RunSummary.warning(figures, cautions.left_out(figures), params.reason, ": ")
