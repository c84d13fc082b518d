"""What a report of ``compare`` has of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from cnnviz.schema.boxes import BoxPrediction
from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.shapes import By, Count, Sha256
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Mean, Network
from cnnviz.schema.targets import Prediction, SegmentPrediction

Right = Literal["both", "only_a", "only_b", "neither"]
"""Which of both runs is right with an image."""


class ComparedRun(TypedDict):
    """One of the two runs that are compared."""

    run: str
    """Its folder."""
    command: str
    """The command that made it."""
    methods: list[str]
    """The methods of its maps."""
    model: str
    """Name of the network."""
    weights: str | None
    """Name of the weights, or a checkpoint's file; null where a factory chose them."""
    weights_sha256: Sha256 | None
    """Digest of all parameters and buffers."""
    layers: list[str]
    """The target layers."""
    images: Count
    """How many images it has."""


class MapSimilarity(TypedDict):
    """How alike maps of the same target are: means with intervals by bootstrap over images."""

    spearman: Mean
    """Rank correlation, -1 to 1: what ``--min-similarity`` is held against."""
    pearson: Mean
    """Correlation of the values, -1 to 1."""
    ssim: Mean
    """Structural similarity, at most 1."""


class WhoIsRight(TypedDict):
    """Of the images whose classes are known, which of the runs is right."""

    both: Count
    """Images with which both are."""
    only_a: Count
    """Images with which A alone is."""
    only_b: Count
    """Images with which B alone is."""
    neither: Count
    """Images with which neither is."""
    n: Count
    """How many images these are."""
    accuracy_a: Mean
    """Share with which A is right, with Wilson's interval."""
    accuracy_b: Mean
    """Share with which B is right."""
    mcnemar_p: float
    """Of McNemar's exact test: how likely so uneven a split of ``only_a`` and ``only_b`` is where both runs are right
    equally often."""


class ChangedImage(TypedDict):
    """An image that changed."""

    name: str
    """The stem of the names of its files."""
    path: str
    """The input as A has it."""
    change: float | None
    """1 minus the lowest rank correlation of its maps; null where none could be compared."""
    why: str | None
    """Why some of its maps have no correlation, in words; null where all have one."""
    one_is_flat: bool
    """Whether of two maps one alone is the same everywhere: it comes where a correlation of zero would."""
    changed_prediction: bool | None
    """Whether its prediction differs; null where it is not known."""
    label_a: str | None
    """What A predicts."""
    label_b: str | None
    """What B predicts."""


class TwoRuns(TypedDict):
    """What a comparison came to."""

    explained: str
    """What is explained of each image, in words."""
    a: ComparedRun
    """The one run, the earlier one with ``--against``; ``model`` and ``environment`` of the report are its."""
    b: ComparedRun
    """The other run."""
    same_network: bool
    """Whether both have the same weights."""
    differs: list[str]
    """What B has other than A of preprocessing and of the options of one method, in words."""
    images: Count
    """How many images both have explained."""
    only_a: list[str]
    """Names of the images that A alone has."""
    only_b: list[str]
    """Names of the images that B alone has."""
    other_files: list[str]
    """Names of the images whose files differ: they are not compared."""
    maps: Count
    """How many pairs of maps the similarity is of, those that are flat among them."""
    other_targets: Count
    """How many images are explained for another class in each run, what it predicts; unless ``--explained each`` asked
    for that, they are not in ``similarity``."""
    without_map: Count
    """How many pairs of maps could not be compared: one was not kept, or they share no part of the image."""
    not_kept_a: Count
    """Of how many pairs A kept neither raw map nor heatmap."""
    not_kept_b: Count
    """Of how many pairs B kept neither."""
    apart: Count
    """How many pairs share no part of the image."""
    flat: Count
    """How many pairs have a map that is the same everywhere."""
    resampled: Count
    """How many pairs have other cells, or cover another part of the image: compared where both networks saw it, on 64
    cells along its longer side."""
    from_pictures: Count
    """How many pairs have a map from a picture of 8 bits, because no exact one was kept."""
    similarity: MapSimilarity
    """How alike the maps are."""
    same_prediction: Mean
    """Rank correlation where both runs predict the same class."""
    other_prediction: Mean
    """Rank correlation where they predict different ones."""
    agreement: Mean
    """Share of the images with the same prediction, with Wilson's interval."""
    changed_predictions: Mean
    """Share with another: what ``--max-changed-predictions`` is held against."""
    right: WhoIsRight | None
    """Which run is right; null where no image's class is known."""
    most_changed: list[ChangedImage]
    """The ten images that changed most: those with another prediction first, then by their maps."""
    passed: bool | None
    """Whether the comparison is within ``--min-similarity`` and ``--max-changed-predictions``; null without them."""
    wrong: list[str]
    """What is not, in words."""


class ComparedPair(TypedDict):
    """Two maps that were compared."""

    label_a: str | None
    """What A's map explains."""
    label_b: str | None
    """What B's map explains."""
    method_a: str
    """The method of A's map."""
    method_b: str
    """The method of B's map."""
    same_target: bool
    """Whether both explain the same."""
    spearman: float | None
    """Rank correlation; null where there is none."""
    pearson: float | None
    """Correlation of the values; null where there is none."""
    ssim: float | None
    """Structural similarity; null where there is none."""
    resampled: bool | None
    """Whether they were compared on common cells; null where they were not compared."""
    exact: bool | None
    """Whether both were kept unscaled; null where they were not compared."""
    why: str | None
    """Why there is no rank correlation, in words; null where there is one."""


class ComparedImage(Image):
    """An image that both runs have. What has no letter is of A; explanations name their run."""

    predictions_b: list[Prediction] | list[SegmentPrediction] | list[BoxPrediction]
    """What B predicts."""
    changed_prediction: bool | None
    """Whether the first prediction differs; null where it is not known."""
    change: float | None
    """1 minus the lowest rank correlation of its maps, 0 to 2; null where none could be compared."""
    right: Right | None
    """Which of the runs is right; null where its class is not known."""
    pairs: list[ComparedPair]
    """How alike its maps are, in the order of A."""


class CompareSummary(Counted, Network):
    """Of ``compare``."""

    study: Literal["compare"]
    """Name of the command."""
    compare: TwoRuns
    """What the comparison came to."""


class CompareReport(StudyHeader):
    """The report of ``compare``."""

    summary: CompareSummary
    """What the run came to."""
    images: list[Annotated[ComparedImage | FailedImage, By(("error",))]]
    """One record for each image that both runs have, the one that changed most first; those that failed last."""
