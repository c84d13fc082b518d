"""Which rows of a table of figures are better than which others, by more than chance explains.

Two rules. Where figures are means over maps, and the value of each map is known, rows are *paired*: a row is better
than another where a two-sided t test of the differences, image by image, gives p < 0.05; it is the more careful of
Student's and its form for skewed values (:func:`cnnviz.metrics.tests.t_p`). Where a figure is none of its maps alone (a
best threshold, pixels of all maps) its own interval must lie *apart* from that of the other row, which asks for more.

Both ask for :data:`FEWEST` images, paired rows for as many on which they differ: were both rows as good, so many
differences would all have the sign that they have, or all the other, with probability 2 / 2^n, which is below 5 % from
six on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.metrics.tests import t_p

FEWEST = 6
"""Images from which on a difference can be more than chance explains."""
_LEVEL = 0.05

Values = Mapping[tuple[str, int], float]
"""By image, and which of its maps it is."""


def paired(rows: Mapping[str, Values], better: str) -> dict[str, list[str]]:
    """By row the others than which it is better: see the top of the module.

    Args:
        rows: By name, the value of each map that has one.
        better: Which values are better, ``higher`` or ``lower``; of anything else no row is.
    """
    found: dict[str, list[str]] = {name: [] for name in rows}
    if better not in ("higher", "lower"):
        return found
    sign = 1.0 if better == "higher" else -1.0
    for one, other in itertools.combinations(rows, 2):
        of_image: dict[str, list[float]] = {}
        for key in rows[one].keys() & rows[other].keys():
            of_image.setdefault(key[0], []).append(sign * (rows[one][key] - rows[other][key]))
        differences = np.array([np.mean(own) for own in of_image.values()])
        if np.count_nonzero(differences) < FEWEST:
            continue
        if _is_certain(differences):
            found[one].append(other)
        elif _is_certain(-differences):
            found[other].append(one)
    return found


def _is_certain(differences: NDArray[np.float64]) -> bool:
    """Whether a mean as high as this is rare where the true one is not above 0."""
    p = t_p(-differences, float(np.abs(differences).max()))
    return p is not None and p < _LEVEL / 2


def apart(rows: Mapping[str, Mapping[str, Any]], better: str, images: int) -> dict[str, list[str]]:
    """The same of figures with intervals that were found before.

    Args:
        rows: By name a figure, ``ci95`` in it.
        better: As for :func:`paired`.
        images: Of how many images the figures are.
    """
    found: dict[str, list[str]] = {name: [] for name in rows}
    if better not in ("higher", "lower") or images < FEWEST:
        return found
    ends = {name: own["ci95"] for name, own in rows.items() if own.get("ci95") is not None}
    for one, other in itertools.permutations(ends, 2):
        if ends[one][0] > ends[other][1] if better == "higher" else ends[one][1] < ends[other][0]:
            found[one].append(other)
    return found


def no_better(
    table: Mapping[str, Mapping[str, Any]], methods: Sequence[str], column: str, better: str
) -> list[dict[str, Any]]:
    """The methods whose figure is not better than that of what stands beside them and knows nothing of the network.

    Args:
        table: By row, by column, a figure: ``value``, and ``better_than`` of :func:`paired` or :func:`apart`.
        methods: Which rows are methods. Blurred copies of their maps know of the network, and do not count.
        column: Which.
        better: As for :func:`paired`.

    Returns:
        For each such method its ``method``, which rows it is no better ``than``, and of these the ``certain``, which
        are better by more than chance explains.
    """
    sign = {"higher": 1.0, "lower": -1.0}.get(better)
    values = {name: own[column] for name, own in table.items() if _value(own, column) is not None}
    if sign is None:
        return []
    beside = [name for name in values if name not in methods and ":" not in name]
    found = []
    for method in (name for name in methods if name in values):
        than = [name for name in beside if sign * (values[method]["value"] - values[name]["value"]) <= 0]
        certain = [name for name in than if method in values[name].get("better_than", ())]
        if than:
            found.append({"method": method, "than": than, "certain": certain})
    return found


def _value(row: Mapping[str, Any], column: str) -> float | None:
    own = row.get(column)
    value = own.get("value") if isinstance(own, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None
