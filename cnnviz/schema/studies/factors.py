"""What reports of ``factors`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage
from cnnviz.schema.shapes import By, Count, Point, Share
from cnnviz.schema.studies.base import PlainImage, StudyHeader
from cnnviz.schema.summary import Counted, Network


class FactorClass(TypedDict):
    """A class that a factor speaks for."""

    class_index: Count
    """Index of the class."""
    label: str
    """Name of the class."""
    drop: float
    """Mean over the images of what the class's logit loses when the factor is taken out of the activations."""


class FactorPatch(TypedDict):
    """Where a factor is strongest in an image."""

    path: str
    """The image."""
    weight: float
    """The factor's weight there, in units of the activations."""
    position: Point
    """``[x, y]`` of the middle of the cell, in pixels of the image."""


class Factor(TypedDict):
    """A factor over all images."""

    factor: Count
    """Its number, from 1."""
    energy: Share
    """Its share of the squared weights of all factors, 0 to 1; the factor with most stands first."""
    area: Share
    """Mean over the images of the share of the cells in which it is the strongest, 0 to 1."""
    classes: list[FactorClass]
    """Up to three classes that it speaks for, strongest first; empty of networks without classes."""
    patches: list[FactorPatch]
    """The images in which it is strongest, strongest first."""


class FactorMap(TypedDict):
    """The factors of one image."""

    path: str
    """The image."""
    file: str
    """Its picture, relative to the run's folder."""
    raw: str
    """Its weights ``weights`` [K, h, w], in units of the activations, relative to the run's folder."""
    error: float
    """What the factors leave of its activations: ||A - W H|| / ||A||."""
    areas: list[Share]
    """For each factor the share of the cells in which it is the strongest, 0 to 1."""
    mean_weights: list[float]
    """For each factor the mean of its weights."""


class FactorsFigures(TypedDict):
    """``summary.factors``: the factorisation."""

    layer: str
    """Name of the layer."""
    components: Count
    """How many factors there are."""
    positions: Count
    """How many positions of the layer were factorised."""
    positions_seen: Count
    """How many there are in all images; where it is more, those factorised were drawn by the seed."""
    error: float
    """What the factors leave of these activations: ||A - W H|| / ||A||, Frobenius norms."""
    iterations: Count
    """Iterations of the solver."""
    converged: bool
    """Whether the solver stopped before ``--iterations`` ended it."""


class FactorsSummary(Counted, Network):
    """Of ``factors``."""

    study: Literal["factors"]
    """Name of the study."""
    factors: NotRequired[FactorsFigures | None]
    """The factorisation; null where nothing is above zero, not there after Ctrl-C."""


class FactorsReport(StudyHeader):
    """The report of ``factors``."""

    summary: FactorsSummary
    """What the run came to."""
    factors: NotRequired[list[Factor]]
    """The factors; not there after Ctrl-C, or where nothing is above zero."""
    maps: NotRequired[list[FactorMap]]
    """The factors of each image, in input order; likewise."""
    images: list[Annotated[PlainImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
