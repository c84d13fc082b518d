"""Sobol indices and HSIC against closed forms of additive and multiplicative scores, and the formulas in NumPy.

Their stated errors are compared with how far the maps of many seeds are from each other and from what is known.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.methods.paired_designs import groups_of, paired, reliability, standard_error
from cnnviz.methods.perturbation.sensitivity import _dependence
from tests.support import networks as nets

CELLS = 3
WEIGHTS = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0, 0.0, -1.0, 0.25, 1.5])


class OfCells(nn.Module):
    """Logit 0 adds up the means of the cells of a 3 x 3 grid with weights, logit 1 multiplies the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.sums = nn.Linear(9, 1, bias=False)
        with torch.no_grad():
            self.sums.weight.copy_(WEIGHTS[None])

    def forward(self, x: Tensor) -> Tensor:
        means = self.pool(x).mean(1).flatten(1)
        return torch.cat([self.sums(means), means[:, :1] * means[:, 1:2]], 1)


IMAGES = torch.ones(2, 3, 12, 12) * torch.tensor([1.0, 2.0])[:, None, None, None]


@pytest.mark.parametrize(("order", "designs"), [("total", 512), ("first", 1024)])
def test_of_a_sum_an_index_is_the_cells_share_of_the_variance(order: str, designs: int) -> None:
    found = cnnviz.explain(OfCells(), IMAGES, method="sobol", target=0, cells=CELLS, designs=designs, order=order)
    expected = (WEIGHTS**2 / (WEIGHTS**2).sum()).reshape(CELLS, CELLS)
    for i in range(2):
        torch.testing.assert_close(found.raw[i], expected, rtol=0, atol=0.02 if order == "total" else 0.06)
        # Var of w c m with m uniform.
        assert found.scores["variance"][i] == pytest.approx(float((WEIGHTS**2).sum()) * (i + 1) ** 2 / 12, rel=0.1)
        assert found.scores["sum"][i] == pytest.approx(1.0, abs=0.05 if order == "total" else 0.4)
        up = torch.repeat_interleave(torch.repeat_interleave(found.raw[i].clamp_min(0), 4, 0), 4, 1)
        torch.testing.assert_close(found.maps[i], up)


def test_of_a_product_total_indices_have_the_interaction() -> None:
    """m1 m2: Var = 7/144, of which E[m2]^2 Var m1 = 1/48 is the effect of one alone: 3/7, and 4/7 with the other."""
    for order, expected, off in (("first", 3 / 7, 0.06), ("total", 4 / 7, 0.05)):
        found = cnnviz.explain(OfCells(), IMAGES, method="sobol", target=1, cells=CELLS, designs=1024, order=order)
        assert found.raw[0].flatten()[:2].tolist() == pytest.approx([expected] * 2, abs=off)
        assert float(found.raw[0].flatten()[2:].abs().max()) < off


