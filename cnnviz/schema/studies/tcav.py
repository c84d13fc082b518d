"""What reports of ``tcav`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, Count, Share
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network


class Derivative(TypedDict):
    """How the logit of an image changes towards a concept."""

    concept: str
    """Name of the concept."""
    mean: float
    """Derivative of the class's logit along the unit vector, mean over the concept's vectors."""
    positive: Share
    """Share of the vectors along which it is positive, 0 to 1."""


class TcavImage(Image):
    """A record of ``tcav``."""

    derivatives: list[Derivative]
    """Of each concept, in the order in which they were named."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""


class CavScores(TypedDict):
    """Scores of the vectors of all partitions."""

    score: Share
    """Mean of the scores."""
    interval: list[Share]
    """``[low, high]``: 95 % interval of the mean."""
    scores: list[Share]
    """Of each partition the share of the images whose derivative is positive."""
    accuracy: Share
    """Mean of the accuracies."""
    accuracies: list[Share]
    """Of each partition the classifier's accuracy on the pictures that were held out."""


class TestedConcept(CavScores):
    """A concept, and whether it says more than chance."""

    concept: str
    """Its name."""
    folder: str
    """Where its pictures are."""
    pictures: Count
    """How many they are."""
    side: Count
    """Pictures on each side of a classifier, with those that were held out."""
    random: CavScores
    """The same of vectors between random pictures and others."""
    p: Share
    """Two-sided p value of Student's t test of both sets of scores."""
    p_adjusted: Share
    """The same times the number of concepts, at most 1 (Bonferroni)."""
    significant: bool
    """Whether that is below the level."""


class TcavFigures(TypedDict):
    """``summary.tcav``: what was looked at."""

    layer: str
    """Name of the layer."""
    class_index: Count
    """Index of the class."""
    label: str
    """Name of the class."""
    images: Count
    """How many images the scores are shares of."""
    of_class: Count
    """How many of them the network predicts as the class, or their label says are of it."""
    features: Count
    """Length of a vector."""
    random_pictures: Count
    """How many random pictures there are."""
    level: Share
    """Level of the test."""


class TcavSummary(Counted, Network):
    """Of ``tcav``."""

    study: Literal["tcav"]
    """Name of the study."""
    tcav: NotRequired[TcavFigures | None]
    """What was looked at; null where no image could be used, not there after Ctrl-C."""


class TcavReport(StudyHeader):
    """The report of ``tcav``."""

    summary: TcavSummary
    """What the run came to."""
    concepts: NotRequired[list[TestedConcept]]
    """The concepts, in the order in which they were named; not there after Ctrl-C, or where no image could be used."""
    images: list[Annotated[TcavImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
