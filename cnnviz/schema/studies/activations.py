"""What reports of ``activations`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, Count, Files, Point, Share, Size
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network


class StrongChannel(TypedDict):
    """One of the strongest channels of an image."""

    channel: Count
    """Its number, from 0."""
    mean: float
    """Mean of its values."""
    max: float
    """Largest of its values."""
    peak: Point
    """``[x, y]`` of that value, in pixels of the image."""


class EnlargedChannel(TypedDict):
    """A channel that is drawn over the image."""

    channel: Count
    """Its number, from 0."""
    file: str
    """File relative to the run's folder."""


class LayerOfImage(TypedDict):
    """A layer over one image."""

    layer: str
    """Name of the layer."""
    channels: Count
    """How many channels it has."""
    size: Size
    """``[height, width]`` of a channel in cells."""
    sparsity: Share
    """Share of all its values that are not above zero, 0 to 1."""
    silent: Count
    """How many channels are above zero nowhere."""
    strongest: list[StrongChannel]
    """The strongest channels, strongest first."""
    enlarged: list[EnlargedChannel]
    """The channels that are drawn over the image."""


class ActivationsFacts(TypedDict):
    """What the layers say of an image."""

    layers: list[LayerOfImage]
    """The layers that were asked for."""
    files: Files
    """``channels``: the grids; ``raw``: the values."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""


class ActivationsImage(Image, ActivationsFacts):
    """A record of ``activations``."""


class ChannelFigures(TypedDict):
    """A channel over all images."""

    unit: Count
    """Its number, from 0."""
    mean: float
    """Mean of its values."""
    min: float
    """Smallest of its values."""
    max: float
    """Largest of its values."""
    fired: Share
    """Share of the images in which it is above zero somewhere, 0 to 1."""
    sparsity: Share
    """Share of its values that are not above zero, 0 to 1."""
    dead: bool | None
    """Whether it has the same value everywhere in all images; null of fewer than 20, which decide nothing."""
    strongest: str | None
    """Path of the image with its largest value."""


class LayerOfImages(TypedDict):
    """A layer over all images."""

    layer: str
    """Name of the layer."""
    channels: Count
    """How many channels it has."""
    size: Size
    """``[height, width]`` of a channel in cells, at the network's input size."""
    images: Count
    """How many images were looked at."""
    sparsity: Share | None
    """Share of all values that are not above zero, 0 to 1; null where no image could be read."""
    silent: list[Count]
    """The channels that have the same value everywhere in all images."""
    dead: list[Count] | None
    """The same, where at least 20 images did not move them; null where fewer were looked at, which decide nothing."""
    units: list[ChannelFigures]
    """Its channels; empty where no image could be read."""


class LayerFigures(TypedDict):
    """A layer in short."""

    channels: Count
    """How many channels it has."""
    silent: Count
    """How many have the same value everywhere in all images."""
    dead: Count | None
    """How many of them are dead; null where fewer than 20 images were looked at."""
    sparsity: Share | None
    """Share of all values that are not above zero, 0 to 1; null where no image could be read."""


class ActivationsSummary(Counted, Network):
    """Of ``activations``."""

    study: Literal["activations"]
    """Name of the study."""
    activations: NotRequired[dict[str, LayerFigures]]
    """The layers in short, by name; not there after Ctrl-C."""


class ActivationsReport(StudyHeader):
    """The report of ``activations``."""

    summary: ActivationsSummary
    """What the run came to."""
    layers: NotRequired[list[LayerOfImages]]
    """The layers over all images; not there after Ctrl-C."""
    images: list[Annotated[ActivationsImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
