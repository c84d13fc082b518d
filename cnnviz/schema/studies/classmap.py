"""What reports of ``classmap`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.images import FailedImage, Figure
from cnnviz.schema.maps import Explanation
from cnnviz.schema.shapes import Box, By, Count, Size
from cnnviz.schema.studies.base import PlainImage, StudyHeader
from cnnviz.schema.summary import Counted, Network


class ClassMapField(TypedDict):
    """The receptive field of a cell."""

    size: Size
    """``[height, width]`` in pixels of the network's input."""
    offset: list[float]
    """``[y, x]`` of the field of the first cell, in pixels of the network's input."""


class ClassMapFigures(TypedDict):
    """``summary.classmap``: the cells of the class maps."""

    window: Size
    """``[height, width]`` of what a cell averages over, in pixels of the network's input; it sees beyond."""
    stride: Size
    """``[rows, columns]`` from one cell to the next, in pixels of the network's input."""
    receptive_field: ClassMapField
    """What a cell can see."""
    size: Count
    """Shorter side of the network's input in pixels, at scale 1."""
    scales: list[float]
    """Factors of this size at which the network was run."""
    merge: str
    """How the scales are joined: ``mean`` or ``max``."""
    global_context: bool
    """Whether statistics of the whole picture enter every cell."""


class ClassMapFacts(TypedDict):
    """What a class map says of an image, in the place of the usual keys."""

    explanations: list[Explanation]
    """One for each class that is explained."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""
    seen_xywh: Box
    """The part of the image that the network was shown at ``--size``."""


class ClassMapSummary(Counted, Network):
    """Of ``classmap``."""

    study: Literal["classmap"]
    """Name of the study."""
    classmap: NotRequired[ClassMapFigures]
    """The cells of the class maps; not there after Ctrl-C."""


class ClassMapReport(StudyHeader, WithConfusion):
    """The report of ``classmap``; its images have ``explanations``."""

    summary: ClassMapSummary
    """What the run came to."""
    images: list[Annotated[PlainImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
