"""Maps of what an image shows and of what it is taken for: one range of values, one panel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cnnviz.render.panel import PanelRow

if TYPE_CHECKING:
    from cnnviz.maps.write_image import TargetMap

Limits = tuple[float, float]


def common_limits(drawn: Iterable[tuple[TargetMap, Limits]]) -> dict[str, Limits]:
    """By method the smallest and the largest value that pictures of truth and prediction tell apart.

    Args:
        drawn: The maps of an image, with the limits that each has by itself.
    """
    found: dict[str, Limits] = {}
    for item, (low, high) in drawn:
        if item.facts.get("role"):
            before = found.get(item.method.name, (low, high))
            found[item.method.name] = min(low, before[0]), max(high, before[1])
    return found


def by_method(rows: Sequence[PanelRow], maps: Sequence[TargetMap]) -> list[list[PanelRow]]:
    """The rows of a panel of truth and prediction, a list for each method: the likeliest true class, the predicted one,
    then the other true classes."""
    found: dict[str, list[PanelRow]] = {}
    for row, item in zip(rows, maps, strict=True):
        if row.role:
            found.setdefault(item.method.name, []).append(row)
    ordered = [sorted(own, key=lambda row: row.role == "predicted") for own in found.values()]
    return [[*own[:1], *own[-1:], *own[1:-1]] for own in ordered]
