"""What reports of ``localize`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.mosaics import WithMosaics
from cnnviz.schema.shapes import By, Count, Share, open_to
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import BesideBaselines, Counted, Fit, LeftOut, Mean, Network, Ranked, Repeatability


class AtThreshold(Ranked):
    """A figure at a threshold."""

    threshold: NotRequired[float | None]
    """The share of the maximum above which regions are taken; null without maps."""
    thresholds: NotRequired[dict[str, float | None]]
    """Of ``max_box_acc_v2``: the same for each IoU."""
    oracle: bool
    """Whether the threshold was chosen on these very images, or on some of them."""
    threshold_from: NotRequired[str]
    """Of ``--threshold-from``: the run on whose images it was chosen."""


class OverClasses(Ranked):
    """A mean over classes."""

    classes: Count
    """How many."""


class BySize(TypedDict):
    """Figures of small, medium and large objects, as COCO has them."""

    small: Mean
    """Below 32 x 32 pixels."""
    medium: Mean
    """Below 96 x 96 pixels."""
    large: Mean
    """All others."""


@open_to("further figures of metrics, each with ``value``, ``ci95`` and ``n``")
class LocalizationFigures(TypedDict, total=False):
    """How well the maps of a method find the objects. Null where no image has the truth for it."""

    maps: Count
    """How many maps of the method were measured."""
    without_truth: Count
    """How many were not, because the annotations do not have their image, or no boxes of it, or because nothing that is
    marked on it is a class of the network."""
    classes_outside_truth: Count
    """How many are of classes that no label of the annotations means."""
    flat: Count
    """How many are the same everywhere, so that their boxes tell nothing."""
    box_threshold: Share
    """The share of the maximum above which the boxes of the method are; baselines have that of the first method."""
    top1_error: Ranked
    """Share of the images whose first class is wrong, or whose box overlaps no true box of that class by half; of those
    on which a class of the network is marked."""
    top5_error: Ranked
    """The same with the best of the first five classes, each with its own box."""
    gt_known_accuracy: Ranked
    """Share of the maps of true classes whose box has an IoU of at least 0.5 with a true one."""
    object_recall: Ranked
    """Of ``--per-component``: mean share of the objects of a class that have a box of their own with an IoU of 0.5."""
    box_precision: Ranked
    """Of ``--per-component``: mean share of a map's boxes that are the box of an object."""
    max_box_acc: AtThreshold
    """The same with the threshold that is best for all maps together."""
    max_box_acc_v2: AtThreshold
    """Mean over IoU 0.3, 0.5 and 0.7, any region of a map, each with its own best threshold."""
    pointing_game: OverClasses
    """Share of the maps of true classes that are largest on an object: per class, then the mean of the classes."""
    energy_pointing_game: Ranked
    """Mean share of the positive values that lies inside the boxes of the class."""
    pxap: Ranked
    """Average precision over the pixels of all maps, where there are masks."""
    hit_rate: Mean
    """The same share of all maps."""
    pointing_game_difficult: OverClasses
    """Of the pointing game, where the class covers less than a quarter of the image and others are there too."""
    hit_rate_difficult: Mean
    """The same share of all such maps."""
    by_size: dict[str, BySize]
    """Of ``gt_known_accuracy`` and ``energy_pointing_game`` by the size of the object."""
    top1_classification_error: Mean
    """Share of the images whose first class is wrong."""
    top5_classification_error: Mean
    """Share of the images of which none of the first five classes is right."""


class LocalizeSummary(Counted, Network):
    """Of ``localize``."""

    study: Literal["localize"]
    """Name of the command."""
    methods: list[str]
    """Names of the methods."""
    class_guesses: NotRequired[list[str]]
    """Class names that were matched by something other than the whole label."""
    localization: dict[str, LocalizationFigures]
    """The figures of each method, and of the maps that know nothing of the network that stand beside them."""
    beside_baselines: NotRequired[BesideBaselines]
    """Where methods are no better than these maps; not there where nothing was measured."""
    left_out: NotRequired[dict[str, LeftOut]]
    """By method whose values should add up to the score, how much of it they leave out."""
    repeatability: NotRequired[dict[str, Repeatability]]
    """By method that draws by chance, how alike the maps of another seed would be."""
    fit: NotRequired[dict[str, Fit]]
    """By method whose values are coefficients of a linear model of the score, how well that fits."""
    seconds_per_map: dict[str, float]
    """By method how long a map takes beside the forward passes that methods share, in seconds of the clock."""


class LocalizeReport(StudyHeader, WithConfusion, WithMosaics):
    """The report of ``localize``."""

    summary: LocalizeSummary
    """What the run came to."""
    images: list[Annotated[Image | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
