"""What reports of ``concepts`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage
from cnnviz.schema.shapes import By, Count, Rectangle
from cnnviz.schema.studies.base import PlainImage, StudyHeader
from cnnviz.schema.summary import Counted, Network


class ConceptCrop(TypedDict):
    """A crop in which a concept is strong."""

    path: str
    """The image."""
    weight: float
    """The concept's weight in it, in units of the activations."""
    crop_xywh: Rectangle
    """Where it lies."""


class ImportantConcept(TypedDict):
    """A concept of the class."""

    concept: Count
    """Its number, from 1."""
    importance: float
    """Mean over the images of its total Sobol index of the class's logit; but for the error of the estimate, those of
    all concepts sum to 1 or more."""
    crops: list[ConceptCrop]
    """The crops in which it is strongest, at most one per image, strongest first."""


class ConceptMap(TypedDict):
    """The concepts in one image."""

    path: str
    """The image."""
    file: str
    """Its picture, relative to the run's folder."""
    raw: str
    """Its weights ``weights`` [K, h, w], in units of the activations, relative to the run's folder."""
    indices: list[float]
    """For each concept its total Sobol index in this image; zeros where the logit does not vary."""
    variance: float
    """Variance of the logit under the masks."""


class ConceptsFigures(TypedDict):
    """``summary.concepts``: what was looked at."""

    layer: str
    """Name of the layer."""
    class_index: Count
    """Index of the class."""
    label: str
    """Name of the class."""
    images: Count
    """How many images were mapped."""
    crops: Count
    """How many crops the concepts are made of."""
    components: Count
    """How many concepts there are."""
    error: float
    """What the concepts leave of the crops' activations: ||A - W H|| / ||A||, Frobenius norms."""


class ConceptsSummary(Counted, Network):
    """Of ``concepts``."""

    study: Literal["concepts"]
    """Name of the study."""
    concepts: NotRequired[ConceptsFigures | None]
    """What was looked at; null where there was nothing, not there after Ctrl-C."""


class ConceptsReport(StudyHeader):
    """The report of ``concepts``."""

    summary: ConceptsSummary
    """What the run came to."""
    concepts: NotRequired[list[ImportantConcept]]
    """The concepts; not there after Ctrl-C, or where no image is of the class."""
    maps: NotRequired[list[ConceptMap]]
    """The concepts in each image of the class, in input order; likewise."""
    images: list[Annotated[PlainImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
