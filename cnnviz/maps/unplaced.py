"""Images of which nothing is drawn and many classes are measured: figures of all maps at once, on their cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnviz.errors import CnnvizError
from cnnviz.metrics.cell_statistics import cell_grid, cell_scores
from cnnviz.registry.metrics import MAP_STATISTICS, MapStatisticsOptions, MetricRequest

if TYPE_CHECKING:
    from cnnviz.maps.write_image import ImageResult
    from cnnviz.run.prepared_model import PreparedModel

# Of fewer maps of an image the figures come from its pixels.
MANY = 100
ON_CELLS = {"figures_on": "cells"}
"""What the record of an image says whose maps are measured so."""


def on_cells(prepared: PreparedModel, requests: Sequence[Sequence[MetricRequest]], save: Collection[str]) -> bool:
    """Whether the maps of a run are measured on their cells.

    Args:
        prepared: The network of the run, which tells people so, and what is asked of it.
        requests: The metrics of each method.
        save: Kinds of files that are written.

    Raises:
        CnnvizError: It is asked for by name where something else needs the pixels.
    """
    every = [each for own in requests for each in own]
    asked = {each.params.on for each in every if isinstance(each.params, MapStatisticsOptions)}
    needs = [f"--metric {each.spec.name}" for each in every if each.spec.measures in ("map", "map and truth")]
    needs = [each for each in needs if each != f"--metric {MAP_STATISTICS.name}"]
    needs += [f"--save {','.join(sorted(save))}"] if save else []
    task = prepared.task_spec
    needs += [f"--task {task.name}"] if task.dense or task.boxes or task.words else []
    if "cells" in asked and needs:
        raise CnnvizError(
            f"--metric map_statistics:on=cells: {needs[0]} needs the photograph's pixels.",
            "Measure its pixels (on=pixels); or use --save none, no other metric of maps, and classes of whole images.",
        )
    if asked != {"auto"}:
        return "cells" in asked
    classes = prepared.asked_classes
    count = sum(_count(each.strip(), len(prepared.classes)) for each in classes)
    if needs or count <= MANY:
        return False
    prepared.note(
        f"figures of maps are of their cells, not of the photograph's pixels: there are {count} maps of each and "
        "nothing is drawn (--metric map_statistics:on=pixels for the others)"
    )
    return True


def _count(spec: str, classes: int) -> int:
    """How many classes a word of ``--class`` asks for."""
    if spec == "all":
        return classes
    return min(int(spec[4:]), classes) if spec.startswith("top:") else 1


def scores_of(done: ImageResult) -> list[dict[str, Any]] | None:
    """The figures of each map of an image; None where the cells of some are smaller than pixels."""
    height, width = done.rgb.shape[:2]
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = defaultdict(list)
    for number, item in enumerate(done.maps):
        alike[item.values.shape, item.raw.shape].append(number)
    found: list[dict[str, Any]] = [{}] * len(done.maps)
    for (shape, _), numbers in alike.items():
        grid = cell_grid((shape[0], shape[1]), done.geometry.rect, (width, height))
        if grid is None:
            return None
        values = np.stack([done.maps[number].values for number in numbers])
        raw = np.stack([done.maps[number].raw for number in numbers])
        for number, scores in zip(numbers, cell_scores(values, raw, grid), strict=True):
            found[number] = scores
    return found
