"""Two maps of one picture on cells that both cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnviz.audit.check import RawMap
from cnnviz.audit.drift import likeness
from cnnviz.geometry.common_cells import on_common_cells
from cnnviz.geometry.placement import Rect

SIZE = (500, 375)
PARTS: tuple[Rect, ...] = ((0.0, 0.0, 500.0, 375.0), (62.5, 0.0, 437.5, 375.0), (-20.0, 40.0, 333.3, 401.0))


@dataclass(frozen=True)
class Lies:
    values: NDArray[np.float32]
    rect: Rect


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -0.7, 123.456])
@pytest.mark.parametrize("rect", PARTS)
def test_a_map_that_is_the_same_everywhere_stays_so(value: float, rect: Rect) -> None:
    """Rounding alone would have ranks: two such maps correlated by 0, and one beside another map by 0.1."""
    even = np.full((7, 7), value, np.float32)
    other = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    pair = on_common_cells(Lies(even, rect), Lies(other, PARTS[0]), SIZE)
    assert pair is not None
    assert np.unique(pair[0]).tolist() == [even[0, 0]]
    assert pair[0].shape == pair[1].shape
    for beside, alike in ((np.full((8, 8), 2 * value, np.float32), 1.0), (other, 0.0)):
        assert likeness(RawMap(even, rect), RawMap(beside, PARTS[0]), SIZE) == (alike, False)