def test_hsic_by_its_formula() -> None:
    generator = np.random.default_rng(4)
    masks, noise = (generator.random((40, 5)) < 0.5).astype(float), generator.normal(size=40)
    answers = 2 * masks[:, 0] + masks[:, 1] * masks[:, 2] + 0.3 * noise
    found, _ = _dependence(torch.from_numpy(masks), torch.from_numpy(answers))
    n = len(answers)
    apart = np.abs(answers[:, None] - answers[None])
    pairs = sorted(apart[j, k] for j in range(n) for k in range(j + 1, n))
    width = pairs[(len(pairs) - 1) // 2]
    centring = np.eye(n) - 1 / n
    for i in range(5):
        same = (masks[:, i, None] == masks[None, :, i]).astype(float)
        like = np.exp(-(apart**2) / (2 * width**2))
        expected = np.trace(same @ centring @ like @ centring) / (n - 1) ** 2
        assert float(found[i]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("equal", "known"), [(0.5, True), (0.85, False)])
def test_hsic_where_few_masks_differ_does_not_know_its_reliability(equal: float, known: bool) -> None:
    """A probability that most masks leave at 1: maps of seeds correlate by 0.2, where 0.86 was stated."""
    drawn = np.random.default_rng(3)
    masks = drawn.integers(0, 2, (100, 49)).astype(np.float64)
    score = masks[:, :7].sum(1) + drawn.normal(0, 0.1, 100)
    answers = np.maximum(score, np.quantile(score, equal))
    stated = _dependence(torch.from_numpy(masks), torch.from_numpy(answers))[1]
    assert math.isfinite(stated["standard_error"])
    assert math.isfinite(stated["reliability"]) is known


def test_hsic_ranks_cells_by_how_much_the_score_depends_on_them() -> None:
    found = cnnviz.explain(OfCells(), IMAGES, method="hsic", target=0, cells=CELLS, masks=600)
    values = found.raw[0].flatten()
    order = [int(each) for each in torch.argsort(values, descending=True)]
    assert order[:3] == [4, 2, 8]
    unused = {0, 5, 7}  # without weight, or nearly
    assert set(order[-3:]) == unused
    assert found.scores["floor"][0] == pytest.approx(float(values.min()))
    assert float(found.maps[0].min()) == 0.0
    # Both images have the same masks, and scores that differ by a factor, of which the criterion is free.
    torch.testing.assert_close(found.raw[0], found.raw[1], rtol=1e-4, atol=1e-6)


def test_a_score_that_nothing_changes_has_no_indices() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    nn.init.zeros_(network[2].weight)
    for method, options in (("sobol", {"designs": 4}), ("hsic", {"masks": 20})):
        found = cnnviz.explain(network, nets.images(), method=method, target=0, cells=2, **options)
        assert not bool(found.raw.any())


@pytest.mark.parametrize("count", [2, 7, 8, 30, 32, 100])
def test_each_pair_of_coordinates_covers_the_square_evenly(count: int) -> None:
    first, second = paired(count, 20, seed=1)
    assert first.shape == second.shape == (count, 20)
    groups = groups_of(count)
    assert [point for group in groups for point in group] == list(range(count))
    assert len(groups) == (4 if count >= 8 else 1)
    for group in groups:
        size = len(group)
        if size & (size - 1):
            continue
        a, b = first[group.start : group.stop], second[group.start : group.stop]
        for half in (a, b):  # one point in each strip
            assert torch.equal((half * size).long().sort(0).values, torch.arange(size)[:, None].expand(size, 20))
        side = int(size**0.5)
        if side * side == size:  # one point in each cell
            cells = ((a * side).long() * side + (b * side).long()).sort(0).values
            assert torch.equal(cells, torch.arange(size)[:, None].expand(size, 20))
    assert not torch.equal(paired(count, 20, seed=2)[0], first)
    assert torch.equal(paired(count, 20, seed=1)[0], first)


class OfPairs(nn.Module):
    """A score of the means of 4 x 4 cells, minus a half: their sum with weights, and products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(3)
        self.pool = nn.AvgPool2d(2)
        self.alone = nn.Parameter(torch.from_numpy(random.exponential(size=16)).float(), requires_grad=False)
        self.two = nn.Parameter(torch.from_numpy(np.triu(random.normal(size=(16, 16)), 1)).float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.pool(x).mean(1).flatten(1) - 0.5
        score = z @ self.alone + ((z @ self.two) * z).sum(1)
        return torch.stack([score, -score], 1)

    def indices(self) -> np.ndarray:
        """Total ones: z_i has variance v = 1/12, a product of two v^2."""
        alone, two = self.alone.numpy().astype(float), self.two.numpy().astype(float)
        both = two**2 / 144
        parts = alone**2 / 12 + both.sum(0) + both.sum(1)
        return parts / ((alone**2).sum() / 12 + both.sum())


def _of_seeds(method: str, **options: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of 40 seeds [40, 16], and what is stated: [40, 2], squared error and reliability."""
    network, image = OfPairs(), torch.ones(1, 3, 8, 8)
    values, stated = [], []
    for seed in range(40):
        found = cnnviz.explain(network, image, method=method, target=0, cells=4, seed=seed, **options)
        values.append(found.raw[0].flatten().numpy())
        stated.append([found.scores["standard_error"][0] ** 2, found.scores["reliability"][0]])
    return np.array(values, dtype=float), np.array(stated)


@pytest.mark.parametrize(("method", "options"), [("sobol", {"designs": 32}), ("hsic", {"masks": 150})])
def test_the_error_that_is_stated_is_that_over_seeds(method: str, options: dict[str, int]) -> None:
    values, stated = _of_seeds(method, **options)
    square, alike = stated.mean(0)
    limit = OfPairs().indices() if method == "sobol" else values.mean(0)
    assert np.mean((values - limit) ** 2) ** 0.5 == pytest.approx(square**0.5, rel=0.2)
    between = np.corrcoef(values)[np.triu_indices(40, 1)].mean()
    assert 0.5 < between < 0.98
    assert alike == pytest.approx(between, abs=0.05)


def test_paired_points_are_better_than_columns_of_one_sequence() -> None:
    """Two columns of a Sobol sequence in many dimensions hardly cover a square by so few points."""
    weights = np.random.default_rng(0).exponential(size=16)
    shares = weights**2 / (weights**2).sum()

    def off(draw: object) -> float:
        errors = []
        for seed in range(40):
            first, second = draw(seed)  # type: ignore[operator]
            halves = (weights * (first - second).double().numpy()) ** 2 / 2
            errors.append(halves.mean(0) / ((weights**2).sum() / 12) - shares)
        return float(np.mean(np.square(errors)) ** 0.5)

    def of_one_sequence(seed: int) -> tuple[Tensor, Tensor]:
        drawn = torch.quasirandom.SobolEngine(32, scramble=True, seed=seed).draw(32)
        return drawn[:, :16], drawn[:, 16:]

    def by_chance(seed: int) -> tuple[Tensor, Tensor]:
        return torch.rand((2, 32, 16), generator=torch.Generator().manual_seed(seed)).unbind(0)

    found = off(lambda seed: paired(32, 16, seed))
    assert found < 0.6 * off(by_chance)
    assert found < 0.3 * off(of_one_sequence)


def test_of_few_designs_the_error_is_not_known() -> None:
    found = cnnviz.explain(OfCells(), IMAGES, method="sobol", target=0, cells=CELLS, designs=7)
    assert np.isnan(found.scores["standard_error"]).all()
    assert np.isnan(found.scores["reliability"]).all()
    terms = torch.rand((9, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms -= terms.mean(1, keepdim=True)
    parts = torch.stack([terms[:, group.start : group.stop].mean(1) for group in groups_of(30)])
    # Groups of seven and of eight points: nearly the error of the mean of four.
    torch.testing.assert_close(standard_error(terms), parts.std(0) / 2, rtol=0.15, atol=0)
    halves = [np.corrcoef(parts[[a, b]].mean(0), parts[[c, d]].mean(0))[0, 1]
              for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2))]  # fmt: skip
    alike = max(0.0, float(np.mean(halves)))
    assert float(reliability(terms)) == pytest.approx(2 * alike / (1 + alike), abs=0.15)
