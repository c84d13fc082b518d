"""How much of the work on a batch is done before its images are: many methods and metrics take minutes."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[float], None]


def untold(images: float) -> None:
    """Nobody is told."""


class Parts:
    """The work on a batch, told step by step as shares of its images; all steps together are all images.

    Args:
        tell: Told how many images a step is worth.
        images: Of the batch.
        steps: How many steps the work on an image has.
    """

    def __init__(self, tell: Tell, images: int, steps: int) -> None:
        self._tell, self._left, self._steps = tell, float(images), steps

    def step(self, images: int) -> None:
        """One step of so many images is done; what is done again where memory ran out counts once."""
        self._done(min(images / self._steps, self._left))

    def finish(self) -> None:
        """Nothing is left to do: images may have had fewer steps."""
        self._done(self._left)

    def _done(self, worth: float) -> None:
        self._left -= worth
        if worth:
            self._tell(worth)
