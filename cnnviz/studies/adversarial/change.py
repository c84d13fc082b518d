"""How far a prediction with a class at each position changed, and what of it is kept over a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """How far a prediction changed.

    Attributes:
        pixels_changed: Share of the region whose class is another.
        mean_iou_lost: 1 less the mean IoU of the prediction with that before, over the classes found before, wherever
            they are.
        target_share: Share of the region that is predicted as the class to reach; None without one.
        target_share_before: The same before.
    """

    pixels_changed: float
    mean_iou_lost: float
    target_share: float | None
    target_share_before: float | None


def change(before: Labels, after: Labels, weights: NDArray[np.float32], target: int | None) -> Change:
    """Compare two predictions.

    Args:
        before, after: The class at each position [h, w].
        weights: [h, w], the share of each position that lies in the region.
        target: The class to reach.
    """
    total = float(weights.sum(dtype=np.float64))

    def share(where: NDArray[np.bool_]) -> float:
        return min(1.0, float(weights[where].sum(dtype=np.float64)) / total)

    overlaps = []
    for index in np.unique(before):
        was, now = before == index, after == index
        overlaps.append(float((was & now).sum() / (was | now).sum()))
    return Change(
        share(before != after),
        1 - float(np.mean(overlaps)),
        None if target is None else share(after == target),
        None if target is None else share(before == target),
    )


class ChangeTally:
    """Sums over images.

    Attributes:
        attacked: How many images were attacked.
        already: How many met the goal everywhere without an attack.
        blind: At how many of those attacked the gradient is zero at every pixel.
    """

    def __init__(self) -> None:
        self.attacked = self.already = self.blind = 0
        self._sums = [0.0] * 3
        self._targeted = False

    def add(self, found: Change, blind: bool) -> None:
        """One image."""
        if found.target_share_before == 1:
            self.already += 1
            return
        self.attacked += 1
        self.blind += blind
        self._targeted |= found.target_share is not None
        values = (found.pixels_changed, found.mean_iou_lost, found.target_share or 0.0)
        self._sums = [total + value for total, value in zip(self._sums, values, strict=True)]

    @property
    def means(self) -> tuple[float | None, float | None, float | None]:
        """Share of pixels changed, mean IoU lost, share that became the class; None where there is none."""
        if not self.attacked:
            return None, None, None
        changed, lost, reached = (total / self.attacked for total in self._sums)
        return changed, lost, reached if self._targeted else None
