"""What reports of ``synthesize`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, Count, Files, Share
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network, Time
from cnnviz.schema.targets import Prediction, SegmentPrediction


class TermRegion(TypedDict):
    """Where a class is to be seen."""

    region: NotRequired[str]
    """Of a network with scores at positions: the part of the input over which the class's logit is averaged, as
    ``--target`` has it; not there for all of it."""


class Term(TermRegion):
    """A part of what an image is to maximise."""

    kind: Literal["class", "unit", "neuron", "layer"]
    """A class's logit, a channel's values, one position of a channel, or all squared values of a layer."""
    index: int
    """Index of the class or channel; -1 for a whole layer."""
    layer: str
    """Name of the layer; empty for a class."""
    place: list[Count] | None
    """Row and column of a neuron; null for the middle of the layer."""
    weight: float
    """Factor of the part."""
    label: str
    """The part in words."""


class SynthesizedRegion(TypedDict):
    """What the network sees where an image is to show a class."""

    label: str
    """The class, and its region."""
    class_index: Count
    """Index of the class among the network's outputs, from 0."""
    region_area: Share
    """Share of the input that the region is."""
    predicted_share: Share
    """Share of the region that the network predicts as the class in the written image."""


class SynthesizedFacts(TypedDict):
    """An image that maximises something."""

    objective: str
    """What it maximises, in words."""
    terms: list[Term]
    """The same, part by part."""
    score: float
    """The objective of the written image."""
    scores: list[float]
    """The objective of the views on the way, step by step."""
    synthesized_predictions: list[Prediction] | list[SegmentPrediction]
    """What the network says of the written image, best first; of a network with scores at positions by area."""
    files: Files
    """``image``, and ``gif`` or ``video`` of its making; of a network with scores at positions also ``prediction``."""
    regions: NotRequired[list[SynthesizedRegion]]
    """Of a network with scores at positions: the classes that the image is to show, each in its region."""


class Synthesized(SynthesizedFacts):
    """An image that was made from noise."""

    caption: str
    """What stands below it."""
    interrupted_at_step: NotRequired[Count]
    """There after Ctrl-C: how far it came."""


class SynthesizeImageFacts(SynthesizedFacts):
    """What was made of an input."""

    figures: list[Figure]
    """The pictures that its card on the page shows."""


class SynthesizeImage(Image, SynthesizeImageFacts):
    """A record of ``synthesize`` with inputs."""


class SynthesizeFigures(TypedDict, total=False):
    """How images were made."""

    steps: Count
    """Steps of each ascent."""
    param: str
    """What is optimised: ``fourier`` or ``pixel``."""
    steps_per_second: float | None
    """Steps a second; null where all images were there already."""
    objective: str
    """What the images from noise maximise, in words."""
    images: Count
    """How many images were made from noise."""
    score: list[float]
    """The objective of each."""


class SynthesizeName(TypedDict):
    """Which study it is."""

    study: Literal["synthesize"]
    """Name of the study."""


class SynthesizeSummary(SynthesizeFigures, Time, Network, SynthesizeName):
    """Of ``synthesize`` from noise."""


class SynthesizeInputsSummary(SynthesizeFigures, Counted, Network, SynthesizeName):
    """Of ``synthesize`` from inputs."""


class SynthesizeReport(StudyHeader):
    """The report of ``synthesize``."""

    summary: Annotated[SynthesizeInputsSummary | SynthesizeSummary, By(("inputs",))]
    """What the run came to; that of inputs counts them."""
    synthesized: NotRequired[list[Synthesized]]
    """The images that were made from noise, in the order in which they were asked for."""
    images: list[Annotated[SynthesizeImage | FailedImage, By(("error",))]]
    """One record for each input, in input order, with the keys of ``synthesized`` but ``caption``; empty of images from
    noise."""
