"""Sobol indices and HSIC against closed forms of additive and multiplicative scores, and the formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnviz
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


@pytest.mark.parametrize("order", ["total", "first"])
def test_of_a_sum_an_index_is_the_cells_share_of_the_variance(order: str) -> None:
    found = cnnviz.explain(OfCells(), IMAGES, method="sobol", target=0, cells=CELLS, designs=512, order=order)
    expected = (WEIGHTS**2 / (WEIGHTS**2).sum()).reshape(CELLS, CELLS)
    for i in range(2):
        torch.testing.assert_close(found.raw[i], expected, rtol=0, atol=0.02)
        # Var of w c m with m uniform.
        assert found.scores["variance"][i] == pytest.approx(float((WEIGHTS**2).sum()) * (i + 1) ** 2 / 12, rel=0.05)
        assert found.scores["sum"][i] == pytest.approx(1.0, abs=0.05)
        up = torch.repeat_interleave(torch.repeat_interleave(found.raw[i].clamp_min(0), 4, 0), 4, 1)
        torch.testing.assert_close(found.maps[i], up)


def test_of_a_product_total_indices_have_the_interaction() -> None:
    """m1 m2: Var = 7/144, of which E[m2]^2 Var m1 = 1/48 is the effect of one alone: 3/7, and 4/7 with the other."""
    for order, expected in (("first", 3 / 7), ("total", 4 / 7)):
        found = cnnviz.explain(OfCells(), IMAGES, method="sobol", target=1, cells=CELLS, designs=1024, order=order)
        assert found.raw[0].flatten()[:2].tolist() == pytest.approx([expected] * 2, abs=0.03)
        assert float(found.raw[0].flatten()[2:].abs().max()) < 0.02


def test_hsic_by_its_formula() -> None:
    generator = np.random.default_rng(4)
    masks, noise = (generator.random((40, 5)) < 0.5).astype(float), generator.normal(size=40)
    answers = 2 * masks[:, 0] + masks[:, 1] * masks[:, 2] + 0.3 * noise
    found = _dependence(torch.from_numpy(masks), torch.from_numpy(answers))
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
