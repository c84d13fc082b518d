"""Images that a segmentation network sees a class in: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError, shown
from cnnviz.geometry.placement import place
from cnnviz.geometry.regions import Weights, box_weights
from cnnviz.io.names import safe_component
from cnnviz.metrics.evidence import classes_at_pixels
from cnnviz.registry.tasks import TaskSpec
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.segments import Bar, areas_of, colours_by_area, enlarged, legend, painted, roomy, with_outline
from cnnviz.render.text import percent
from cnnviz.schema.studies.synthesize import SynthesizedRegion
from cnnviz.synthesis.objectives import Term
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.region_selection import file_part, only_regions
from cnnviz.tasks.region_words import parse_region

Picture = NDArray[np.uint8]
Labels = NDArray[np.int64]


def region_terms(targets: Sequence[str], classes: ClassNames, task: TaskSpec) -> list[Term]:
    """The mean logit of a class in a region of the input, for each ``--target``.

    Raises:
        CnnvizError: Another kind of target, a region that is known of photographs only, or a network without positions.
    """
    if targets and not task.dense:
        raise CnnvizError(
            f"--target {shown(targets[0])} is of networks with scores at positions.",
            "Use --class, --unit, --neuron or --layer.",
        )
    only_regions(targets, "a class in a region of the input")
    found = []
    for target in targets:
        word = parse_region(target.strip().removeprefix("class:"))
        if target.startswith("segment:") or word.region.kind not in ("box", "point", "all") or "@" not in target:
            raise CnnvizError(
                f"--target {shown(target)}: an image that is yet to be made has no prediction, no mask and no truth.",
                "Use class:CLASS@box:x,y,w,h, @point:x,y or @all, in pixels of the input or per cent.",
            )
        index, text = classes.resolve(word.name), word.spec.rpartition("@")[2]
        label = classes.labels[index]
        region = None if word.region.kind == "all" else word.region
        found.append(Term("class", index, label=label if region is None else f"{label} @{text}", region=region))
    return found


def slug(terms: Sequence[Term], classes: ClassNames) -> str:
    """What an image shows as part of a file name."""
    words = []
    for number, term in enumerate(terms):
        plain = _class_slug(term, classes) if term.kind == "class" else term.label.replace(":", ".")
        sign = "minus_" if term.weight < 0 else "plus_" if number else ""
        words.append(f"{sign}{plain}")
    return safe_component("_".join(words).replace(" ", "_"))[:100]


def _class_slug(term: Term, classes: ClassNames) -> str:
    name = classes.slug(term.index)
    return name if term.region is None else f"{name}-at-{file_part(term.label.rpartition('@')[2])}"


def in_words(rows: Sequence[SynthesizedRegion]) -> str:
    """What the network sees where an image is to show classes, for people."""
    return ", ".join(f"{percent(row['predicted_share'])} seen as {row['label']}" for row in rows)


def weights_of(term: Term, size: tuple[int, int], cells: tuple[int, int]) -> Weights:
    """The share of each position [h, w] that lies in a term's region, of an input of (W, H)."""
    if term.region is None:
        return np.ones(cells, dtype=np.float32)
    return box_weights(term.region.box(size), size, (0.0, 0.0, float(size[0]), float(size[1])), cells)


def region_rows(terms: Sequence[Term], labels: Labels, size: tuple[int, int]) -> list[SynthesizedRegion]:
    """For each class that an image is to show, what share of its region is predicted as the class.

    Args:
        terms: What the image maximises.
        labels: The prediction [h, w].
        size: (W, H) of the input.
    """
    rows: list[SynthesizedRegion] = []
    for term in terms:
        if term.kind != "class":
            continue
        weights = weights_of(term, size, (labels.shape[0], labels.shape[1])).astype(np.float64)
        share = float(weights[labels == term.index].sum() / weights.sum())
        rows.append(
            {
                "label": term.label,
                "class_index": term.index,
                "region_area": float(weights.mean()),
                "predicted_share": min(1.0, share),
            }
        )
    return rows


def prediction_figure(rgb: Picture, terms: Sequence[Term], labels: Labels, names: Sequence[str], title: str) -> Picture:
    """The image, what the network sees in it (regions outlined), and the classes with their areas."""
    height, width = rgb.shape[:2]
    rect = (0.0, 0.0, float(width), float(height))
    whole = place(np.zeros((1, 1), dtype=np.float32), rect, (width, height), signed=False)
    at = classes_at_pixels(labels, rect, whole)
    areas, large = areas_of(at), roomy(rgb)
    size = large.shape[1], large.shape[0]
    colours = colours_by_area(areas)
    prediction = painted(large, enlarged(at, size), colours)
    for term in terms:
        if term.region is not None:
            inside = weights_of(term, (width, height), (height, width)) >= 0.5
            prediction = with_outline(prediction, enlarged(inside.astype(np.int64), size) > 0)
    bars = [Bar(names[index], colours[index], 0.0, areas[index]) for index in sorted(areas, key=lambda i: -areas[i])]
    cells = [
        Cell("image", large, "", ""),
        Cell("prediction", prediction, "", ""),
        Cell("classes", legend(bars, size), "", ""),
    ]
    return comparison([cells], title)


def refuse_inputs(task: TaskSpec, inputs: Sequence[str]) -> None:
    """Raises a CnnvizError where an image of a segmentation network is to start from an input."""
    if task.dense and inputs:
        raise CnnvizError(
            f"{inputs[0]}: of a network with scores at positions, images are made from noise.", "Leave out the INPUT."
        )
