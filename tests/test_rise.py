"""RISE against loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import perturbed_scores as perturb
from cnnviz.methods.perturbation import rise
from tests.oracles import rise as oracle
from tests.support import networks as nets

CLASSES = [1, 3, 0]
ASKED: dict[str, Any] = {"masks": 40, "cells": 4, "p": 0.4, "seed": 3}


def close(found: Tensor, expected: Any, tolerance: float = 2e-5) -> None:
    wanted = np.asarray(expected, dtype=np.float64)
    largest = np.abs(wanted).max()
    assert largest > 1e-4
    np.testing.assert_allclose(found.double().numpy(), wanted, rtol=0, atol=tolerance * largest)


def draw(size: tuple[int, int], **asked: Any) -> rise.Masks:
    return rise.draw_masks(size, asked["masks"], asked["cells"], asked["p"], asked["seed"])


def _masks(size: tuple[int, int] = (12, 16), **changed: Any) -> list[Any]:
    drawn = draw(size, **{**ASKED, **changed})
    return [
        oracle.mask(grid.double().numpy(), size, (int(y), int(x)))
        for grid, (y, x) in zip(drawn.grids, drawn.offsets, strict=True)
    ]


@pytest.mark.parametrize("size", [(12, 16), (13, 7), (3, 5)])
@pytest.mark.parametrize("cells", [1, 2, 4, 7])
def test_masks(size: tuple[int, int], cells: int) -> None:
    """Also where the image is not a whole number of cells, or has fewer pixels than there are cells."""
    drawn = draw(size, **{**ASKED, "cells": cells})
    close(drawn.at(range(0, 40)), _masks(size, cells=cells))
    torch.testing.assert_close(drawn.at(range(10, 13)), drawn.at(range(0, 40))[10:13], rtol=0, atol=0)


def test_masks_are_what_was_asked_for() -> None:
    drawn = draw((28, 28), masks=3000, cells=7, p=0.3, seed=0)
    every = drawn.at(range(0, 3000))
    assert abs(float(drawn.grids.mean()) - 0.3) < 0.005
    # Every pixel is visible as often as every other: five standard deviations of a mean of 3000.
    assert float((every.mean(0) - 0.3).abs().max()) < 5 * (0.3 * 0.7 / 3000) ** 0.5
    assert {tuple(o) for o in drawn.offsets.tolist()} == {(y, x) for y in range(4) for x in range(4)}


@pytest.mark.parametrize("coverage", rise.COVERAGES)
@pytest.mark.parametrize("name", ["residual", "silu", "untraceable"])
def test_equals_loops(name: str, coverage: str) -> None:
    network, batch = nets.TOYS[name].build(), nets.images()
    found = cnnviz.explain(network, batch, "rise", target=CLASSES, coverage=coverage, **ASKED)
    masks, p = _masks(), 0.4 if coverage == "expected" else None
    close(found.raw, [oracle.rise(network, x, c, masks, p) for x, c in zip(batch, CLASSES, strict=True)])
    assert found.facts["score"] == "probability"


def test_another_score_is_taken_where_it_is_asked_for() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    found = cnnviz.explain(network, batch, "rise", target=1, score="log-probability", **ASKED)
    close(found.raw[0], oracle.rise(network, batch[0], 1, _masks(), 0.4, "log-probability"))
    function = cnnviz.explain(network, batch, "rise", target=lambda z: z[:, 1], **ASKED)
    close(function.raw[0], oracle.rise(network, batch[0], 1, _masks(), 0.4, "logit"))
    assert (found.facts["score"], function.facts["score"]) == ("log-probability", "function")


def test_every_image_sees_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with an image twice gives the same map twice, wherever they stand; other chunks change nothing."""
    network, batch = nets.TOYS["residual"].build(), nets.images()
    twice = torch.cat([batch, batch[:1]])
    found = cnnviz.explain(network, twice, "rise", target=1, **ASKED)
    assert torch.equal(found.raw[0], found.raw[3])
    for size in (1, 7, 1000):
        monkeypatch.setattr(perturb, "chunk_size", lambda run, of_layer=False, size=size: size)
        monkeypatch.setattr(rise, "chunk_size", lambda run, of_layer=False, size=size: size)
        close(cnnviz.explain(network, twice, "rise", target=1, **ASKED).raw, found.raw, 1e-6)
    other = cnnviz.explain(network, batch, "rise", target=1, **{**ASKED, "seed": 4})
    assert not torch.allclose(other.raw, found.raw[:3], rtol=1e-2, atol=0)


def test_of_one_mask_no_error_is_known_and_a_constant_score_has_that_of_the_masks() -> None:
    """A score that no mask changes: all of the map is chance as expected, none of it as observed."""
    ones, masks = torch.ones(1, 3, 24, 32), {"expected": 60, "observed": 60}
    for coverage, count in [*masks.items(), ("expected", 1), ("observed", 1)]:
        asked: dict[str, Any] = {"masks": count, "coverage": coverage, "target": lambda z: z[:, 0] * 0 + 0.5}
        stated = cnnviz.explain(_Spot(), ones, "rise", **asked).scores
        error, alike = (float(stated[key][0]) for key in ("standard_error", "reliability"))
        if count == 1:
            assert np.isnan([error, alike]).all()
        else:
            assert (error > 0.01, alike < 0.4) == (coverage == "expected",) * 2


