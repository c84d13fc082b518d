"""What reports of ``train`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from cnnviz.schema.images import FailedImage, Input
from cnnviz.schema.shapes import By, Count, Shape, Share
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network

Part = Literal["train", "val"]
"""What a picture is for."""


class EpochFigures(TypedDict):
    """An epoch: also a line of ``metrics.jsonl``."""

    epoch: Count
    """Its number, from 1."""
    learning_rate: float
    """Learning rate of its last step."""
    train_loss: float
    """Mean cross-entropy of its batches in nats, each before the step that it led to."""
    train_accuracy: Share
    """Share of their pictures, as they were cropped and mirrored, that were right."""
    val_loss: float
    """Mean cross-entropy of the validation pictures after the epoch."""
    val_accuracy: Share
    """Share of them that are right."""
    seconds: float
    """How long it took."""


class Parts(TypedDict):
    """Numbers of pictures."""

    train: Count
    """Pictures that were learned from."""
    val: Count
    """Pictures that validate."""


class Training(TypedDict):
    """``summary.training``: what was trained, how, and what came of it."""

    cut: str
    """The layer that feeds the new head."""
    map: Shape
    """``[channels, rows, columns]`` of its output."""
    head: Literal["gap", "gmp", "fc"]
    """The new head."""
    classes: list[str]
    """Class names in the order of the outputs."""
    split: Literal["folders", "fraction"]
    """Whether ``train/`` and ``val/`` said what a picture is for, or the seed."""
    pictures: Parts
    """Numbers of readable pictures."""
    learned_parameters: Count
    """How many numbers were trained."""
    frozen_parameters: Count
    """How many were not (``--freeze``)."""
    batch_norm_learned: Count
    """How many batch normalisations took statistics of the batches, and keep means of them."""
    batch_norm_frozen: Count
    """How many kept the statistics that they came with (``--freeze``, ``--batch-norm frozen``)."""
    batch_size: Count
    """Pictures in a step."""
    steps_per_epoch: Count
    """Steps in an epoch."""
    learning_rate: float
    """The largest learning rate."""
    epochs: Count
    """Epochs that were done."""
    early: bool
    """Whether ``--patience`` ended it."""
    best: EpochFigures | None
    """The epoch of ``checkpoint.safetensors``: the highest validation accuracy, of equals the lowest loss, of equals
    the first; null where none was done."""


class TrainSummary(Counted, Network):
    """Of ``train``. ``seconds`` are those of the epochs."""

    study: Literal["train"]
    """Name of the command."""
    training: Training
    """What was trained, how, and what came of it."""


class TrainImage(Input):
    """A picture."""

    error: None
    """Null: it can be read."""
    split: Part
    """What it is for."""


class FailedTrainImage(FailedImage):
    """A picture that cannot be read, and was left out."""

    split: Part
    """What it would be for."""


class TrainReport(StudyHeader):
    """The report of ``train``. ``model`` is the network with its new head as it was before the first epoch."""

    summary: TrainSummary
    """What the run came to."""
    images: list[Annotated[TrainImage | FailedTrainImage, By(("error",))]]
    """One record for each picture, in input order."""
