"""Maps on the pixels of the image, against slow float64 formulas and PyTorch's own interpolation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnnviz.errors import ImageError
from cnnviz.geometry.placement import Rect, place


def random_map(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


def bilinear_at(raw: NDArray[np.float32], rect: Rect, x: int, y: int) -> float:
    """One pixel by the textbook formula: four neighbours, clamped at the border."""
    h, w = raw.shape
    x0, y0, x1, y1 = rect
    u: float = min(max((x + 0.5 - x0) * w / (x1 - x0) - 0.5, 0.0), w - 1.0)
    v: float = min(max((y + 0.5 - y0) * h / (y1 - y0) - 0.5, 0.0), h - 1.0)
    j, i = math.floor(u), math.floor(v)
    j2, i2 = min(j + 1, w - 1), min(i + 1, h - 1)
    a, b = u - j, v - i
    top = float(raw[i, j]) * (1 - a) + float(raw[i, j2]) * a
    bottom = float(raw[i2, j]) * (1 - a) + float(raw[i2, j2]) * a
    return top * (1 - b) + bottom * b


def area_at(raw: NDArray[np.float32], rect: Rect, x: int, y: int) -> float:
    """One pixel as the mean of the map over the pixel's square, cell by cell."""
    h, w = raw.shape
    x0, y0, x1, y1 = rect
    total = covered = 0.0
    for i in range(h):
        for j in range(w):
            left, right = x0 + j * (x1 - x0) / w, x0 + (j + 1) * (x1 - x0) / w
            top, bottom = y0 + i * (y1 - y0) / h, y0 + (i + 1) * (y1 - y0) / h
            overlap = max(0.0, min(right, x + 1) - max(left, x)) * max(0.0, min(bottom, y + 1) - max(top, y))
            total += overlap * float(raw[i, j])
            covered += overlap
    return total / covered


@pytest.mark.parametrize(
    ("rect", "size"),
    [
        ((0.0, 0.0, 20.0, 15.0), (20, 15)),
        ((3.0, 2.0, 17.0, 13.0), (20, 15)),
        ((2.5, -4.2, 11.3, 21.7), (13, 17)),
        ((-6.0, -6.0, 30.0, 30.0), (24, 24)),
        ((4.4, 0.6, 19.5, 29.49), (21, 30)),
    ],
)
def test_enlarging_is_bilinear_at_pixel_centres(rect: Rect, size: tuple[int, int]) -> None:
    raw = random_map(5, 7)
    placed = place(raw, rect, size, signed=True)
    width, height = size
    for y in range(height):
        for x in range(width):
            seen = rect[0] <= x + 0.5 < rect[2] and rect[1] <= y + 0.5 < rect[3]
            expected = bilinear_at(raw, rect, x, y) if seen else 0.0
            assert placed.values[y, x] == pytest.approx(expected, abs=1e-6)
            x0, y0, x1, y1 = placed.seen
            assert (x0 <= x < x1 and y0 <= y < y1) == seen


@pytest.mark.parametrize(
    ("cells", "size"), [((7, 7), (500, 375)), ((7, 7), (224, 224)), ((14, 10), (33, 90)), ((1, 1), (8, 5))]
)
def test_a_map_of_the_whole_image_equals_interpolate(cells: tuple[int, int], size: tuple[int, int]) -> None:
    raw = random_map(*cells)
    placed = place(raw, (0, 0, *size), size, signed=True)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(raw).double()[None, None], size=size[::-1], mode="bilinear", align_corners=False
    )[0, 0]
    assert placed.seen == (0, 0, *size)
    assert placed.values.dtype == np.float32
    np.testing.assert_allclose(placed.values, expected.numpy(), atol=2e-6)


def test_cell_one_of_seven_peaks_at_its_centre_and_not_where_aligned_corners_put_it() -> None:
    raw = np.zeros((7, 7), dtype=np.float32)
    raw[0, 1] = 1.0
    values = place(raw, (0, 0, 224, 224), (224, 224), signed=False).values
    assert set(np.flatnonzero(values[0] == values[0].max())) <= {47, 48}
    assert values.min() == 0.0


@pytest.mark.parametrize(
    ("rect", "size"),
    [((0.0, 0.0, 9.0, 6.0), (9, 6)), ((1.3, 0.8, 7.9, 5.1), (9, 6)), ((-2.5, 1.0, 9.5, 8.0), (9, 6))],
)
def test_shrinking_averages_over_the_area_of_the_pixel(rect: Rect, size: tuple[int, int]) -> None:
    raw = random_map(23, 31)
    placed = place(raw, rect, size, signed=True)
    x0, y0, x1, y1 = placed.seen
    for y in range(y0, y1):
        for x in range(x0, x1):
            assert placed.values[y, x] == pytest.approx(area_at(raw, rect, x, y), abs=1e-6)


