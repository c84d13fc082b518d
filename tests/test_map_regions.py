"""Regions of masks by their contours, and of maps of large cells by their corners, against flood fill."""

from __future__ import annotations

import numpy as np
import pytest

from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.metrics import localization_regions
from cnnviz.metrics.derived import mask_regions
from cnnviz.metrics.localization import levels
from cnnviz.metrics.localization_basins import basin_regions
from cnnviz.metrics.localization_regions import regions
from tests.oracles import localization as oracle


@pytest.mark.parametrize("seed", range(12))
def test_regions_of_a_mask(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((13, 17)) < generator.choice([0.2, 0.5, 0.8, 0.95])
    expected = list(oracle.flood(mask))
    for longest in (0, 1000):  # by labels, by contours
        monkeypatch.setattr("cnnviz.metrics.derived._LONG", longest)
        found = mask_regions(mask)
        by_first = np.lexsort((found.first[:, 1], found.first[:, 0]))
        assert [tuple(edges) for edges in found.edges[by_first].tolist()] == [box for box, _ in expected]
        assert found.area[by_first].tolist() == [area for _, area in expected]
        assert found.largest() == by_first[int(np.argmax([area for _, area in expected]))]


def test_a_ring_in_a_ring_and_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.ones((9, 9), dtype=bool)
    mask[1:8, 1:8] = False
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    monkeypatch.setattr("cnnviz.metrics.derived._LONG", 1000)
    assert sorted(mask_regions(mask).area.tolist()) == [24, 32]
    assert mask_regions(np.zeros((3, 3), dtype=bool)).area.tolist() == []


def placed(seed: int) -> PlacedMap:
    """Cells that the network saw of a part of an image, some with plateaus; each value is a shape of its own."""
    generator = np.random.default_rng(seed)
    cells = generator.random(generator.integers(2, 7, 2)).astype(np.float32) - np.float32(0.3 * (seed % 3))
    if seed % 4 == 1:
        cells[: len(cells) // 2] = cells[0, 0]
    rect = (0.0, 0.0, 37.0, 29.0) if seed % 2 else (3.3, 1.7, 33.1, 28.2)
    return place(cells, rect, (37, 29), signed=False)


@pytest.mark.parametrize("seed", range(16))
def test_regions_of_large_cells_at_all_thresholds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localization_regions, "_SPARSE", 1000)
    map_ = placed(seed)
    assert map_.strips is not None
    of_map = levels(map_)
    found = regions(of_map, map_.values, map_.strips)
    got = sorted(map(tuple, np.column_stack([found.level, found.edges, found.area]).tolist()))
    assert got == sorted((k, *box, area) for k in range(255) for box, area in oracle.flood(of_map > k))


@pytest.mark.parametrize("seed", range(12))
def test_regions_of_many_maxima_at_all_thresholds(seed: int) -> None:
    """Noise, plateaus, slopes with few steps, lines without a pixel around them."""
    generator = np.random.default_rng(seed)
    shape = [(1, 19), (17, 1), (11, 14)][seed % 3]
    of_map = generator.integers(0, [3, 9, 256, 256][seed % 4], shape).astype(np.uint8)
    if seed % 2:
        of_map = np.sort(of_map, axis=0)
    of_map[0, 0] = 255 - seed
    found = basin_regions(of_map)
    got = list(map(tuple, np.column_stack([found.level, found.edges, found.area]).tolist()))
    assert sorted(got) == sorted((k, *box, area) for k in range(255) for box, area in oracle.flood(of_map > k))
    order = [(level, y0, x0) for level, x0, y0, *_ in got]
    assert order == sorted(order)


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_find_the_same_regions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    map_ = placed(seed)
    found = []
    for few in (0, 10**6):
        monkeypatch.setattr(localization_regions, "_FEW", few)
        monkeypatch.setattr(localization_regions, "_FEW_OF_CELLS", few)
        for strips in (None, map_.strips):
            got = regions(levels(map_), map_.values, strips)
            found.append(sorted(map(tuple, np.column_stack([got.level, got.edges, got.area]).tolist())))
    assert found[1:] == found[:-1]


def test_maps_of_small_cells_have_no_strips() -> None:
    assert place(np.ones((50, 50), np.float32), (0, 0, 30, 20), (30, 20), signed=False).strips is None
