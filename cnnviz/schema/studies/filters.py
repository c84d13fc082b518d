"""What reports of ``filters`` have."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.shapes import Count
from cnnviz.schema.studies.base import PlainImage, StudyHeader
from cnnviz.schema.summary import Network, Time


class Filter(TypedDict):
    """The weights of one filter."""

    filter: Count
    """Its number, from 0."""
    l1: float
    """Sum of the magnitudes."""
    l2: float
    """Square root of the sum of squares."""
    mean: float
    """Mean weight."""
    max_abs: float
    """Largest magnitude."""
    gain: float | None
    """Factor of the batch normalisation right behind it; null where there is none."""
    dead: bool
    """Whether its L2 norm, with the gain, is next to nothing beside the others'."""


class ShownFilters(TypedDict):
    """What is drawn of a convolution."""

    filters: list[Count]
    """Numbers of the filters."""
    channels: list[Count]
    """Numbers of the input channels."""


class Convolution(TypedDict):
    """A convolution and its filters."""

    layer: str
    """Name of the convolution."""
    shape: list[Count]
    """Shape of its weights: filters, channels, height, width."""
    file: str
    """The picture, relative to the run's folder."""
    shown: ShownFilters
    """What is drawn of it."""
    dead: list[Count]
    """Numbers of the filters whose norm is next to nothing beside the others'."""
    filters: list[Filter]
    """All its filters."""


class ConvolutionFigures(TypedDict):
    """A convolution in short."""

    filters: Count
    """How many filters it has."""
    dead: Count
    """How many of them are dead."""


class FiltersSummary(Time, Network):
    """Of ``filters``."""

    study: Literal["filters"]
    """Name of the study."""
    filters: NotRequired[dict[str, ConvolutionFigures]]
    """The convolutions in short, by name; not there after Ctrl-C."""


class FiltersReport(StudyHeader):
    """The report of ``filters``, which takes no images."""

    summary: FiltersSummary
    """What the run came to."""
    layers: NotRequired[list[Convolution]]
    """The convolutions; not there after Ctrl-C."""
    images: list[PlainImage]
    """Empty."""
