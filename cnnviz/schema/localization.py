"""What metrics of localization say of one map; ``cnnviz metrics`` explains them."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.shapes import Count, Length, Pixel, Rectangle, Share

Span = Annotated[list[int], Length(2)]
"""[first, last]."""


class BoxFigures(TypedDict):
    """Whether the box around a map fits."""

    box_xywh: Rectangle | None
    """The box, in pixels of the image; null where the map has no positive values."""
    flat: bool
    """Whether the map is the same everywhere: it has no box, and found nothing."""
    iou: Share | None
    """The largest intersection over union with a true box of the class, 0 where the image has none; null where the
    truth does not know such a class."""
    rank: int | None
    """Place of the class among the first ones (five, or as many as ``--top`` lists), from 1; null where it is not among
    them."""
    guesses: Count
    """How many first classes of the network count as guesses: 5, or all that it has; 0 where it has none for the whole
    image."""
    counted: bool
    """Whether it counts for GT-known: of several classes that mean one label the likeliest does."""
    true_class: bool | None
    """Whether the class is in the image; null where the truth does not know such a class."""
    true_labels: list[str]
    """The labels of the image's truth that mean the class."""
    truth_classes: Count | None
    """How many labels of true boxes mean a class of the network; of 0 it cannot be right, and the image counts in no
    figure. Null where the image has no boxes."""
    boxes_xywh: NotRequired[list[Rectangle]]
    """Of ``per_component``: boxes around the regions, the largest first, at most 100."""
    objects: NotRequired[int | None]
    """Of ``per_component``: how many objects of the class the image has; null for none."""
    objects_found: NotRequired[int | None]
    """Of ``per_component``: how many of them have a box of their own with an IoU of 0.5."""
    size: Literal["small", "medium", "large"] | None
    """COCO's size of the true box that fits best; null where there is none."""


class BoxLocalization(BoxFigures):
    """Of ``--metric box_localization``."""

    baselines: dict[str, BoxFigures]
    """The same of maps that know nothing of the network."""


class ThresholdFigures(TypedDict):
    """At which thresholds the box around a map fits."""

    hits: list[Span] | None
    """First and last levels of the threshold, from 0, at which the box fits; null where the class is not in the
    image."""
    true_labels: list[str]
    """The labels of the image's truth that mean the class."""


class Thresholds(ThresholdFigures):
    """Of ``--metric max_box_acc``."""

    baselines: dict[str, ThresholdFigures]
    """The same of maps that know nothing of the network."""


class ThresholdsV2Figures(TypedDict):
    """At which thresholds a box around a region of a map fits."""

    hits_30: list[Span] | None
    """First and last levels of the threshold at which a box fits by IoU 0.3; null where the class is not in the
    image."""
    hits_50: list[Span] | None
    """The same by IoU 0.5."""
    hits_70: list[Span] | None
    """The same by IoU 0.7."""
    true_labels: list[str]
    """The labels of the image's truth that mean the class."""


class ThresholdsV2(ThresholdsV2Figures):
    """Of ``--metric max_box_acc_v2``."""

    baselines: dict[str, ThresholdsV2Figures]
    """The same of maps that know nothing of the network."""


class PixelFigures(TypedDict):
    """The pixels of a map by their levels."""

    levels: Annotated[list[list[int]], Length(3)] | None
    """``[[level, ...], [pixels of the class, ...], [other pixels, ...]]`` at the levels that the map has; null where
    the class has no mask."""


class Pixels(PixelFigures):
    """Of ``--metric pxap``."""

    baselines: dict[str, PixelFigures]
    """The same of maps that know nothing of the network."""


class PointFigures(TypedDict):
    """Whether a map points at the class."""

    point: Pixel | None
    """The first pixel where the map is largest; null where it is the same everywhere, or nowhere above zero."""
    hit: bool | None
    """Whether that is in a box of the class, or close to one; null where nothing can be said."""
    difficult: bool | None
    """Whether the class covers less than a quarter of the image and others are in it; null where it is not in it."""
    true_labels: list[str]
    """The labels of the image's truth that mean the class."""


class Point(PointFigures):
    """Of ``--metric pointing_game``."""

    baselines: dict[str, PointFigures]
    """The same of maps that know nothing of the network."""


class EnergyFigures(TypedDict):
    """How much of a map lies in the boxes of the class."""

    energy: Share | None
    """Share of the positive values that lies in the boxes; null where nothing can be said."""
    size: Literal["small", "medium", "large"] | None
    """COCO's size of the largest box of the class; null where there is none."""
    true_labels: list[str]
    """The labels of the image's truth that mean the class."""


class Energy(EnergyFigures):
    """Of ``--metric energy_pointing_game``."""

    baselines: dict[str, EnergyFigures]
    """The same of maps that know nothing of the network."""


class RegionEnergies(TypedDict):
    """Of ``--metric region_energy``."""

    regions: list[str]
    """The regions, as the metric was asked for them."""
    energies: list[float | None]
    """Share of the positive values in each region of the metric's ``regions``; null where it is not known, or the map
    has no positive values."""
    seen: list[float | None]
    """Share of each of these regions that the network saw (``view``): no map can lie on the rest; null where the region
    is not known."""
    peak_inside: bool | None
    """Whether the map is largest in the object; null where that is not known, or the map is largest nowhere: it is the
    same everywhere, or has no positive values."""


class Localization(TypedDict, total=False):
    """Figures of metrics of localization; null where the image lacks the boxes, or masks, that they need."""

    box_localization: BoxLocalization | None
    """Whether the box around the map fits one of the class."""
    max_box_acc: Thresholds | None
    """At which thresholds it fits."""
    max_box_acc_v2: ThresholdsV2 | None
    """At which thresholds the box around any region fits."""
    pxap: Pixels | None
    """The map's pixels in and beside the mask of the class."""
    pointing_game: Point | None
    """Whether the map is largest in a box of the class."""
    region_energy: RegionEnergies
    """How much of the map lies in regions of the photograph."""
    energy_pointing_game: Energy | None
    """How much of the map lies in the boxes of the class."""
