"""Insertion, deletion and ROAD against curves that are made anew in float64, and cases known by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from cnnviz.errors import CnnvizError
from cnnviz.metrics import faithfulness_road
from cnnviz.metrics.faithfulness import own_blur, pixel_order, replacement
from cnnviz.metrics.faithfulness_road import imputed
from tests.support.explained import SIDE, distinct_maps, exact, images, measured, metric, small

CLASSES = [2, 0, 3]


def filled_with(pixels: np.ndarray, kind: str) -> np.ndarray:
    """What replaces an image [C, H, W], in float64."""
    if kind == "zero":
        return np.zeros_like(pixels)
    if kind == "mean":
        return np.broadcast_to(pixels.mean((1, 2), keepdims=True), pixels.shape)
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = gaussian_filter(delta, 5)  # as the reference implementation makes it
    padded = np.pad(pixels, ((0, 0), (5, 5), (5, 5)))
    found = np.zeros_like(pixels)
    for row in range(11):
        for column in range(11):
            found += kernel[row, column] * padded[:, row : row + SIDE, column : column + SIDE]
    return found


def curve(score: Callable[[Tensor], Tensor], ends: tuple[np.ndarray, np.ndarray], map_: np.ndarray, steps: int) -> Any:
    """The area and the curve, one step after the other."""
    before, after = ends
    order = sorted(range(map_.size), key=lambda at: -map_.flat[at])
    now, found, at = before.copy(), [], 0
    for step in range(steps + 1):
        while at < map_.size * step // steps:
            row, column = divmod(order[at], SIDE)
            now[:, row, column] = after[:, row, column]
            at += 1
        found.append(float(score(torch.from_numpy(now)[None])))
    return (sum(found) - found[0] / 2 - found[-1] / 2) / steps, found


@pytest.mark.parametrize("replace", ["zero", "blur", "mean"])
@pytest.mark.parametrize("name", ["insertion", "deletion"])
def test_curves_are_those_of_the_paper(name: str, replace: str) -> None:
    network, pixels, maps = small(), images(3), distinct_maps(3)
    rows = measured(name, network, pixels, maps, CLASSES, steps=8, replace=replace, baselines=False)
    for image, map_, wanted, row in zip(pixels.double().numpy(), maps, CLASSES, rows, strict=True):
        other = filled_with(image, replace)
        ends = (image, other) if name == "deletion" else (other, image)
        area, expected = curve(lambda x, c=wanted: exact(network)(x).softmax(1)[0, c], ends, map_, 8)
        assert row["curve"] == pytest.approx(expected, abs=2e-6)
        assert row["area"] == pytest.approx(area, abs=1e-6)
        assert row["unit"] == "probability"
        assert "blurred" not in row


@pytest.mark.parametrize("name", ["insertion", "deletion", "road"])
def test_the_blurred_copy_is_a_map_like_any_other(name: str) -> None:
    network, pixels, maps = small(), images(2), distinct_maps(2)
    figure = "difference" if name == "road" else "area"
    rows = measured(name, network, pixels, maps, CLASSES[:2])
    smooth = measured(name, network, pixels, [own_blur(each) for each in maps], CLASSES[:2], baselines=False)
    better = -1 if name == "deletion" else 1
    for row, other in zip(rows, smooth, strict=True):
        assert row["blurred"] == pytest.approx(other[figure], abs=1e-6)
        assert row["over_blurred"] == pytest.approx(better * (row[figure] - other[figure]), abs=1e-6)


def test_a_blurred_copy_is_under_a_gaussian_of_a_sixteenth() -> None:
    [map_] = distinct_maps(1)
    assert own_blur(map_) == pytest.approx(gaussian_filter(map_.astype(float), 2, mode="nearest", radius=6), abs=1e-6)


class Quarter(nn.Module):
    """One logit: four times the mean of the image's upper left quarter, so 4 for an image of ones and 0 for zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.weight * x[:, :, : SIDE // 2, : SIDE // 2].mean((1, 2, 3))[:, None]


ALL, NONE = 1 / (1 + np.exp(-4)), 0.5


