"""Detectors with a pyramid: each of several maps feeds the head, and a box is made at one of them."""

from __future__ import annotations

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target


def levels_of(run: ForwardPass, target: Target) -> list[int | None]:
    """The level that made what is explained of each image: the last of those at which its gradient is not zero.

    Levels stand in the order in which they are computed: one that another is computed from has a gradient too. Where
    no gradient arrives at any, the first.

    Args:
        run: A pass of a session that has levels.
        target: What is explained.
    """
    with rt.scope():
        there = run.level_gradients(target(run.output))
    found: list[int | None] = [0] * len(run.pixels)
    for level, images in enumerate(there):
        found = [level if bool(reached) else old for reached, old in zip(images, found, strict=True)]
    return found


def on_level(run: ForwardPass, level: int) -> ForwardPass:
    """The pass at one of its levels alone, made once."""

    def make() -> ForwardPass:
        found = run.at_level(level)
        found.session = run.session.at_level(level)
        return found

    return run.remember(("level", level), make)
