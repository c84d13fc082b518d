"""Whether the network is right with an image whose classes are known; the record of one that nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cnnviz.errors import ImageError
from cnnviz.records import ClassScore, PredictionScore, Record

if TYPE_CHECKING:
    from cnnviz.run.images import Decoded, DecodedImage
    from cnnviz.tasks.base import Predictions
    from cnnviz.tasks.class_selection import TargetSelector
    from cnnviz.tasks.classification import Classification

WRONG, CORRECT = "wrong", "correct"


@dataclass(frozen=True)
class Verdict:
    """What an image is known to show, and what the network takes it for.

    Attributes:
        true: Its classes, the one scored highest first; with any of them the network is right.
        predicted: The network's first class.
        marks: Of an image whose classes are known by what is marked on it the labels that mean each class.
    """

    true: tuple[ClassScore, ...]
    predicted: ClassScore
    marks: tuple[tuple[str, ...], ...] = ()

    @property
    def outcome(self) -> Literal["wrong", "correct"]:
        """``correct`` where the first class is among those of the image."""
        return "correct" if self.predicted.class_index in {each.class_index for each in self.true} else "wrong"

    def role(self, index: int) -> str:
        """What a class is to an image that the network gets wrong: ``truth``, ``predicted``, or neither (empty)."""
        if self.outcome == CORRECT:
            return ""
        if index == self.predicted.class_index:
            return "predicted"
        return "truth" if any(index == each.class_index for each in self.true) else ""

    def facts(self) -> Mapping[str, Any]:
        """What the record says of it."""
        marks = {"true_marks": [list(each) for each in self.marks]} if any(self.marks) else {}
        return {"outcome": self.outcome, "true_classes": [each.to_dict() for each in self.true], **marks}


def verdict_of(
    selector: TargetSelector, task: Classification, image: DecodedImage, said: Predictions, place: int
) -> Verdict | None:
    """Whether the network is right with image ``place`` of a batch; None where its classes are not known."""
    try:
        true = selector.true_classes(image.ref, said.scores[place], image.truth)
    except ImageError:
        return None
    classes = tuple(task.scored(index, said, place) for index in true)
    marks = tuple(selector.words.marks(image.ref, index, image.truth) for index in true)
    return Verdict(classes, task.scored(int(said.scores[place].argmax()), said, place), marks)


def skipped(
    image: Decoded, label: str | None, predictions: tuple[PredictionScore, ...], facts: Mapping[str, Any]
) -> Record:
    """The record of an image that ``--only`` leaves out: looked at, neither explained nor drawn."""
    height, width = image.rgb.shape[:2]
    return Record(image.ref.uri, width, height, label, predictions, facts={**facts, "skipped": True})
