"""Why a run with annotations measured nothing, and what to type next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cnnviz.settings import TargetSettings

_TRUTH = "truth"


def why_nothing(records: Iterable[Mapping[str, Any]], asked: TargetSettings) -> str:
    """The reason, for the person who ran it.

    Args:
        records: Of the run.
        asked: What it explains, and by which annotations.
    """
    every = list(records)
    rows = [row for row in every if row.get("error") is None and not row.get("skipped")]
    if not rows:
        if every and all(row.get("skipped") for row in every):
            left, they = ("the one image", "it is") if len(every) == 1 else (f"all {len(every)} images", "they are")
            return f"--only {asked.only} left out {left}: without --only {they} measured"
        return "no image was explained"
    # A folder of masks knows of every image that it has no mask of: nothing is marked there.
    known = [row[_TRUTH] for row in rows if any((row.get(_TRUTH) or {}).values())]
    if not known:
        these = "this image" if len(rows) == 1 else f"any of the {len(rows)} images"
        return (
            f"--truth {asked.truth} does not have {these}: give the annotations of what is explained; images are "
            "matched by path and name"
        )
    if not any(each["objects"] or each["masks"] for each in known):
        return f"--truth {asked.truth} has labels of the images, no boxes or masks: name annotations that have them"
    if not _marks_classes(rows) or _TRUTH in (word.strip() for word in asked.classes):
        return (
            "nothing that --truth marks on these images is a class of the model: --truth-classes FILE says what its "
            "labels mean, in YAML: LABEL: [CLASS, ...]"
        )
    return "no map is of a class that --truth marks on its image: --class truth asks for them"


def _marks_classes(rows: list[Mapping[str, Any]]) -> bool:
    """Whether a class of the model is marked on any of the images, by boxes or, where none were measured, at all."""
    boxes = [each["scores"].get("box_localization") or {} for row in rows for each in row.get("explanations") or ()]
    counts = [count for each in boxes if (count := each.get("truth_classes")) is not None]
    return any(counts) if counts else any(row.get("true_classes") for row in rows)