def test_shrinking_keeps_the_mass_and_its_centre() -> None:
    raw = np.zeros((224, 224), dtype=np.float32)
    raw[10:13, 200:207] = np.abs(random_map(3, 7))
    placed = place(raw, (0, 0, 100, 80), (100, 80), signed=False)
    scale = (224 / 100) * (224 / 80)
    assert placed.values.sum() * scale == pytest.approx(raw.sum(), rel=1e-5)
    expected = (raw.sum(axis=0) @ (np.arange(224) + 0.5)) / raw.sum() * 100 / 224
    actual = (placed.values.sum(axis=0) @ (np.arange(100) + 0.5)) / placed.values.sum()
    assert actual == pytest.approx(expected, abs=0.5)


def test_one_axis_may_shrink_while_the_other_grows() -> None:
    raw = random_map(4, 40)
    values = place(raw, (0, 0, 10, 12), (10, 12), signed=True).values
    columns = raw.reshape(4, 10, 4).mean(axis=2)
    for y in range(12):
        for x in range(10):
            expected = bilinear_at(columns, (0, 0, 10, 12), x, y)
            assert values[y, x] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("width", "height"), [(400, 100), (100, 400), (150, 150)])
@pytest.mark.parametrize("corner", [(0, 0), (0, 6), (6, 0), (6, 6)])
def test_a_corner_of_a_centre_crop_lands_on_the_same_corner_of_the_image(
    width: int, height: int, corner: tuple[int, int]
) -> None:
    raw = np.zeros((7, 7), dtype=np.float32)
    raw[corner] = 1.0
    side = 0.875 * min(width, height)
    x0, y0 = (width - side) / 2, (height - side) / 2
    placed = place(raw, (x0, y0, x0 + side, y0 + side), (width, height), signed=False)
    y, x = np.unravel_index(int(placed.values.argmax()), placed.values.shape)
    # Up to the border the corner's value goes on: the maximum lies between the crop's border and the centre.
    for position, start, cell in ((x, x0, corner[1]), (y, y0, corner[0])):
        centre = start + (cell + 0.5) * side / 7
        border = start if cell == 0 else start + side
        assert min(centre, border) - 0.5 <= position + 0.5 <= max(centre, border) + 0.5
    assert placed.values[:, : placed.seen[0]].sum() == 0.0
    assert placed.values[: placed.seen[1]].sum() == 0.0


def test_no_minimum_is_subtracted_and_nothing_is_quantised() -> None:
    raw = np.full((7, 7), 3.25, dtype=np.float32)
    raw[3, 3] = 3.25001
    values = place(raw, (0, 0, 70, 70), (70, 70), signed=False).values
    assert values.min() == pytest.approx(3.25, abs=1e-6)
    assert len(np.unique(values)) > 10
    assert float(values.max()) == pytest.approx(float(raw[3, 3]), abs=2e-6)


def test_an_image_of_one_pixel_and_a_sliver_between_two_pixel_centres_are_seen() -> None:
    raw = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert place(raw, (0.06, 0.06, 0.94, 0.94), (1, 1), signed=False).values == pytest.approx(4.0)
    sliver = place(raw, (0.0, 249.6, 1.0, 250.4), (1, 500), signed=False)
    assert sliver.seen == (0, 249, 1, 251)
    # Each of the two pixels holds one and a half of the rows, whose means are 1, 4 and 7.
    upper, lower = (1.0 + 0.5 * 4.0) / 1.5, (0.5 * 4.0 + 7.0) / 1.5
    assert sliver.values[248:252, 0] == pytest.approx([0.0, upper, lower, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_error_and_not_a_smear(bad: float) -> None:
    raw = random_map(7, 7)
    raw[2, 3] = bad
    with pytest.raises(ImageError, match="NaN or infinity") as caught:
        place(raw, (0, 0, 30, 20), (30, 20), signed=True)
    assert caught.value.kind == "not-finite"


@pytest.mark.parametrize("rect", [(30.0, 0.0, 40.0, 20.0), (0.0, 5.0, 10.0, 5.0), (0.0, 0.0, math.nan, 5.0)])
def test_a_rectangle_beside_the_image_is_refused(rect: Rect) -> None:
    with pytest.raises(ValueError, match="does not touch"):
        place(random_map(7, 7), rect, (30, 20), signed=True)
