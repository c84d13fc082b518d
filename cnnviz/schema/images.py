"""What a report says of one input: a line of ``records.jsonl``."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.boxes import BoxPrediction
from cnnviz.schema.confusion import Judged
from cnnviz.schema.maps import Explanation, Merged, Unmatched
from cnnviz.schema.shapes import Box, Count, OneOf, Rectangle, Sha256, Shape
from cnnviz.schema.targets import Prediction, SegmentPrediction, WrittenWord

View = Annotated[str, OneOf(("crop", "tiles", "whole", "squash"))]
"""What of an image the network is shown."""


class Failure(TypedDict):
    """Why an input could not be explained."""

    type: str
    """A short stable word."""
    message: str
    """The reason, for people."""


class InputFile(TypedDict):
    """The file as it was read, by which ``--resume`` notices a changed one."""

    bytes: Count
    """Size of the file in bytes."""
    mtime_ns: int | None
    """Time of its last change in nanoseconds since 1970; null behind URLs."""
    sha256: Sha256
    """Digest of its content."""


class Figure(TypedDict):
    """A picture that the page shows."""

    file: str
    """File relative to the run's folder."""
    caption: str
    """What stands below it."""


class Tile(TypedDict):
    """One tile of ``--view tiles``."""

    xywh: Rectangle
    """Where it lies, in pixels of the image."""
    predictions: list[Prediction]
    """What the network says of it, best first."""
    decides: bool
    """Whether the record's own predictions are those of this tile."""


class Result(TypedDict):
    """What every record has, beside the file."""

    path: str
    """The input as it was found: a path or a URL."""
    name: str
    """The stem of the names of its files, unique in the run."""
    width: int | None
    """Width of the upright image in pixels; null where it could not be read."""
    height: int | None
    """Height of the upright image in pixels; null where it could not be read."""
    label: str | None
    """Its known class (``--class folder``, or a table); null where none is known."""
    predictions: list[Prediction] | list[SegmentPrediction] | list[BoxPrediction] | list[WrittenWord]
    """The ``--top`` best classes, best first (of a network with scores at positions those that it finds, by area; of
    a detector all its boxes, of a captioning network its words in their order);
    empty where there is an ``error``."""
    explanations: list[Explanation]
    """One for each class, or difference of classes, that is explained; empty of studies, but for classmap."""


class Input(Result):
    """What every record has."""

    input: InputFile | None
    """The file as it was read; null where it could not be."""


class FailedImage(Input):
    """An input that could not be read or explained."""

    error: Failure
    """What went wrong."""


class TrueObject(TypedDict):
    """An object that the annotations of ``--truth`` mark."""

    label: str
    """Its class, as the annotations name it."""
    box_xywh: Rectangle
    """Where it is, in pixels of the image."""
    difficult: NotRequired[Literal[True]]
    """There where the annotations call it hard to recognise."""
    ignore: NotRequired[Literal[True]]
    """There where the box is no object to find but a region that counts neither way, such as a crowd."""


class Truth(TypedDict):
    """What the annotations of ``--truth`` say of an image."""

    labels: list[str]
    """Its classes, as the annotations name them."""
    objects: list[TrueObject]
    """The objects that are marked by boxes."""
    masks: list[str]
    """The classes that have a mask."""


class Shown(TypedDict):
    """What of an image the network was shown."""

    view: View
    """What of the image the network was shown: its centre (``crop``), all of it in overlapping crops (``tiles``), in
    one piece (``whole``) or pressed into the input size (``squash``)."""
    seen_xywh: Box
    """The part of the image that the network was shown."""
    figures_on: NotRequired[Literal["cells"]]
    """There where the statistics of its maps are those of their cells, not of the photograph's pixels."""
    input_size: NotRequired[Shape]
    """Of ``--view whole``: ``[channels, height, width]`` at which the image was shown."""
    tiles: NotRequired[list[Tile]]
    """Of ``--view tiles``: the tiles, row by row."""
    text: NotRequired[str]
    """Of a captioning network: what it wrote under the image."""
    unmatched: NotRequired[list[Unmatched]]
    """Targets that match nothing in this image, where there are any."""
    merged: NotRequired[list[Merged]]
    """Targets that are the same thing in this image as another, and share its map."""
    truth: NotRequired[Truth | None]
    """Of ``--truth``: what the annotations say of the image; null where they do not have it."""


class Image(Input, Shown, Judged):
    """An input that was explained, or looked at by a study, or left out by ``--only``."""

    error: None
    """Null: nothing went wrong."""


AnyImage = Image | FailedImage
"""A record of an input, whatever the command."""
