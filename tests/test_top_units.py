"""The strongest positions and patches, against sorting every activation of every image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.studies.top_patches.selectivity import selectivity
from cnnviz.studies.top_patches.top_units import TopUnits, overlapping, strongest
from cnnviz.studies.top_patches.unit_gradients import unit_gradients
from tests.support import tiny_model

SIZE, STRIDE, SHAPE = (9, 7), (4, 3), (5, 6)


def activations(count: int, seed: int = 0, levels: int = 12) -> torch.Tensor:
    """[N, 8, 5, 6] of few distinct values, so that equals are everywhere; unit 3 never fires."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, levels, (count, 8, *SHAPE), generator=generator).float() / 4
    values[:, 3] = -values[:, 3].abs()
    return values


def iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Of the receptive fields of two positions, by counting pixels."""
    fields = [
        {(y, x) for y in range(r * STRIDE[0], r * STRIDE[0] + SIZE[0])
         for x in range(c * STRIDE[1], c * STRIDE[1] + SIZE[1])}
        for r, c in (a, b)
    ]  # fmt: skip
    return len(fields[0] & fields[1]) / len(fields[0] | fields[1])


def suppressed_by_hand(image: np.ndarray, count: int, most: float) -> list[tuple[float, int]]:
    """Greedy suppression on one unit's map [h, w]."""
    order = sorted(((-float(v), p) for p, v in enumerate(image.ravel())), key=lambda pair: pair)
    taken: list[tuple[float, int]] = []
    for negative, place in order:
        here = divmod(place, SHAPE[1])
        if len(taken) < count and all(iou(here, divmod(other, SHAPE[1])) <= most for _, other in taken):
            taken.append((-negative, place))
    return taken


def brute_force(
    values: np.ndarray, numbers: list[int], keep: int, count: int, most: float
) -> list[list[tuple[float, int, int]]]:
    """For each unit the first ``keep`` of all candidates of all images by (value falling, input order, position)."""
    found = []
    for unit in range(values.shape[1]):
        every = [
            (-value, order, place)
            for order in range(len(numbers))
            for value, place in suppressed_by_hand(values[order, unit], count, most)
        ]
        found.append([(-v, numbers[order], place) for v, order, place in sorted(every)[:keep]])
    return found


@pytest.mark.parametrize(("per_image", "most"), [(1, 0.0), (3, 0.0), (2, 0.2), (4, 0.45), (3, 1.0)])
@pytest.mark.parametrize("batch", [1, 4, 11])
def test_top_patches_equal_sorting_everything(per_image: int, most: float, batch: int) -> None:
    values = activations(11)
    numbers = [3 * index + 2 for index in range(11)]
    table = overlapping(SIZE, STRIDE, SHAPE, most)
    top = TopUnits(8, 5)
    for start in range(0, 11, batch):
        value, place = strongest(values[start : start + batch], per_image, table)
        for offset in range(len(value)):
            top.fold(numbers[start + offset], value[offset].numpy(), place[offset].numpy())
    expected = brute_force(values.numpy(), numbers, 5, per_image, most)
    got = [
        list(zip(*rows, strict=True))
        for rows in zip(top.values.tolist(), top.images.tolist(), top.positions.tolist(), strict=True)
    ]
    assert got == expected
    assert top.fired.tolist() == (values.numpy().max(axis=(2, 3)) > 0).sum(0).tolist()
    assert top.fired[3] == 0


