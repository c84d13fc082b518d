"""What reports of ``invert`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, Count, Files
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network
from cnnviz.schema.targets import Prediction


class Inversion(TypedDict):
    """An image that was made from the values of a layer."""

    layer: str
    """Name of the layer."""
    start: Count
    """Number of the noise that it began with, from 0."""
    error: float
    """What the layer misses of the image in the written picture: ||F(x) - F(x0)||^2 / ||F(x0)||^2."""
    errors: list[float]
    """The same of the image in the making, step by step."""
    inverted_predictions: list[Prediction]
    """What the network says of the written picture, best first."""
    file: str
    """The picture, relative to the run's folder."""


class InvertFacts(TypedDict):
    """What was made of an image."""

    inversions: list[Inversion]
    """The inversions: layer by layer for each start."""
    files: Files
    """``inverted``: the picture of all of them."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""


class InvertImage(Image, InvertFacts):
    """A record of ``invert``."""


class InvertSummary(Counted, Network):
    """Of ``invert``."""

    study: Literal["invert"]
    """Name of the study."""


class InvertReport(StudyHeader):
    """The report of ``invert``."""

    summary: InvertSummary
    """What the run came to."""
    images: list[Annotated[InvertImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
