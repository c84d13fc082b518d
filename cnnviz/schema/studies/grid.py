"""What reports of ``grid`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.shapes import By
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Fit, LeftOut, Network, Repeatability


class GridSummary(Counted, Network):
    """Of ``grid``."""

    study: Literal["grid"]
    """Name of the command."""
    methods: list[str]
    """Names of the methods that made maps."""
    refused: dict[str, str]
    """Methods that cannot explain this network, or what was asked of it, by name; and why."""
    class_guesses: NotRequired[list[str]]
    """Class names that were matched by something other than the whole label."""
    left_out: NotRequired[dict[str, LeftOut]]
    """By method whose values should add up to the score, how much of it they leave out."""
    repeatability: NotRequired[dict[str, Repeatability]]
    """By method that draws by chance, how alike the maps of another seed would be."""
    fit: NotRequired[dict[str, Fit]]
    """By method whose values are coefficients of a linear model of the score, how well that fits."""
    seconds_per_map: dict[str, float]
    """By method how long a map takes beside the forward passes that methods share, in seconds of the clock."""


class GridReport(StudyHeader, WithConfusion):
    """The report of ``grid``."""

    summary: GridSummary
    """What the run came to."""
    images: list[Annotated[Image | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
