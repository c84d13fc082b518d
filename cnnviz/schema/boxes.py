"""What a report says of a detector's boxes."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from cnnviz.schema.shapes import Count, Rectangle, Share


class Boxes(TypedDict):
    """How boxes are read from a detector's output."""

    form: Literal["end-to-end", "ultralytics", "yolov5", "grid"]
    """Form of the output: [N, M, 6], [N, 4 + K, M], [N, M, 5 + K] or [N, 5 + K, h, w]."""
    numbers: str
    """What its numbers are."""
    why: str
    """How that was told."""
    score: Share
    """Least score of a box."""
    iou: Share | None
    """Of two boxes of a class that overlap by more than this, only the better one is a box; null where all are."""


class BoxPrediction(TypedDict):
    """A box that a detector finds."""

    number: Count
    """Its place by score, from 1: ``box:N`` asks for it."""
    class_index: Count
    """Index of the class among the network's classes, from 0."""
    label: str
    """Name of the class."""
    probability: float | None
    """Probability of the class, times that of an object where the network gives one."""
    logit: float | None
    """Its log-odds; of a grid the logarithm of class probability x objectness."""
    score: float | None
    """The score by which boxes are ranked."""
    box_xywh: Rectangle
    """The box as the network gives it, which may reach beyond the image, in pixels of the image."""


class FoundBox(TypedDict):
    """The target of a detector: a box, or where one of its edges lies."""

    kind: Literal["box"]
    """What kind of target it is."""
    spec: str
    """The target as it was asked for."""
    label: str
    """Name of the class; with the edge, where that is explained."""
    score: float | None
    """What is explained: of the score in the unit of ``--score`` (of a grid's logit the logarithm), of an edge as the
    network gives it; null if not finite."""
    class_index: Count
    """Index of the class among the network's classes, from 0."""
    probability: float | None
    """Probability of the class, times that of an object where the network gives one."""
    logit: float | None
    """Its log-odds; of a grid the logarithm of class probability x objectness."""
    box_xywh: Rectangle
    """The box, in pixels of the image."""
    number: Count
    """Its place by score, from 1."""
    candidate: Count
    """Its place among the candidates of the output, from 0."""
    part: Literal["score", "x0", "y0", "x1", "y1", "box"]
    """Which number of the box is explained."""
    iou: Share | None
    """IoU with the box that was asked for by its place; null where none was."""
