"""Scores of a map, against a slow second opinion in plain Python."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.metrics.map_statistics import map_scores

UNDEFINED = ("peak", "box_xywh", "energy_in_box", "entropy", "area_above_half")


def flood_fill(mask: list[list[bool]]) -> list[set[tuple[int, int]]]:
    """The 8-connected regions of a mask in reading order of their first pixels, as sets of (y, x)."""
    height, width = len(mask), len(mask[0])
    left = {(y, x) for y in range(height) for x in range(width) if mask[y][x]}
    regions = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        region, todo = {start}, [start]
        while todo:
            y, x = todo.pop()
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    region.add(near)
                    todo.append(near)
        regions.append(region)
    return regions


def second_opinion(placed: PlacedMap) -> dict[str, object]:
    """Box, energy, entropy and area by their definitions, pixel by pixel in float64."""
    x0, y0, x1, y1 = placed.seen
    seen = [(y, x) for y in range(y0, y1) for x in range(x0, x1)]
    value = {at: max(0.0, float(placed.values[at])) for at in seen}
    maximum, total = max(value.values()), math.fsum(value.values())
    height, width = placed.values.shape
    mask = [[value.get((y, x), 0.0) > 0.2 * maximum for x in range(width)] for y in range(height)]
    region = max(flood_fill(mask), key=len)
    rows, columns = [y for y, _ in region], [x for _, x in region]
    box = [min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1]
    inside = [v for (y, x), v in value.items() if box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3]]
    shares = [v / total for v in value.values() if v > 0.0]
    return {
        "box_xywh": box,
        "energy_in_box": math.fsum(inside) / total,
        "entropy": -math.fsum(p * math.log(p) for p in shares) / math.log(len(seen)),
        "area_above_half": sum(v >= 0.5 * maximum for v in value.values()) / len(seen),
    }


def whole(values: NDArray[np.float32], *, signed: bool = False) -> PlacedMap:
    return PlacedMap(values, (0, 0, values.shape[1], values.shape[0]), signed)


def scores_of(values: list[list[float]], *, signed: bool = False) -> dict[str, object]:
    raw = np.array(values, dtype=np.float32)
    return map_scores(raw, whole(raw, signed=signed))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rect", [(0.0, 0.0, 80.0, 50.0), (17.5, 2.5, 62.5, 47.5), (-8.0, 5.0, 70.0, 60.0)])
def test_scores_equal_their_definitions(signed: bool, seed: int, rect: tuple[float, float, float, float]) -> None:
    raw = np.random.default_rng(seed).normal(size=(7, 9)).astype(np.float32)
    if not signed:
        raw = np.maximum(raw, 0.0)
    placed = place(raw * 1e-4, rect, (80, 50), signed=signed)
    scores = map_scores(raw * 1e-4, placed)
    for name, expected in second_opinion(placed).items():
        assert scores[name] == pytest.approx(expected, rel=1e-5), name
    peak = scores["peak"]
    assert isinstance(peak, list)
    assert placed.values[peak[1], peak[0]] == pytest.approx(placed.values.max(), rel=1e-6)
    assert scores["min"] == pytest.approx(1e-4 * raw.min())
    assert scores["max"] == pytest.approx(1e-4 * raw.max())
    assert scores["mean"] == pytest.approx(math.fsum(raw.ravel().tolist()) / raw.size * 1e-4, rel=1e-5)
    assert "flat" not in scores


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_many_regions_has_the_largest_as_its_box(seed: int) -> None:
    raw = np.random.default_rng(seed).random((30, 40), dtype=np.float32)
    raw[raw < 0.72] = 0.0
    placed = whole(raw)
    scores = map_scores(raw, placed)
    for name, expected in second_opinion(placed).items():
        assert scores[name] == pytest.approx(expected, rel=1e-5), name


def test_diagonal_neighbours_belong_together_and_a_fifth_itself_does_not() -> None:
    scores = scores_of([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 1, 0], [4, 0, 0, 4]])
    assert scores["box_xywh"] == [0, 0, 2, 2]
    assert scores["energy_in_box"] == pytest.approx(10 / 19)
    assert scores["area_above_half"] == 4 / 16


def test_of_regions_of_one_size_the_first_in_reading_order_counts() -> None:
    scores = scores_of([[0, 0, 0, 2, 0], [3, 0, 0, 0, 0], [0, 0, 0, 0, 3]])
    assert scores["box_xywh"] == [3, 0, 1, 1]


def test_entropy_is_zero_for_a_point_and_one_for_an_even_map() -> None:
    point = scores_of([[0, 0, 0], [0, 7, 0]])
    even = scores_of([[0.3, 0.3001] * 25] * 40)
    half = scores_of([[1.0] * 8 + [0.0] * 8] * 16)
    assert point["entropy"] == pytest.approx(0.0, abs=1e-9)
    assert even["entropy"] == pytest.approx(1.0, abs=1e-6)
    assert half["entropy"] == pytest.approx(math.log(128) / math.log(256), abs=1e-6)
    single = np.full((1, 1), 2.0, np.float32)
    assert map_scores(single, place(single, (0, 0, 1, 1), (1, 1), signed=False))["flat"] is True


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        ([(1, 4)], [4, 1]),
        ([(1, 1), (1, 2), (1, 3)], [2, 1]),
        ([(0, 0), (4, 3), (4, 4)], [3, 4]),
        ([(1, 1), (3, 4)], [1, 1]),
        ([(y, x) for y in (1, 2, 3) for x in (2, 3, 4)], [3, 2]),
        ([(y, x) for y in (1, 2, 3) for x in (2, 3, 4) if (y, x) != (2, 3)], [3, 1]),
    ],
    ids=["one", "line", "largest region", "first of equals", "block", "ring"],
)
def test_the_peak_of_a_plateau_is_in_the_middle_of_its_largest_region(
    ties: list[tuple[int, int]], expected: list[int]
) -> None:
    raw = np.full((6, 7), 0.5, dtype=np.float32)
    for at in ties:
        raw[at] = 2.0
    assert map_scores(raw, whole(raw))["peak"] == expected


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1.9])
def test_the_last_bits_of_interpolation_do_not_move_a_peak(value: float) -> None:
    raw = np.zeros((7, 7), dtype=np.float32)
    raw[1:5, 2:6] = value
    scores = map_scores(raw, place(raw, (0.0, 0.0, 331.0, 247.0), (331, 247), signed=False))
    peak = scores["peak"]
    assert isinstance(peak, list)
    assert peak[0] + 0.5 == pytest.approx(4 * 331 / 7, abs=1.0)
    assert peak[1] + 0.5 == pytest.approx(3 * 247 / 7, abs=1.0)


@pytest.mark.parametrize(("width", "height"), [(300, 120), (120, 300), (200, 200)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 6), (6, 0), (6, 6)])
def test_a_hot_corner_of_a_crop_peaks_in_its_cell_of_the_image(
    width: int, height: int, corner: tuple[int, int]
) -> None:
    raw = np.zeros((7, 7), dtype=np.float32)
    raw[corner] = 1.0
    side = 0.875 * min(width, height)
    x0, y0 = (width - side) / 2, (height - side) / 2
    placed = place(raw, (x0, y0, x0 + side, y0 + side), (width, height), signed=False)
    peak = map_scores(raw, placed)["peak"]
    assert isinstance(peak, list)
    # From the border cell's centre to the crop's border the map is even: its middle is a quarter cell in.
    for position, start, cell in ((peak[0], x0, corner[1]), (peak[1], y0, corner[0])):
        middle = start + (0.25 if cell == 0 else 6.75) * side / 7
        assert position + 0.5 == pytest.approx(middle, abs=1.0)


def test_what_was_not_seen_counts_nowhere() -> None:
    raw = np.ones((4, 4), dtype=np.float32)
    raw[1:3, 1:3] = 1.001
    scores = map_scores(raw, place(raw, (10.0, 5.0, 30.0, 25.0), (50, 40), signed=False))
    assert scores["box_xywh"] == [10, 5, 20, 20]
    assert scores["peak"] == [19, 14]
    assert scores["entropy"] == pytest.approx(1.0, abs=1e-6)
    assert scores["area_above_half"] == scores["energy_in_box"] == 1.0


@pytest.mark.parametrize("signed", [False, True])
def test_a_map_that_is_zero_everywhere_is_flat_and_has_no_peak(signed: bool) -> None:
    scores = scores_of([[0.0] * 5] * 4, signed=signed)
    assert scores == {"min": 0.0, "max": 0.0, "mean": 0.0, **dict.fromkeys(UNDEFINED), "flat": True}


@pytest.mark.parametrize("value", [-3.0, 1e-30, 8.777])
def test_a_map_that_is_the_same_everywhere_is_flat(value: float) -> None:
    scores = scores_of([[value] * 5] * 4, signed=True)
    assert scores["flat"] is True
    assert scores["max"] == pytest.approx(value, rel=1e-6)
    assert {key: scores[key] for key in UNDEFINED} == dict.fromkeys(UNDEFINED)


def test_a_map_with_nothing_for_the_class_has_no_peak_but_is_not_flat() -> None:
    scores = scores_of([[-1.0, 0.0], [-2.0, -5.0]], signed=True)
    assert scores == {"min": -5.0, "max": 0.0, "mean": -2.0, **dict.fromkeys(UNDEFINED)}


@pytest.mark.parametrize("unit", [1e-42, 1e-20, 1.0, 3e38])
def test_scores_are_the_same_in_every_unit_and_plain_json(unit: float) -> None:
    raw = np.random.default_rng(3).random((40, 50), dtype=np.float32)
    scores = map_scores(raw * np.float32(unit), whole(raw * np.float32(unit)))
    plain = map_scores(raw, whole(raw))
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    for name in UNDEFINED:
        # Numbers as small as 1e-42 have ten bits left.
        assert scores[name] == pytest.approx(plain[name], rel=0.01 if unit < 1e-38 else 1e-5), name


def test_raw_values_that_are_not_finite_have_no_figures() -> None:
    raw = np.array([[1.0, np.nan]], dtype=np.float32)
    scores = map_scores(raw, whole(np.array([[1.0, 0.0]], dtype=np.float32)))
    assert scores["min"] is scores["max"] is scores["mean"] is None
    assert scores["peak"] == [0, 0]


def test_a_large_noisy_map_has_room_for_all_its_regions() -> None:
    raw = np.zeros((600, 600), dtype=np.float32)
    raw[::2, ::2] = 1.0
    raw[500, 500:503] = 1.0
    assert map_scores(raw, whole(raw))["box_xywh"] == [500, 500, 3, 1]


def peak_by_definition(placed: PlacedMap) -> list[int]:
    """The middle of the largest region of all pixels that tie with the maximum, looked for on the whole photograph."""
    x0, y0, x1, y1 = placed.seen
    seen = placed.values[y0:y1, x0:x1]
    region = max(flood_fill((seen >= seen.max() * np.float32(1.0 - 1e-6)).tolist()), key=len)
    middle_y, middle_x = (sum(each) / len(region) for each in zip(*region, strict=True))
    y, x = min(region, key=lambda at: ((at[0] - middle_y) ** 2 + (at[1] - middle_x) ** 2, at))
    return [x0 + x, y0 + y]


CELLS = {
    "noise": np.random.default_rng(5).normal(size=(4, 5)),
    "positive": np.random.default_rng(6).random((4, 5)),
    "tied corners": [[3, 0, 0, 3], [0, 1, 2, 0], [3, 0, 0, 0]],
    "tied middle": [[0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 2], [0, 0, 0, 0]],
    "tied row": [[1, 2, 2, 2, 1], [0, -4, 1, 0, 0], [2, 0, 0, 0, 1]],
    "large negative": [[-5000, 1, 1], [1, -5000, 1], [0.5, 1, 1]],
    "one column": [[0], [2], [2], [1]],
    "one peak": [[0, 0, 0], [0, 0, 7]],
}


@pytest.mark.parametrize("rect", [(0.0, 0.0, 160.0, 120.0), (35.5, 7.5, 122.5, 111.5), (-20.0, 13.0, 140.0, 133.0)])
@pytest.mark.parametrize("cells", CELLS)
def test_the_peak_of_large_cells_is_that_of_all_pixels(cells: str, rect: tuple[float, float, float, float]) -> None:
    raw = np.array(CELLS[cells], dtype=np.float32)
    placed = place(raw, rect, (160, 120), signed=True)
    assert placed.strips is not None
    scores = map_scores(raw, placed)
    assert scores["peak"] == peak_by_definition(placed)
    share = np.maximum(placed.values, 0).astype(np.float64) / placed.values.max()
    x0, y0, x1, y1 = placed.seen
    p = share[y0:y1, x0:x1] / share.sum()
    weighted = (p[p > 0] * np.log(p[p > 0])).sum()
    assert scores["entropy"] == pytest.approx(-weighted / math.log(p.size), rel=1e-5)
    assert scores["area_above_half"] == pytest.approx((share[y0:y1, x0:x1] >= 0.5).mean(), abs=1e-4)