@pytest.mark.parametrize(
    ("name", "sign", "expected"),
    [
        ("deletion", 1, [ALL, NONE, NONE, NONE, NONE]),
        ("deletion", -1, [ALL, ALL, ALL, ALL, NONE]),
        ("insertion", 1, [NONE, ALL, ALL, ALL, ALL]),
        ("insertion", -1, [NONE, NONE, NONE, NONE, ALL]),
    ],
)
def test_a_perfect_and_an_inverted_map(name: str, sign: int, expected: list[float]) -> None:
    perfect = np.zeros((SIDE, SIDE), np.float32)
    perfect[: SIDE // 2, : SIDE // 2] = 1
    [row] = measured(name, Quarter(), torch.ones(1, 3, SIDE, SIDE), [sign * perfect], [1], steps=4, replace="zero")
    assert row["curve"] == pytest.approx(expected, abs=2e-6)
    first, *others, last = expected
    assert row["area"] == pytest.approx((first / 2 + sum(others) + last / 2) / 4, abs=2e-6)


def test_a_map_without_contrast_changes_pixels_in_a_random_order() -> None:
    """A quarter of what is left goes with every quarter of the pixels, whichever these are."""
    ones = torch.ones(1, 3, SIDE, SIDE)
    flat = np.full((SIDE, SIDE), 0.3, np.float32)
    found = [measured("deletion", Quarter(), ones, [flat], [1], steps=4, seed=seed)[0] for seed in (0, 0, 1)]
    expected = [1 / (1 + np.exp(-4 * left)) for left in (1, 0.75, 0.5, 0.25, 0)]
    for row in found:
        assert row["curve"] == pytest.approx(expected, abs=0.03)
    assert found[0] == found[1]
    assert found[0]["curve"][1:4] != found[2]["curve"][1:4]


def test_plateaus_of_rounding_are_plateaus() -> None:
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    values = np.repeat(np.float32([3, 1e-5, 0, -2]), 256) * (1 + 4e-8 * rng.standard_normal(1024))
    ranks = pixel_order(values.reshape(32, 32), generator).flatten().numpy()
    assert sorted(ranks) == list(range(1024))
    for part in range(4):
        own = ranks[256 * part : 256 * (part + 1)]
        assert sorted(own) == list(range(256 * part, 256 * (part + 1)))
        assert abs(np.corrcoef(own, -values[256 * part : 256 * (part + 1)])[0, 1] if part != 2 else 0) < 0.3


# ROAD.


def system(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The imputation as one dense system of linear equations over all pixels."""
    height, width = missing.shape
    matrix, right = np.eye(height * width), image.reshape(3, -1).T.copy()
    for row, column in zip(*np.nonzero(missing), strict=True):
        here = row * width + column
        weights = {}
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                inside = 0 <= row + down < height and 0 <= column + across < width
                if inside and (down or across):
                    weights[(row + down) * width + column + across] = 1 / 6 if down * across == 0 else 1 / 12
        right[here] = 0
        for there, weight in weights.items():
            matrix[here, there] = -weight / sum(weights.values())
    return np.linalg.solve(matrix, right).T.reshape(image.shape)


def masks() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    scattered = torch.rand((SIDE, SIDE), generator=generator) < 0.9
    hole = torch.ones(SIDE, SIDE, dtype=torch.bool)
    hole[::31] = hole[:, ::31] = False
    corner = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    corner[:20, 5:] = True
    one = torch.ones(SIDE, SIDE, dtype=torch.bool)
    one[3, 30] = False
    return torch.stack([scattered, hole, corner, one, torch.zeros(SIDE, SIDE, dtype=torch.bool)])


@pytest.mark.parametrize(("tolerance", "near"), [(None, 0.02), (1e-7, 1e-4)])
def test_missing_pixels_are_means_of_their_neighbours(
    tolerance: float | None, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tolerance is not None:
        monkeypatch.setattr(faithfulness_road, "_TOLERANCE", tolerance)
    [image], missing = images(1), masks()
    found = imputed(image.expand(len(missing), -1, -1, -1), missing)
    for each, mask in zip(found, missing, strict=True):
        expected = system(image.double().numpy(), mask.numpy())
        assert each.numpy() == pytest.approx(expected, abs=near * float(np.ptp(image.numpy())))
        assert torch.equal(each[:, ~mask], image[:, ~mask])


def test_sides_that_are_not_even() -> None:
    image, missing = images(1)[:, :, :29, :21], masks()[:1, :29, :21]
    expected = system(image[0].double().numpy(), missing[0].numpy())
    assert imputed(image, missing)[0].numpy() == pytest.approx(expected, abs=0.02 * float(np.ptp(image.numpy())))


def test_road_removes_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithfulness_road, "_TOLERANCE", 1e-7)
    network, pixels, maps = small(), images(2), distinct_maps(2)
    options = {"percentages": "50+20", "noise": 0.0, "baselines": False}
    rows = measured("road", network, pixels, maps, CLASSES[:2], **options)
    for image, map_, wanted, row in zip(pixels.double().numpy(), maps, CLASSES, rows, strict=False):
        curves = []
        for sign in (1, -1):
            order = np.argsort(-sign * map_.ravel()).argsort().reshape(map_.shape)
            removed = [system(image, order < round(share * map_.size)) for share in (0.2, 0.5)]
            scores = exact(network)(torch.from_numpy(np.stack(removed))).softmax(1)
            curves.append(scores[:, wanted].tolist())
        assert row["percentages"] == [20, 50]
        assert row["most_relevant_first_curve"] == pytest.approx(curves[0], abs=1e-5)
        assert row["least_relevant_first_curve"] == pytest.approx(curves[1], abs=1e-5)
        assert row["most_relevant_first"] == pytest.approx(np.mean(curves[0]), abs=1e-5)
        assert row["least_relevant_first"] == pytest.approx(np.mean(curves[1]), abs=1e-5)
        assert row["difference"] == pytest.approx(np.mean(curves[1]) - np.mean(curves[0]), abs=2e-5)


def test_road_of_a_perfect_and_an_inverted_map() -> None:
    """A bright disc on black: without it nothing is left of the score; without the rest, everything."""
    row, column = np.indices((SIDE, SIDE)) - 7.5
    perfect = np.float32(10 - np.hypot(row, column))
    bright = np.tile(np.float32(perfect > 5), (3, 1, 1))
    for sign in (1, -1):
        [found] = measured("road", Quarter(), torch.from_numpy(bright)[None], [sign * perfect], [1], percentages="15")
        assert found["difference"] * sign > 0.2
    noisy = [measured("road", Quarter(), torch.from_numpy(bright)[None], [perfect], [1], seed=s)[0] for s in (0, 0, 1)]
    assert noisy[0] == noisy[1]
    assert 0 < abs(noisy[0]["most_relevant_first"] - noisy[2]["most_relevant_first"]) < 0.01


@pytest.mark.parametrize("text", ["", "10,20", "0+50", "50+100", "ten"])
def test_percentages_that_are_none(text: str) -> None:
    with pytest.raises(CnnvizError, match=r"expected (numbers above 0 and below 100|a word)"):
        metric("road", percentages=text)


def test_the_blur_takes_the_image_as_surrounded_by_zeros() -> None:
    [image] = images(1)
    expected = filled_with(image.double().numpy(), "blur")
    assert replacement(image, "blur").numpy() == pytest.approx(expected, abs=1e-6)
