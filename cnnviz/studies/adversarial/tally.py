"""What is counted over attacked images; its size does not depend on their number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


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
    """

    def __init__(self, curve: tuple[float, ...]) -> None:
        self.curve = curve
        self.attacked = self.already = self.fooled = self.labelled = self.steps = self.blind = 0
        self.linf = self.l2 = 0.0
        self.held = [0] * len(curve)

    def add(self, outcome: Outcome, labelled: bool, right: bool) -> None:
        """One image: whether its true class is known, and whether the network says it (or none is known)."""
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
            self.held[number] += right and outcome.falls is not None and number < outcome.falls

    def summary(self) -> dict[str, Any]:
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

    def robust_accuracy(self) -> list[dict[str, Any]]:
        """By epsilon the share of images whose class is right and that no attack within epsilon changes.

        Images that are not fooled and at which the gradient is zero are left out.
        """
        count = self.attacked - self.blind
        return [
            {"epsilon": epsilon, "value": held / count, "ci95": list(wilson(held, count)), "n": count}
            for epsilon, held in zip(self.curve, self.held, strict=True)
            if count
        ]


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
