"""What a report says of right and wrong predictions, where the classes of the images are known."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.shapes import Count
from cnnviz.schema.targets import Prediction


class Judged(TypedDict, total=False):
    """What a record of a command that makes maps says of an image whose classes are known."""

    outcome: Literal["wrong", "correct"]
    """Whether the first prediction is one of ``true_classes``. Not of what ``truth`` marks in an audit whose policy has
    no ``labels``, where nothing is right or wrong."""
    true_classes: list[Prediction]
    """The classes that the image is known to show, the one scored highest first, with what the network says of
    them: by ``--class folder`` or a table, else by the list that named it, else by ``--truth``."""
    true_marks: list[list[str]]
    """Of an image whose classes are known by what ``--truth`` marks on it: of each of ``true_classes`` the labels that
    mean it there."""
    skipped: Literal[True]
    """There where ``--only`` leaves the image out: it was neither explained nor drawn."""


class NamedClass(TypedDict):
    """A class."""

    class_index: Count
    """Index of the class among the network's outputs, from 0."""
    label: str
    """Name of the class."""


class ShownClass(TypedDict):
    """What images show."""

    class_index: Count | None
    """Index of the class, from 0; null where it is known by what is marked, which may mean several classes."""
    label: str
    """Name of the class, or the label by which it is marked."""


class ConfusionCell(TypedDict):
    """The images of a class that the network takes for a class."""

    truth: ShownClass
    """What they show; of several classes that an image has, the one scored highest."""
    predicted: NamedClass
    """What the network takes them for."""
    correct: bool
    """Whether it is right with them."""
    images: Count
    """How many they are."""
    names: list[str]
    """The names of the first 20 of their records."""


class Confusion(TypedDict):
    """Which classes the network takes images for, of all whose classes are known; explained or left out."""

    images: Count
    """How many they are."""
    correct: Count
    """How many the network gets right."""
    wrong: Count
    """How many it gets wrong."""
    cells: list[ConfusionCell]
    """The pairs of classes that occur, by the index of the true class (its label, where it is known by what is marked),
    then of the predicted one."""


class WithConfusion(TypedDict):
    """Of reports of commands that make maps."""

    confusion: NotRequired[Confusion]
    """Where classes of images are known: what the network takes them for."""
