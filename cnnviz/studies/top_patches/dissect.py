"""The second pass of ``cnnviz top-patches`` with ``--boxes`` or ``--masks``: what units overlap with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.truth import Truth
from cnnviz.io.annotation_formats import find_masks, read_coco
from cnnviz.io.annotations import Annotations
from cnnviz.models.preprocess import Geometry, normalize
from cnnviz.records import Record
from cnnviz.run.images import DecodedImage
from cnnviz.run.loop import Fold, Loop
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.studies import top_patches as schema
from cnnviz.studies.top_patches.dissection import DETECTS, SHARE, Overlaps, covered

_LISTED = 5


def asked(boxes: str | None, masks: str | None, inputs: Sequence[str]) -> Annotations | None:
    """The concepts of ``--boxes`` or ``--masks``; None without them.

    Raises:
        CnnvizError: Both are given, they cannot be read, or the images can be read only once.
    """
    if boxes is not None and masks is not None:
        raise CnnvizError("--boxes and --masks exclude each other.", "Give one of the two.")
    if "-" in inputs and not (boxes is None and masks is None):
        raise CnnvizError("--boxes and --masks go through the images twice: not from standard input.", "Name a list.")
    if boxes is not None:
        return read_coco(boxes, "--boxes")
    return None if masks is None else find_masks(masks, "--masks")


@dataclass(frozen=True, eq=False)
class _Observation:
    """Areas in one image; None for one that no concept was looked for in."""

    areas: tuple[NDArray[np.int64], dict[int, NDArray[np.int64]], dict[int, int]] | None


class Dissection:
    """Goes through the images again and adds up what the thresholded units share with the concepts.

    Args:
        prepared: The network, with the session of the first pass.
        concepts: Where they are.
        units: Channels to look at.
        thresholds: One a unit.
    """

    def __init__(
        self, prepared: PreparedModel, concepts: Annotations, units: Sequence[int], thresholds: NDArray[np.float32]
    ) -> None:
        self.prepared, self.concepts, self.units = prepared, concepts, list(units)
        self.thresholds = torch.from_numpy(thresholds)
        self.sums = Overlaps(len(self.units), len(concepts.names))
        # The maps are compared at half the input's size, as in the paper: 112 x 112 of 224 x 224.
        self.size = tuple(max(1, side // 2) for side in prepared.preprocess.input_size[1:])

    def run(self) -> NDArray[np.float64]:
        """IoU [U, C]."""
        nothing = Record("", None, None, None)
        loop = Loop(self.prepared, self._explain, lambda done: nothing, gathering=Fold(self._fold))
        if loop.run(None, None):
            raise KeyboardInterrupt
        return self.sums.iou()

    def _explain(self, items: Sequence[DecodedImage]) -> list[_Observation | Record]:
        return self.prepared.guarded(items, self._areas)

    def _areas(self, items: Sequence[DecodedImage]) -> list[_Observation | Record]:
        found = [self._regions(item) for item in items]
        if all(regions is None for regions in found):
            return [_Observation(None) for _ in items]
        with rt.scope(), torch.no_grad():
            pixels = normalize(self.prepared.batch(items), self.prepared.preprocess)
            layers = self.prepared.session.forward(pixels).activations[0].detach()[:, self.units]
            height, width = self.size
            return [
                _Observation(None if regions is None else covered(layer, self.thresholds, regions, (height, width)))
                for layer, regions in zip(layers, found, strict=True)
            ]

    def _regions(self, item: DecodedImage) -> dict[int, torch.Tensor] | None:
        try:
            truth = self.concepts.truth(item.ref, item.geometry.image_size)
        except ImageError as error:
            raise CnnvizError(
                f"{item.ref.uri}: {error.message}.", "Annotations are of the size of their image."
            ) from error
        if truth is None:
            return None
        height, width = self.size
        return {
            self.concepts.names.index(label): on_map(region, item.geometry, (height, width))
            for label, region in _painted(truth).items()
        }

    def _fold(self, done: _Observation) -> None:
        if done.areas is not None:
            self.sums.fold(*done.areas)


def _painted(truth: Truth) -> dict[str, NDArray[np.bool_]]:
    """bool [H, W] of each concept: its mask, or the pixels of all its boxes, crowds among them."""
    found = dict(truth.masks)
    for each in truth.objects:
        page = found.setdefault(each.label, np.zeros((truth.size[1], truth.size[0]), dtype=np.bool_))
        page[each.box.pixels(truth.size)] = True
    return found


def on_map(region: NDArray[np.bool_], geometry: Geometry, size: tuple[int, int]) -> torch.Tensor:
    """A region [H, W] of the image in the part that the network sees, bool of ``size``: cells covered by half."""
    x0, y0, x1, y1 = geometry.rect
    left, top = max(0, int(np.ceil(-x0))), max(0, int(np.ceil(-y0)))
    right = max(0, int(np.ceil(x1)) - region.shape[1])
    bottom = max(0, int(np.ceil(y1)) - region.shape[0])
    wide = np.pad(region, ((top, bottom), (left, right))).astype(np.uint8) * 255
    box = (x0 + left, y0 + top, x1 + left, y1 + top)
    shares = Image.fromarray(wide).resize((size[1], size[0]), Image.Resampling.BOX, box)
    return torch.from_numpy(np.array(shares) >= 128)


def listed(iou: NDArray[np.float64], names: Sequence[str]) -> list[schema.Concept]:
    """The concepts of one unit, best first."""
    order = np.argsort(-iou, kind="stable")[:_LISTED].tolist()
    return [{"concept": names[place], "iou": float(iou[place])} for place in order if iou[place] > 0]


def summed_up(iou: NDArray[np.float64], names: Sequence[str], images: int) -> schema.Dissection:
    """Of all units: how many detect a concept, and how many concepts are detected."""
    best = iou.argmax(axis=1)
    detect = iou.max(axis=1) > DETECTS
    return {
        "concepts": len(names),
        "images": images,
        "share_above_threshold": SHARE,
        "detectors": int(detect.sum()),
        "unique_detectors": len(set(best[detect].tolist())),
        "detects_from_iou": DETECTS,
    }
