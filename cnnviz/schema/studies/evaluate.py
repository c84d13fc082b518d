"""What reports of ``evaluate`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.mosaics import WithMosaics
from cnnviz.schema.shapes import By, Count
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import BesideBaselines, Counted, Fit, LeftOut, Network, Ranked, Repeatability


class Summed(Ranked):
    """A figure of a metric over all maps."""

    classes: NotRequired[Count]
    """Of a mean over classes: how many."""
    threshold: NotRequired[float | None]
    """Of a figure at a threshold: the share of the maximum above which regions are taken; null without maps."""
    oracle: NotRequired[bool]
    """Of such a figure: whether the threshold was chosen on these very images."""


class Evaluated(Summed):
    """What a metric says of a method."""

    better: Literal["higher", "lower", "neither"]
    """Which values are better."""
    figure: str
    """Name of the metric's figure that this is."""
    unit: NotRequired[str]
    """Its unit: ``%``, or ``share`` of a rate, which is 0 to 1. Not there of a plain number."""
    others: NotRequired[dict[str, Summed]]
    """The metric's other figures."""


class WorstMap(TypedDict):
    """A map of which a metric says the worst."""

    path: str
    """The image."""
    method: str
    """Name of the method."""
    label: str | None
    """What the map explains."""
    value: float
    """What the metric says of it."""


class EvaluateSummary(Counted, Network):
    """Of ``evaluate``."""

    study: Literal["evaluate"]
    """Name of the command."""
    methods: list[str]
    """Names of the methods."""
    class_guesses: NotRequired[list[str]]
    """Class names that were matched by something other than the whole label."""
    metrics: dict[str, dict[str, Evaluated]]
    """By method, or baseline, then by metric. ``METHOD:blurred`` is a blurred copy of the method's maps."""
    beside_baselines: BesideBaselines
    """Where methods are no better than maps that know nothing of the network."""
    worst: dict[str, list[WorstMap]]
    """By metric the five maps of methods of which it says the worst, the worst first."""
    left_out: NotRequired[dict[str, LeftOut]]
    """By method whose values should add up to the score, how much of it they leave out."""
    repeatability: NotRequired[dict[str, Repeatability]]
    """By method that draws by chance, how alike the maps of another seed would be."""
    fit: NotRequired[dict[str, Fit]]
    """By method whose values are coefficients of a linear model of the score, how well that fits."""
    seconds_per_map: dict[str, float]
    """By method how long a map takes beside the forward passes that methods share, in seconds of the clock."""


class EvaluateReport(StudyHeader, WithConfusion, WithMosaics):
    """The report of ``evaluate``."""

    summary: EvaluateSummary
    """What the run came to."""
    images: list[Annotated[Image | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
