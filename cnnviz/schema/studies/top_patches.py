"""What reports of ``top-patches`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from cnnviz.schema.images import FailedImage
from cnnviz.schema.shapes import By, Count, Rectangle, Says, Share, Size
from cnnviz.schema.studies.base import PlainImage, StudyHeader
from cnnviz.schema.summary import Counted, Network


class Patch(TypedDict):
    """One of the strongest patches of a unit."""

    rank: Count
    """Its rank, from 1."""
    path: str
    """Path of the image."""
    label: str | None
    """Label of the image, given or the name of its folder; null where there is none."""
    activation: float
    """The unit's value there."""
    position: list[Count]
    """Row and column in the layer."""
    receptive_field_xywh: Rectangle
    """What the unit sees there, inside the image, in its pixels."""
    receptive_field_unclipped_xywh: Rectangle
    """The same with what lies outside."""


class Selectivity(TypedDict):
    """The classes among the patches of a unit."""

    label: str
    """The most frequent class."""
    purity: Share
    """Its share, 0 to 1."""
    entropy: float
    """Entropy of the classes in bits: 0 for one class."""
    count: Count
    """How many patches have a label."""


class RankedUnit(Selectivity):
    """A unit in the ranking by selectivity."""

    unit: Count
    """Its number, from 0."""


class Concept(TypedDict):
    """A concept that a unit overlaps with."""

    concept: str
    """Name of the concept."""
    iou: Share
    """Intersection over union of the thresholded unit and the concept over all images, 0 to 1."""


class UnitConcepts(TypedDict, total=False):
    """What a unit overlaps with, of ``--boxes`` and ``--masks``."""

    threshold: float
    """Of ``--boxes`` and ``--masks``: the value above which the unit counts as on."""
    concepts: list[Concept]
    """Of ``--boxes`` and ``--masks``: the concepts that it overlaps with, best first."""


class UnitFigures(TypedDict):
    """What every unit has."""

    layer: str
    """Name of the layer."""
    pre_activation: bool
    """Whether the layer is taken before the activation that follows it."""
    unit: Count
    """Its number, from 0."""
    activated: bool
    """Whether it is above zero in any image."""
    max: float
    """Its largest value."""
    images_fired: Count
    """In how many images it is above zero."""
    file: str
    """The picture of its patches, relative to the run's folder."""
    classes: Selectivity | None
    """The classes among its patches; null where no label is known."""


class Unit(UnitFigures, UnitConcepts):
    """A unit with its strongest patches."""

    patches: list[Patch]
    """Its strongest patches, strongest first."""


class UnitChange(TypedDict):
    """How much the patches of a unit changed since the run of ``--compare-to``."""

    unit: Count
    """Its number, from 0."""
    overlap: float | None
    """Images of both runs as a share of those of either, 0 to 1; null for a unit that fired in neither."""
    mean_rank_change: float | None
    """Mean change of rank of the images of both; null where there are none."""
    new: list[str]
    """Paths of images that only this run has."""
    gone: list[str]
    """Paths of images that only the earlier run has."""


class Pass(TypedDict):
    """The pass over all images."""

    seconds: float
    """Seconds that it took."""
    images_per_second: float
    """Images a second."""


class ReceptiveField(TypedDict):
    """What a unit sees of the network's input."""

    size: Size
    """``[height, width]`` in pixels."""
    stride: Size
    """``[rows, columns]`` in pixels from one position to the next."""
    offset: list[float]
    """``[y, x]`` in pixels of the field of the first position."""
    global_context: bool
    """Whether statistics of the whole picture enter every position."""


class Dissection(TypedDict):
    """What units overlap with, of ``--boxes`` and ``--masks`` (Bau et al. 2017)."""

    concepts: Count
    """How many concepts there are."""
    images: Count
    """How many images have any."""
    share_above_threshold: Share
    """The share of all positions at which a unit counts as on, 0 to 1."""
    detectors: Count
    """How many units detect a concept."""
    unique_detectors: Count
    """How many concepts are detected."""
    detects_from_iou: Share
    """The intersection over union from which a unit detects a concept, 0 to 1."""


class Compared(TypedDict):
    """The units in the run of ``--compare-to``."""

    units: Count
    """How many units both runs have."""
    mean_overlap: float | None
    """Mean ``overlap`` of their patches, 0 to 1; null where there is none."""


class TopPatchesFigures(TypedDict, total=False):
    """Figures of the units; not there after Ctrl-C."""

    layer: str
    """Name of the layer."""
    pre_activation: bool
    """Whether the layer is taken before the activation that follows it."""
    default_layer: str
    """The layer that other commands would take, where this one stands before its activation."""
    units: Count
    """How many units are shown."""
    units_of_layer: Count
    """How many units the layer has."""
    units_never_fired: Count
    """How many of those shown are above zero nowhere."""
    patches: Count
    """How many patches are shown."""
    patches_not_reproduced: Count
    """How many were left out because the image, read again, did not give the same value."""
    receptive_field: ReceptiveField | None
    """What a unit sees; null where it is not known."""
    dissection: Dissection
    """Of ``--boxes`` and ``--masks``: how many units overlap with concepts."""
    against: Compared
    """Of ``--compare-to``: how much the units changed."""


# Keys that are words of Python.
TopPatchesPass = TypedDict(
    "TopPatchesPass",
    {
        "with": Annotated[str, Says("The rule of the gradients below the patches, as ``--patch-gradient`` has it.")],
        "pass": Annotated[Pass, Says("The pass over all images.")],
    },
    total=False,
)


class TopPatchesOwn(TopPatchesFigures, TopPatchesPass):
    """What the summary has beside that of other studies."""


class TopPatchesSummary(TopPatchesOwn, Counted, Network):
    """Of ``top-patches``."""

    study: Literal["top-patches"]
    """Name of the study."""


class TopPatchesExtras(TypedDict, total=False):
    """What the report has beside that of other studies."""

    units: list[Unit]
    """The units that were asked for, in that order; not there after Ctrl-C."""
    selectivity: list[RankedUnit]
    """Where labels are known: the units, most selective first, with the keys of ``classes``."""
    changes: list[UnitChange]
    """Of ``--compare-to``: the units by how much they changed, most changed first."""


class TopPatchesReport(StudyHeader, TopPatchesExtras):
    """The report of ``top-patches``."""

    summary: TopPatchesSummary
    """What the run came to."""
    images: list[Annotated[PlainImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
