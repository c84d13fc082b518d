"""What is counted over attacked images; its size does not depend on their number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cnnviz.render.text import percent
from cnnviz.schema.studies.adversarial import AdversarialFigures, ShareByEpsilon

AT_INPUT = "attacked at the network's input, not rounded to 8 bits"
"""What the shares by epsilon are of. How many images were fooled is said of the written pictures, read again: what
rounding takes away, or resizing, is the difference.
"""
RobustnessKey = Literal["robust_accuracy", "prediction_unchanged", "goal_not_reached"]


@dataclass(frozen=True)
class Outcome:
    """What became of an image.

    Attributes:
        success: Whether the goal is met by the written one, read again.
        already: Whether the goal was met without an attack.
        steps, linf, l2: What it took; norms in 0–1 over the written picture.
        falls: Place of the first epsilon of the curve at which the network is fooled; None without a curve.
        blind: Whether the attack had nothing to go by: the gradient is zero at every pixel of the image.
    """

    success: bool
    already: bool
    steps: int
    linf: float
    l2: float
    falls: int | None
    blind: bool = False


class Tally:
    """Sums over images.

    Args:
        curve: The epsilons, growing.

    Attributes:
        labelled: How many of the images on the curve have a known true class.
        held: For each epsilon, how many images no attack within it changes.
        right: The same, of labelled images whose clean prediction is right.
    """

    def __init__(self, curve: tuple[float, ...]) -> None:
        self.curve = curve
        self.attacked = self.already = self.fooled = self.labelled = self.steps = self.blind = 0
        self.linf = self.l2 = 0.0
        self.held, self.right = [0] * len(curve), [0] * len(curve)

    def add(self, outcome: Outcome, labelled: bool, right: bool) -> None:
        """One image: whether its true class is known, and whether that is what the network says of it."""
        if outcome.already:
            self.already += 1
            return
        self.attacked += 1
        if outcome.success:
            self.fooled += 1
            self.steps += outcome.steps
            self.linf += outcome.linf
            self.l2 += outcome.l2
        elif outcome.blind:
            # An attack that could not move says nothing about what a better one would do.
            self.blind += 1
            return
        self.labelled += labelled
        for number in range(len(self.held)):
            holds = outcome.falls is not None and number < outcome.falls
            self.held[number] += holds
            self.right[number] += holds and labelled and right

    def summary(self) -> AdversarialFigures:
        """Figures of the run; means are over the images that were fooled."""

        def mean(total: float) -> float | None:
            return total / self.fooled if self.fooled else None

        return {
            "attacked": self.attacked,
            "already": self.already,
            "fooled": self.fooled,
            "zero_gradient": self.blind,
            "success_rate": self.fooled / self.attacked if self.attacked else None,
            "mean_steps": mean(self.steps),
            "mean_linf": mean(self.linf),
            "mean_l2": mean(self.l2),
        }

    def robust_accuracy(self) -> list[ShareByEpsilon]:
        """By epsilon the share of the labelled images that are classified rightly under any attack within epsilon.

        Images that are not fooled and at which the gradient is zero are left out, here and in :meth:`unchanged`.
        """
        return self._shares(self.right, self.labelled)

    def unchanged(self) -> list[ShareByEpsilon]:
        """By epsilon the share of all images at which no attack within epsilon meets its goal."""
        return self._shares(self.held, self.attacked - self.blind)

    def _shares(self, hits: list[int], count: int) -> list[ShareByEpsilon]:
        return [
            {"epsilon": epsilon, "value": held / count, "ci95": list(wilson(held, count)), "n": count}
            for epsilon, held in zip(self.curve, hits, strict=True)
            if count
        ]


@dataclass(frozen=True)
class Robustness:
    """A share of images by epsilon, and what it is a share of.

    Only where true classes are known may it be called an accuracy; and an attack towards a class says nothing about
    the other classes that an image may turn into on the way.

    Attributes:
        key: Of the summary.
        words: What the share is.
        images: Of how many images.
        rows: As :meth:`Tally.robust_accuracy` has them; empty without a curve.
    """

    key: RobustnessKey
    words: str
    images: str
    rows: list[ShareByEpsilon]

    @classmethod
    def of(cls, tally: Tally, goal: str | None) -> Robustness:
        """What the tally allows to be said; ``goal`` is the class that the attack leads to, if there is one."""
        if goal is None and tally.labelled:
            many = f"{tally.labelled} labelled image{'s' * (tally.labelled != 1)}"
            return cls("robust_accuracy", "robust accuracy", many, tally.robust_accuracy())
        count = tally.attacked - tally.blind
        many = f"{count} image{'s' * (count != 1)}"
        if goal is None:
            return cls(
                "prediction_unchanged", "share of unchanged predictions", f"{many} without labels", tally.unchanged()
            )
        return cls("goal_not_reached", f"share of images that do not become {goal}", many, tally.unchanged())

    def sentence(self, row: ShareByEpsilon, where: str) -> str:
        """The share in one row, with its 95 % interval; ``where`` is its epsilon in words."""
        low, high = (percent(share) for share in row["ci95"])
        share = f"{percent(row['value'])} of {self.images} (95 % interval: {low} to {high})"
        return f"{self.words} at {where}, {AT_INPUT}: {share}"


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n),   z = 1.96
    """
    z = 1.959963984540054
    share, more = hits / count, z * z / count
    middle = (share + more / 2) / (1 + more)
    reach = z * math.sqrt(share * (1 - share) / count + more / (4 * count)) / (1 + more)
    # At the ends the root is exact on paper only.
    return 0.0 if hits == 0 else middle - reach, 1.0 if hits == count else middle + reach
