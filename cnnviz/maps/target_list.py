"""What can be asked of one image with ``--target`` and ``--class``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.errors import CnnvizError, ImageError, counted
from cnnviz.geometry.placement import Rect, place
from cnnviz.io.decode import open_image
from cnnviz.io.sources import ImageRef, find_images, open_file
from cnnviz.maps.detection_picture import boxes_figure
from cnnviz.metrics.evidence import classes_at_pixels
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.records import DetectionScore
from cnnviz.render.grid import resize
from cnnviz.render.overlay import with_unseen
from cnnviz.render.segments import (
    Bar,
    areas_of,
    colours_by_area,
    enlarged,
    listing_figure,
    numbered,
    painted,
    roomy,
)
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.settings import RunSettings
from cnnviz.tasks.base import Askable, Predictions

Picture = NDArray[np.uint8]

# An entry that explains any network without gradients: nothing is explained here, so nothing is examined in vain.
_ENTRY = "occlusion"
# So many of a kind are counted, listed or not: the parts of a speckled segmentation are without end.
_COUNTED = 1001


@dataclass(frozen=True, eq=False)
class TargetList:
    """What can be asked of an image.

    Attributes:
        item: The image.
        task: What the network is for.
        asked: What can be asked, in the order in which it is shown.
        labels: Class names by index.
        classes: The class at each position of an output that has positions [h, w]; None for others.
        boxes: What a detector finds, in pixels of the photograph.
        unlisted: How many more there are of each kind (``class``, ``box``, ``segment``, …), where there are any; a
            thousand and one are counted.
        if_nothing: What is said where nothing can be asked.
    """

    item: DecodedImage
    task: str
    asked: tuple[Askable, ...]
    labels: tuple[str, ...]
    classes: NDArray[np.int64] | None
    boxes: tuple[DetectionScore, ...] = ()
    unlisted: Mapping[str, int] = field(default_factory=dict)
    if_nothing: str = ""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each, plain JSON: ``target``, ``label``, ``class_index``, its figures, and of parts ``box_xywh`` in
        pixels of the photograph."""
        found: list[dict[str, Any]] = []
        for each in self.asked:
            row = {"target": each.spec, "label": each.label, "class_index": each.class_index, **each.figures}
            if each.cells is not None:
                row["box_xywh"] = box_of(each.cells, self.item.geometry.rect, self.item.geometry.image_size)
            found.append(row)
        for row, box in zip(found, self.boxes, strict=False):
            row["box_xywh"] = [round(value, 2) for value in box.box_xywh]
        return found

    def to_dict(self) -> dict[str, Any]:
        """The list and its image, plain JSON."""
        height, width = self.item.rgb.shape[:2]
        return {
            "path": self.item.ref.uri,
            "width": width,
            "height": height,
            "task": self.task,
            "targets": self.rows(),
            "unlisted": dict(self.unlisted),
        }

    def rest(self) -> str:
        """How many are not listed, and what lists them; empty where all are."""
        listed = Counter(each.kind for each in self.asked)
        every = {kind: listed[kind] + count for kind, count in self.unlisted.items()}
        told = [
            f"{'at least ' if every[kind] >= _COUNTED else ''}{counted(count, f'more {kind}')}"
            for kind, count in self.unlisted.items()
        ]
        return f"Not listed: {', '.join(told)}: --top {max(every.values())}" if told else ""

    def picture(self) -> Picture | None:
        """The photograph, its numbered parts and its classes; None where the network's output has no positions."""
        if self.boxes:
            return boxes_figure(self.item.rgb, self.boxes, self.item.ref.name)
        if self.classes is None:
            return None
        rect, (width, height) = self.item.geometry.rect, self.item.geometry.image_size
        small = roomy(self.item.rgb)
        size = small.shape[1], small.shape[0]
        whole = place(np.zeros((1, 1), np.float32), rect, (width, height), signed=False)
        at = classes_at_pixels(self.classes, rect, whole)
        # Of the network's cells, as the list has them: counted in pixels a class would have two figures.
        areas = areas_of(self.classes, self.classes.size)
        colours = colours_by_area(areas)
        masks = [place(each.cells.astype(np.float32), rect, (width, height), signed=False).values >= 0.5
                 for each in self.asked if each.cells is not None]  # fmt: skip
        parts = [resize(mask.astype(np.uint8) * 255, size) >= 128 for mask in masks]
        coloured = with_unseen(painted(small, enlarged(at, size), colours), small, rect, (width, height))
        marked = numbered(coloured, parts)
        names = [Bar(self.labels[index], colours[index], 0.0, area) for index, area in areas.items()]
        names.sort(key=lambda bar: -bar.area)
        return listing_figure(small, marked, names, self.item.ref.name)


