"""What reports of ``dream`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, Files, Size
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network
from cnnviz.schema.targets import Prediction


class Octave(TypedDict):
    """One size at which a dream was dreamed."""

    size: Size
    """``[width, height]`` in pixels."""
    scores: list[float]
    """The objective, step by step."""


class DreamFacts(TypedDict):
    """What a dream made of an image."""

    layer: str
    """The layer that was dreamed of."""
    octaves: list[Octave]
    """The sizes, smallest first."""
    dream_predictions: list[Prediction]
    """What the network says of the dream, best first."""
    files: Files
    """``dream``: the picture."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""


class DreamImage(Image, DreamFacts):
    """A record of ``dream``."""


class DreamSummary(Counted, Network):
    """Of ``dream``."""

    study: Literal["dream"]
    """Name of the study."""


class DreamReport(StudyHeader):
    """The report of ``dream``."""

    summary: DreamSummary
    """What the run came to."""
    images: list[Annotated[DreamImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
