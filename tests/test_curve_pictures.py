"""Plots of curves: where the axis has figures, and lines that would hide one another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnviz.render.curves import Curve, curves

LEFT, TOP, WIDTH, HEIGHT = 64, 70, 620, 380
"""Of the plot, in pixels of the picture."""


def level(name: str, y: float, *, last: float = 1.0, beside: bool = False) -> Curve:
    return Curve(name, [(0.0, y), (last, y)], beside)


def inked(picture: NDArray[np.uint8]) -> NDArray[np.intp]:
    return np.flatnonzero((picture != 255).any(axis=(0, 2)))


@pytest.mark.parametrize(
    ("last", "figures"),
    [(0.992, (0.0, 0.25, 0.5, 0.75)), (8.0, (0.0, 2.5, 5.0, 7.5)), (0.035, (0.0, 0.01, 0.02, 0.03)), (3.0, range(4))],
)
def test_an_axis_has_figures_at_round_numbers(last: float, figures: tuple[float, ...]) -> None:
    columns = inked(curves([level("a", 0.5, last=last)], "t", "x")[TOP + HEIGHT + 8 : TOP + HEIGHT + 30, :720])
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 40) + 1)
    middles = [(group[0] + group[-1]) / 2 for group in groups]
    np.testing.assert_allclose(middles, [LEFT + WIDTH * x / last for x in figures], atol=2)


def test_of_two_equal_lines_both_are_seen() -> None:
    plot = curves([level("a", 0.6), level("b", 0.6)], "t", "x")[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].astype(int)
    warmth = plot[:, :, 0] - plot[:, :, 2]  # the first colour is blue, the second orange
    shares = [(warmth < -60).any(axis=0).mean(), (warmth > 60).any(axis=0).mean()]
    # 12 of 24 pixels, and round ends.
    assert shares == pytest.approx([0.4, 0.6], abs=0.1)


def test_lines_beside_the_methods_are_told_apart_by_their_strokes() -> None:
    names, levels = ("random", "center", "edges", "random_cells"), (0.9, 0.7, 0.4, 0.1)
    plot = curves([level(*each, beside=True) for each in zip(names, levels, strict=True)], "t", "x")
    drawn = []
    for y in levels:
        row = round(TOP + HEIGHT * (1 - y))
        drawn.append(len(inked(plot[row - 1 : row + 2, LEFT : LEFT + WIDTH])) / WIDTH)
    whole, strokes, dots, both = drawn
    assert whole == 1
    # 8 of 12, 2 of 6, 12 of 20 pixels, and what smoothing adds at the ends of each stroke.
    assert [strokes, dots, both] == pytest.approx([8 / 12 + 0.1, 2 / 6 + 0.2, 12 / 20 + 0.13], abs=0.08)