def box_of(cells: NDArray[np.bool_], rect: Rect, size: tuple[int, int]) -> list[float]:
    """x, y, width and height, in pixels of the photograph, of the box around cells [h, w] that cover ``rect``."""
    edges = []
    for axis, (start, stop) in enumerate(((rect[0], rect[2]), (rect[1], rect[3]))):
        there = np.flatnonzero(cells.any(axis=axis))
        pitch = (stop - start) / cells.shape[1 - axis]
        low, high = start + int(there[0]) * pitch, start + (int(there[-1]) + 1) * pitch
        edges.append((max(low, 0.0), min(high, float(size[axis]))))
    (x0, x1), (y0, y1) = edges
    return [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]


def list_targets(settings: RunSettings, note: Callable[[str], None]) -> TargetList:
    """What can be asked of the one image of ``settings``, at most ``top`` of each kind.

    Raises:
        CnnvizError: The network or the image cannot be had, or there are several images.
    """
    if settings.model.view == "tiles":
        raise CnnvizError("--view tiles: targets are listed of one view.", "Use --view crop, whole or squash.")
    refs = list(itertools.islice(find_images(settings.inputs), 2))
    if len(refs) != 1:
        many = "several images" if refs else "no image"
        raise CnnvizError(f"{', '.join(settings.inputs)}: {many}, where one is listed.", "Name one image file.")
    target = replace(settings.target, method=_ENTRY)
    prepared = PreparedModel(replace(settings, target=target), Cut.before_classifier(), 1, note)
    item = _decoded(refs[0], prepared)
    with rt.threads(prepared.lanes.threads):
        said = _said(prepared, item)
        found = _listed(prepared, item, said)
        return replace(found, unlisted=_unlisted(prepared, said, found.asked))


def _unlisted(prepared: PreparedModel, said: Predictions, asked: Sequence[Askable]) -> dict[str, int]:
    every = prepared.task.askable(said, 0, max(_COUNTED, prepared.settings.target.top))
    return dict(Counter(each.kind for each in every) - Counter(each.kind for each in asked))


def targets_of(prepared: PreparedModel, item: DecodedImage) -> TargetList:
    """What can be asked of a decoded image, at most ``top`` of each kind.

    Raises:
        CnnvizError: The network's output is not finite.
    """
    return _listed(prepared, item, _said(prepared, item))


def _said(prepared: PreparedModel, item: DecodedImage) -> Predictions:
    with rt.scope():
        pixels = normalize(prepared.batch([item]), prepared.preprocess)
        said = prepared.predict(prepared.forward(prepared.session, pixels).chosen.detach())
    if not said.usable[0]:
        raise CnnvizError(
            f"{item.ref.uri}: the network's output is not finite in {prepared.runtime.precision}.",
            "Check --mean and --std.",
        )
    return said


def _listed(prepared: PreparedModel, item: DecodedImage, said: Predictions) -> TargetList:
    asked = tuple(prepared.task.askable(said, 0, prepared.settings.target.top))
    shown = prepared.task.shown(said, 0)
    listed = prepared.top_predictions(said, 0, item)
    boxes = tuple(each for each in listed if isinstance(each, DetectionScore))
    name, labels = prepared.task_spec.name, prepared.classes.labels
    return TargetList(item, name, asked, labels, shown, boxes, if_nothing=prepared.task.if_nothing())


def _decoded(ref: ImageRef, prepared: PreparedModel) -> DecodedImage:
    try:
        with open_file(ref) as stream:
            rgb = open_image(stream).decode().rgb
        return DecodedImage(ref, rgb, *prepare(rgb, prepared.preprocess))
    except ImageError as error:
        raise CnnvizError(f"{ref.uri}: {error.message}", "Give an image that can be read.") from error
