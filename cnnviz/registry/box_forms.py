"""What detectors return: the forms of their candidates for boxes, told by the shape of the output."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cnnviz.registry.params import Options, option

FormName = Literal["end-to-end", "ultralytics", "yolov5", "grid"]
FORMS: tuple[FormName, ...] = get_args(FormName)
_WORDS: dict[FormName, str] = {
    "end-to-end": "rows of x0, y0, x1, y1, score, class",
    "ultralytics": "columns of a box (centre, size) and class probabilities",
    "yolov5": "rows of a box (centre, size), objectness and class probabilities",
    "grid": "cells of objectness, a box and class probabilities",
}
# How many numbers stand before the probabilities of the classes.
_BEFORE: dict[FormName, int] = {"end-to-end": 6, "ultralytics": 4, "yolov5": 5, "grid": 5}
_CLASS_AXIS: dict[FormName, int] = {"end-to-end": 2, "ultralytics": 1, "yolov5": 2, "grid": 1}
# Of the data sets that detectors are mostly trained on: COCO, Pascal VOC.
_USUAL_COUNTS = {80: "COCO", 20: "Pascal VOC"}
_GRID_SCORE, _USUAL_SCORE, _USUAL_IOU = 0.4, 0.25, 0.45


class DetectOptions(Options):
    """Options of the task ``detect``."""

    form: Literal["auto", "end-to-end", "ultralytics", "yolov5", "grid"] = option(
        "auto", "What the output's numbers are; auto tells it by the shape and the number of classes."
    )
    score: float | None = option(
        None, "Least score of a box. [default: 0.4 of a grid, otherwise 0.25]", minimum=0, maximum=1
    )
    iou: float | None = option(
        None,
        "Of two boxes of a class that overlap by more than this IoU the better stays. [default: 0.45; of an end-to-end "
        "output all stay]",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True)
class BoxForm:
    """How the candidates stand in an output.

    Attributes:
        name: ``end-to-end``: [N, M, 6], x0, y0, x1, y1, score, class. ``ultralytics``: [N, 4 + K, M], centre and size,
            class probabilities. ``yolov5``: [N, M, 5 + K], the same with an objectness before the probabilities.
            ``grid``: [N, 5 + K, h, w], objectness, four numbers, class probabilities of each cell (FastestDet).
        classes: K; None where the output does not say it.
        why: How it was told.
    """

    name: FormName
    classes: int | None
    why: str

    @property
    def in_pixels(self) -> bool:
        """Whether boxes are in pixels of the network's input, not in shares of it."""
        return self.name != "grid"

    @property
    def words(self) -> str:
        """What the numbers are, for people."""
        return _WORDS[self.name]

    def least_score(self, options: DetectOptions) -> float:
        """Below this score a candidate is no box."""
        usual = _GRID_SCORE if self.name == "grid" else _USUAL_SCORE
        return usual if options.score is None else options.score

    def most_overlap(self, options: DetectOptions) -> float | None:
        """Above this IoU the worse of two boxes of a class goes; None where all stay."""
        if options.iou is not None:
            return options.iou
        return None if self.name == "end-to-end" else _USUAL_IOU


def form_of(shape: Sequence[int], counts: Collection[int], asked: str | None = None) -> BoxForm | None:
    """The form of an output of this shape for one image; None where it is no detector's.

    Three axes are a detector's. Four are those of a grid of boxes or of a segmentation network: a grid where there are
    five fewer classes than channels.

    Args:
        shape: Of the explained output.
        counts: Numbers of classes that are known of: by labels, or because somebody said so.
        asked: A form, or ``auto`` where somebody says that it is a detector; None where nobody does.
    """
    able = [name for name in FORMS if _fits(name, shape)]
    if asked not in (None, "auto"):
        return next((_made(name, shape, "it was asked for") for name in able if name == asked), None)
    for name in able:
        if name != "end-to-end" and _made(name, shape, "").classes in counts and len(shape) != 4:
            return _made(name, shape, "it has as many probabilities as there are classes")
    if len(shape) == 4 and able:
        if shape[1] - 5 in counts:
            return _made("grid", shape, "there are five fewer classes than channels")
        return None if asked is None else _made("grid", shape, "--task detect, and it has four axes")
    if not able:
        return None
    if "end-to-end" in able:
        return _made("end-to-end", shape, "each row has six numbers")
    wide = shape[1] < shape[2]
    name = next((name for name in able if (name == "ultralytics") == wide), able[0])
    return _made(name, shape, "candidates are many, numbers of each few")


def like_grid(shape: Sequence[int]) -> str | None:
    """Why a network of this output for one image, whose classes nobody has named, may be a detector; None if not.

    The shape alone is also that of a segmentation network, so this is for saying, not for choosing.
    """
    if not _fits("grid", shape) or (classes := shape[1] - _BEFORE["grid"]) not in _USUAL_COUNTS:
        return None
    return f"{shape[1]} channels may also be 5 + {classes}, a detector's boxes of {_USUAL_COUNTS[classes]}'s classes"


def _fits(name: FormName, shape: Sequence[int]) -> bool:
    if len(shape) != (4 if name == "grid" else 3):
        return False
    size = shape[_CLASS_AXIS[name]]
    return size == 6 if name == "end-to-end" else size > _BEFORE[name]


def _made(name: FormName, shape: Sequence[int], why: str) -> BoxForm:
    classes = None if name == "end-to-end" else shape[_CLASS_AXIS[name]] - _BEFORE[name]
    return BoxForm(name, classes, why)
