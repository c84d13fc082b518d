"""``--compare-to``: which units look for something else than in another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from cnnviz.errors import CnnvizError
from cnnviz.schema.report import AnyReport
from cnnviz.schema.studies.top_patches import Compared, TopPatchesReport, Unit, UnitChange


def recorded(report: AnyReport, layer: str, path: str) -> dict[int, list[str]]:
    """Paths of each unit's patches, best first, in the report of an earlier run.

    Raises:
        CnnvizError: The report is no report of top-patches, or of another layer.
    """
    hint = "Give the report of a run of top-patches over the same images, of the same layer."
    units = cast("TopPatchesReport", report).get("units")
    if report.get("command") != "top-patches" or not isinstance(units, list):
        raise CnnvizError(f"--compare-to {path}: this report lists no units.", hint)
    found = {row["unit"]: [patch["path"] for patch in row["patches"]] for row in units if row.get("layer") == layer}
    if not found:
        other = ", ".join(sorted({str(row.get("layer")) for row in units})) or "none"
        raise CnnvizError(f"--compare-to {path}: it has units of {other}, not of {layer}.", hint)
    return found


def changes(units: Sequence[Unit], before: Mapping[int, Sequence[str]]) -> list[UnitChange]:
    """How much the patches of each unit changed, most changed first; units that only one run has are left out.

        overlap = |now and before| / |now or before|   (of the images, each counted once)

    ``mean_rank_change`` is the mean of |rank now - rank before| over the images that both have, by an image's best
    patch. A unit that fired in neither run has no overlap (null) and stands last.
    """
    rows: list[UnitChange] = []
    for unit in units:
        if unit["unit"] not in before:
            continue
        now = list(dict.fromkeys(patch["path"] for patch in unit["patches"]))
        then = list(dict.fromkeys(before[unit["unit"]]))
        both = [path for path in now if path in then]
        every = len(set(now) | set(then))
        moved = [abs(now.index(path) - then.index(path)) for path in both]
        rows.append(
            {
                "unit": unit["unit"],
                "overlap": len(both) / every if every else None,
                "mean_rank_change": sum(moved) / len(moved) if moved else None,
                "new": [path for path in now if path not in then],
                "gone": [path for path in then if path not in now],
            }
        )
    return sorted(rows, key=_most_changed)


def compared(rows: Sequence[UnitChange]) -> Compared:
    """Over how many units the models were compared, and the mean overlap of their images."""
    overlaps = [row["overlap"] for row in rows if row["overlap"] is not None]
    mean = sum(overlaps) / len(overlaps) if overlaps else None
    return {"units": len(rows), "mean_overlap": mean}


def _most_changed(row: UnitChange) -> tuple[float, float, int]:
    overlap = 2.0 if row["overlap"] is None else row["overlap"]
    return overlap, -(row["mean_rank_change"] or 0.0), row["unit"]
