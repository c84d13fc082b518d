"""What reports of ``adversarial`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, Count, Files, Interval, Share
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network
from cnnviz.schema.targets import Prediction, SegmentPrediction


class ShareByEpsilon(TypedDict):
    """A share of images that hold out against any attack within epsilon."""

    epsilon: float
    """Largest change of a channel (maximum norm), or L2 norm of the change, of pixels in 0–1."""
    value: Share
    """The share, 0 to 1."""
    ci95: Interval
    """Its 95 % interval (Wilson)."""
    n: Count
    """How many images it is a share of."""


class AdversarialFigures(TypedDict):
    """What attacks came to. Means are over the images that were fooled; null where none was."""

    attacked: Count
    """How many images did not meet the goal already."""
    already: Count
    """How many did: nothing was changed."""
    fooled: Count
    """How many the attack changed the prediction of, as asked for, in the written picture of 8 bits, read again."""
    zero_gradient: Count
    """How many were not fooled where the gradient is zero, which says nothing about robustness."""
    success_rate: Share | None
    """Fooled images as a share of those attacked, 0 to 1; null where none was."""
    mean_steps: float | None
    """Mean number of steps."""
    mean_linf: float | None
    """Mean largest change of a channel, of pixels in 0–1."""
    mean_l2: float | None
    """Mean L2 norm of the change, of pixels in 0–1."""


class AttackName(TypedDict):
    """The attack."""

    attack: str
    """The attack, as ``--attack`` has it."""
    norm: Literal["linf", "l2"]
    """The norm that it keeps small."""
    epsilon: float | None
    """Largest change of a channel that it may make, of pixels in 0–1; null for attacks that look for the smallest."""


class Attack(AttackName, AdversarialFigures):
    """``summary.adversarial``: the attack, and what it came to."""

    labelled: NotRequired[Count]
    """How many images on the curve have a known class."""
    robust_accuracy: NotRequired[list[ShareByEpsilon]]
    """By epsilon the share of labelled images that are classified rightly under any attack within epsilon on the input
    of the network, which is not rounded to 8 bits: ``fooled`` is of what is written, and may be fewer."""
    prediction_unchanged: NotRequired[list[ShareByEpsilon]]
    """The same of all images whose prediction does not change, where no labels are known."""
    goal_not_reached: NotRequired[list[ShareByEpsilon]]
    """The same of all images that do not become the class of ``--target-class``."""


class SegmentAttack(AttackName):
    """``summary.adversarial`` of a network with scores at positions. Means are over the images that were attacked; null
    where none was."""

    task: Literal["segment"]
    """What the network is for."""
    attacked: Count
    """How many images were attacked."""
    already: Count
    """How many were the class of ``--target-class`` everywhere in the region."""
    zero_gradient: Count
    """At how many the gradient is zero, which says nothing about robustness."""
    mean_pixels_changed: Share | None
    """Mean of ``pixels_changed``."""
    mean_mean_iou_lost: Share | None
    """Mean of ``mean_iou_lost``."""
    mean_target_share: Share | None
    """Mean of ``target_share``; null without ``--target-class``."""


class AdversarialSummary(Counted, Network):
    """Of ``adversarial``."""

    study: Literal["adversarial"]
    """Name of the study."""
    adversarial: NotRequired[Annotated[SegmentAttack | Attack, By(("task",))]]
    """The attack, and what it came to; not there after Ctrl-C."""


class AdversarialFacts(TypedDict):
    """What an attack made of an image."""

    adversarial_predictions: list[Prediction]
    """What the network says of the written picture, read again, best first."""
    to: str | None
    """The class of ``--target-class``; null where any other class will do."""
    success: bool
    """Whether the written picture, read again, meets the goal."""
    already: bool
    """Whether the image met it without an attack."""
    gradient_is_zero: bool
    """Whether the gradient is zero at every pixel, so that nothing could be tried."""
    steps: Count
    """How many steps it took."""
    linf: float
    """Largest change of a channel, of pixels in 0–1."""
    l2: float
    """L2 norm of the change, of pixels in 0–1."""
    read_with: str
    """Flag that the written picture must be read with to be seen as it is; empty for none."""
    files: Files
    """``adversarial``, ``noise`` and ``figure``: the picture, the change made visible, both beside the image."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""
    falls_at: NotRequired[float | None]
    """Of a run with a curve: the first epsilon at which the network is fooled at its input, which is not rounded; null
    where it holds out at all."""


class AdversarialImage(Image, AdversarialFacts):
    """A record of ``adversarial``."""


class SegmentAdversarialFacts(TypedDict):
    """What an attack made of an image, of a network with scores at positions."""

    task: Literal["segment"]
    """What the network is for."""
    adversarial_predictions: list[SegmentPrediction]
    """What the network finds in the written picture, read again, by area."""
    to: str | None
    """The class of ``--target-class``; null where any other class will do."""
    region: list[str]
    """The targets whose regions were attacked; empty for all that the network sees."""
    region_area: Share
    """Share of what the network saw that was attacked."""
    pixels_changed: Share
    """Share of the region whose class is another in the written picture, read again."""
    mean_iou_lost: Share
    """1 less the mean IoU of the prediction with that before, over the classes found before, in the region or not."""
    target_share: Share | None
    """Share of the region that is the class of ``--target-class`` afterwards; null without one."""
    target_share_before: Share | None
    """The same before."""
    gradient_is_zero: bool
    """Whether the gradient is zero at every pixel, so that nothing could be tried."""
    steps: Count
    """How many steps it took."""
    linf: float
    """Largest change of a channel, of pixels in 0–1."""
    l2: float
    """L2 norm of the change, of pixels in 0–1."""
    read_with: str
    """Flag that the written picture must be read with to be seen as it is; empty for none."""
    files: Files
    """``adversarial``, ``noise`` and ``figure``: the picture, the change made visible, both beside the image; and
    ``predictions``: ``before`` and ``after``, the class at each position, and ``region``, the share of it attacked."""
    figures: list[Figure]
    """The pictures that its card on the page shows."""


class SegmentAdversarialImage(Image, SegmentAdversarialFacts):
    """A record of ``adversarial`` of a network with scores at positions."""


AttackedImage = Annotated[SegmentAdversarialImage | AdversarialImage, By(("task",))]


class AdversarialReport(StudyHeader):
    """The report of ``adversarial``."""

    summary: AdversarialSummary
    """What the run came to."""
    images: list[Annotated[AttackedImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