class _Spot(nn.Module):
    """Class 1 is seen where one spot of the image is seen."""

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :, 8:12, 4:8].mean((1, 2, 3)) * 6 - 3
        return torch.stack([-seen, seen], 1)


def test_finds_the_spot_and_a_constant_score_is_constant() -> None:
    ones = torch.ones(1, 3, 24, 32)
    found = cnnviz.explain(_Spot(), ones, "rise", target=1, masks=600, coverage="observed")
    y, x = divmod(int(found.raw[0].argmax()), 32)
    assert 8 <= y < 12
    assert 4 <= x < 8
    flat = cnnviz.explain(_Spot(), ones, "rise", target=lambda z: z[:, 0] * 0 + 0.7, masks=60, coverage="observed")
    close(flat.raw, torch.full((1, 24, 32), 0.7), 1e-6)


def _contributions(own: np.ndarray, masks: np.ndarray, p: float | None) -> np.ndarray:
    """What the map would be without one mask after the other, [N, pixels]: the jackknife, by loops."""
    rows = []
    for left_out in range(len(masks)):
        some = np.delete(np.arange(len(masks)), left_out)
        seen = len(some) * p if p is not None else masks[some].sum(0)
        rows.append((own[some, None] * masks[some]).sum(0) / seen)
    return np.array(rows)


def test_the_error_is_that_of_the_jackknife() -> None:
    """Of a mean the jackknife's variance is that of the mean; what a constant and the map explain is taken off."""
    network, batch = nets.TOYS["residual"].build(), nets.images()
    asked = {**ASKED, "masks": 80}
    found = cnnviz.explain(network, batch, "rise", target=CLASSES, **asked)
    masks = np.array(_masks(masks=80)).reshape(80, -1)
    exact = network.double().eval()
    for i, index in enumerate(CLASSES):
        hidden = batch[i].double() * torch.from_numpy(masks).reshape(80, 1, 12, 16)
        with torch.no_grad():
            own = torch.softmax(exact(hidden), 1)[:, index].numpy()
        without = _contributions(own, masks, 0.4)
        apart = without - without.mean(0)
        assert found.scores["standard_error"][i] == pytest.approx((79 / 80 * (apart**2).sum(0)).mean() ** 0.5, rel=1e-4)
        map_ = (own[:, None] * masks).mean(0) / 0.4
        known = np.stack([np.ones_like(map_), map_], 1)
        rest = apart.T - known @ np.linalg.lstsq(known, apart.T, rcond=None)[0]
        alike = 1 - 79 / 80 * (rest**2).sum(1).mean() / map_.var()
        assert 0.1 < alike < 0.99
        assert found.scores["reliability"][i] == pytest.approx(alike, abs=1e-4)


class _Pairs(nn.Module):
    """A score of sixteen cells and their pairs."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        random = np.random.default_rng(3)
        self.pool, self.scale = nn.AvgPool2d(8), scale
        self.alone = nn.Parameter(torch.from_numpy(random.normal(size=16)).float())
        self.two = nn.Parameter(torch.from_numpy(np.triu(random.normal(size=(16, 16)), 1)).float())

    def forward(self, x: Tensor) -> Tensor:
        seen = self.pool(x).mean(1).flatten(1)
        score = self.scale * (seen @ self.alone + 0.3 * ((seen @ self.two) * seen).sum(1))
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("coverage", rise.COVERAGES)
@pytest.mark.parametrize(("masks", "scale"), [(200, 1.0), (600, 6.0)])
def test_the_error_that_is_stated_is_that_over_seeds(masks: int, scale: float, coverage: str) -> None:
    network, image, values, stated = _Pairs(scale), torch.ones(1, 3, 32, 32), [], []
    for seed in range(40):
        asked: dict[str, Any] = {"masks": masks, "cells": 4, "seed": seed, "coverage": coverage}
        found = cnnviz.explain(network, image, "rise", target=0, **asked)
        values.append(found.raw[0].flatten().double().numpy())
        stated.append([float(found.scores["standard_error"][0]) ** 2, float(found.scores["reliability"][0])])
    square, alike = np.mean(stated, axis=0)
    assert square**0.5 == pytest.approx(np.var(values, axis=0, ddof=1).mean() ** 0.5, rel=0.1)
    between = np.corrcoef(values)[np.triu_indices(40, 1)].mean()
    assert 0.8 < between < 0.98
    assert alike == pytest.approx(between, abs=0.03)


def test_where_a_few_masks_decide_the_map_its_reliability_is_not_known() -> None:
    def stated(target: Any, **changed: Any) -> list[float]:
        found = cnnviz.explain(_Spot(), torch.ones(1, 3, 24, 32), "rise", target=target, **{**ASKED, **changed})
        return [float(found.scores[name][0]) for name in ("standard_error", "reliability")]

    error, alike = stated(lambda z: (20 * (z[:, 1] - 2.99)).exp(), masks=60)
    assert error > 0
    assert np.isnan(alike)
    assert np.isnan(stated(1, masks=1)).all()
    assert stated(lambda z: z[:, 0] * 0 + 0.7, coverage="observed") == [pytest.approx(0, abs=1e-12), 1]
