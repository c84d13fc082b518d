"""How alike the maps of another seed would be, of methods that draw by chance, and how many draws would do.

A map of N draws is what all seeds have in common and noise, whose variance goes as 1 / N. Their shares of the variance
of the map are r and 1 - r, with r the correlation to expect of two seeds. So r is reached that is wanted, w, with

    N' = N w / (1 - w) (1 - r) / r
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.registry.metrics import MetricSpec, RepeatabilityOptions
from cnnviz.report import cautions

_MOST = 50
"""Times the draws, beyond which nothing is foretold: of so low a correlation little is known."""


def summarize(rows: Iterable[Row], spec: MetricSpec, params: RepeatabilityOptions) -> RunSummary:
    """How many of the maps with a ``reliability`` have less than is enough, the least, and of how many it is not known;
    how many draws would do for all.

    Args:
        rows: Their figures, as the method states them.
        spec: The metric.
        params: What draws are called, how many they were, and what else makes maps more alike, for people.
    """
    said = [row.scores for row in rows if row.scores and "reliability" in row.scores]
    if not said:
        return RunSummary(None)
    stated = [each for each in said if each["reliability"] is not None]
    below = sum(each["reliability"] < cautions.ALIKE for each in stated)
    worst = min(stated, key=lambda each: each["reliability"], default=None)
    least = None if worst is None else worst["reliability"]
    counts = {"maps": len(said), "below_enough": below, "unknown": len(said) - len(stated)}
    figures: dict[str, Any] = {**counts, "enough": cautions.ALIKE, "least": least}
    if params.draws is not None:
        needed = None
        if below and worst is not None:
            # A map may have taken others than were asked for, and says so: whole orders of superpixels are run.
            taken = int(worst.get(params.draws, params.count))
            needed = draws_needed(taken, worst["reliability"], doubled=params.doubled)
        figures["draws"] = {"option": params.draws, "count": params.count, "needed": needed}
    return RunSummary.warning(figures, cautions.repeatability(figures), params.reason)


def draws_needed(count: int, alike: float, *, doubled: bool = False) -> int | None:
    """About how many draws give maps of two seeds that are alike enough: see the top of the module.

    Args:
        count: Draws of a map.
        alike: The correlation to expect of two such maps.
        doubled: Whether only ``count`` times a power of two is an answer; else it has two digits.

    Returns:
        More than ``count``; None where that would be many times as many.
    """
    times = cautions.ALIKE / (1 - cautions.ALIKE) * (1 - alike) / alike if alike > 0 else math.inf
    if times > _MOST:
        return None
    if doubled:
        return count << max(1, math.ceil(math.log2(times) - 1e-9))
    digits = int(10 ** max(0, math.floor(math.log10(count * times)) - 1))
    return max(count + 1, math.ceil(count * times / digits - 1e-9) * digits)