@pytest.mark.parametrize("most", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_overlap_equals_counting_pixels(most: float) -> None:
    table = overlapping(SIZE, STRIDE, SHAPE, most)
    for row in range(SHAPE[0]):
        for col in range(SHAPE[1]):
            assert table[row, col] == (iou((0, 0), (row, col)) > most or (row, col) == (0, 0))


def test_places_that_are_left_over_are_none() -> None:
    values = activations(4)
    value, place = strongest(values, 3, overlapping((100, 100), (1, 1), SHAPE, 0.5))
    assert torch.equal(value[..., 0], values.flatten(2).amax(2))
    assert bool((value[..., 1:] == -torch.inf).all())
    assert bool((place[..., 1:] == -1).all())
    top = TopUnits(8, 9)
    for index in range(4):
        top.fold(index, value[index].numpy(), place[index].numpy())
    assert (np.sort(top.images[:, :4]) == [0, 1, 2, 3]).all()
    assert (top.images[:, 4:] == -1).all()
    assert (top.positions[:, 4:] == -1).all()
    assert (top.values[:, 4:] == -np.inf).all()


def test_the_layout_in_memory_does_not_matter() -> None:
    values = activations(3)
    for per_image in (1, 2):
        expected = strongest(values, per_image)
        got = strongest(values.contiguous(memory_format=torch.channels_last), per_image)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_without_a_field_only_the_position_itself_is_left_out() -> None:
    values = activations(3)
    value, place = strongest(values, 4)
    assert torch.equal(value, values.flatten(2).sort(dim=2, descending=True, stable=True).values[..., :4])
    assert all(len(set(row)) == 4 for row in place.flatten(0, 1).tolist())


def test_what_is_kept_does_not_grow() -> None:
    top = TopUnits(8, 3)
    before = top.values.nbytes + top.images.nbytes + top.positions.nbytes
    for seed in range(20):
        value, place = strongest(activations(1, seed), 2)
        top.fold(seed, value[0].numpy(), place[0].numpy())
    assert top.values.nbytes + top.images.nbytes + top.positions.nbytes == before == 8 * 3 * 20


@pytest.mark.parametrize("rule", ["backprop", "deconvnet", "guided"])
def test_gradients_of_single_units_by_hand(rule: str) -> None:
    """conv -> bn -> ReLU -> conv of the tiny network: the chain rule written out with transposed convolutions."""
    module = tiny_model.make()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    units, positions = torch.tensor([2, 11, 0]), torch.tensor([0, 7, 15])
    options = SessionOptions(Cut.at_image("3"), private=False)
    with open_session(module, "tiny", (3, 32, 32), rt.resolve("cpu", "fp32"), options) as session:
        got = unit_gradients(session.forward(pixels), units, positions, rule)
    wide: Any = module.double()
    x = pixels.double()
    with torch.no_grad():
        before = wide[1](wide[0](x))
        start = torch.zeros(3, 12, 4, 4, dtype=torch.float64)
        start.flatten(2)[torch.arange(3), units, positions] = 1.0
        back = torch.nn.functional.conv_transpose2d(start, wide[3].weight, stride=2, padding=1, output_padding=1)
        gate = {"backprop": before > 0, "deconvnet": back > 0, "guided": (before > 0) & (back > 0)}[rule]
        back = back * gate * (wide[1].weight / (wide[1].running_var + wide[1].eps).sqrt())[:, None, None]
        expected = torch.nn.functional.conv_transpose2d(back, wide[0].weight, stride=4, padding=2, output_padding=3)
    assert expected.abs().amax() > 0
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6)


def test_selectivity_by_hand() -> None:
    found = selectivity(["b", "a", None, "a", "b", "c", None])
    assert found is not None
    assert (found.label, found.purity, found.count) == ("b", 0.4, 5)
    assert found.entropy == pytest.approx(-(0.8 * math.log2(0.4) + 0.2 * math.log2(0.2)))
    pure = selectivity(["x"] * 4)
    assert pure is not None
    assert (pure.purity, pure.entropy) == (1.0, 0.0)
    assert selectivity([None, None]) is None
    assert selectivity([]) is None


def test_joined_shares_are_all_images_folded_in_order() -> None:
    """With many equal values, of which the image that came first stands first, in whichever share it is."""
    generator = np.random.default_rng(4)
    units, keep, several, images = 6, 5, 2, 40
    values = -np.sort(-generator.integers(-1, 4, (images, units, several)).astype(np.float32), axis=2)
    values[generator.random(values.shape) < 0.2] = -np.inf
    values = -np.sort(-values, axis=2)
    positions = np.sort(generator.integers(0, 49, (images, units, several)), axis=2)
    whole, joined = TopUnits(units, keep), TopUnits(units, keep)
    shares = [TopUnits(units, keep) for _ in range(3)]
    for image in range(images):
        for top in (whole, shares[generator.integers(3)]):
            top.fold(image, values[image], positions[image])
    for share in (shares[2], shares[0], shares[1]):
        joined.join(share.values, share.images, share.positions)
    np.testing.assert_array_equal(joined.values, whole.values)
    np.testing.assert_array_equal(joined.images, whole.images)
    known = whole.images >= 0
    np.testing.assert_array_equal(joined.positions[known], whole.positions[known])
