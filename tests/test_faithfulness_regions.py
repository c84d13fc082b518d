"""Metrics that hide regions, change the image a little, or look at the map alone, against float64 and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from cnnviz.engine.seeding import generator_for
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap
from cnnviz.metrics.contract import Map
from cnnviz.metrics.faithfulness_baselines import NAMES, baseline_batch, with_baseline
from cnnviz.metrics.faithfulness_sparseness import score as sparseness
from cnnviz.registry.params import Options
from tests.support.explained import SIDE, distinct_maps, exact, explained, images, measured, metric, small

CLASSES = [2, 0, 3]


class Weighted(nn.Module):
    """One logit: the weighted sum of all pixels, so that what a pixel adds is known: its weight times its value."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weights * x).sum((1, 2, 3))[:, None]


def linear() -> tuple[nn.Module, Tensor, Map]:
    """A linear network, an image, and what each pixel adds to the logit."""
    weights = np.random.default_rng(3).normal(size=(3, SIDE, SIDE)) / 50
    [image] = images(1)
    return Weighted(weights), image[None], (weights * image.numpy()).sum(0).astype(np.float32)


def occluded(image: Tensor, rows: slice, columns: slice) -> Tensor:
    changed = image.clone()
    changed[:, rows, columns] = 0
    return changed


@pytest.mark.parametrize("name", ["sensitivity_n", "infidelity", "occlusion_agreement"])
def test_methods_share_passes_that_do_not_depend_on_their_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = small(), images(2)
    one, other = ([[each] for each in distinct_maps(2, seed=seed)] for seed in (0, 1))
    ran: list[int] = []
    real = Session.output_of
    monkeypatch.setattr(Session, "output_of", lambda self, x: (ran.append(len(x)), real(self, x))[1])
    with explained(network, pixels, one, CLASSES[:2]) as batch:
        metric(name).score(batch)
        first = sum(ran)
        shared = metric(name).score(replace(batch, maps=other))
        assert sum(ran) == first
        further = sum(ran)
        metric(name, replace="mean").score(batch)  # another question
        assert sum(ran) == further + first
    assert [dict(row) for [row] in shared] == measured(name, network, pixels, [own for [own] in other], CLASSES[:2])


def test_drop_and_increase_share_their_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    real = Session.output_of
    monkeypatch.setattr(Session, "output_of", lambda self, x: (ran.append(len(x)), real(self, x))[1])
    with explained(small(), images(2), [[each] for each in distinct_maps(2)], CLASSES[:2]) as batch:
        for name in ("average_drop", "increase"):
            metric(name).score(batch)
        assert sum(ran) == 4
        metric("increase").score(replace(batch, maps=[[each] for each in distinct_maps(2, seed=1)]))
    assert sum(ran) == 8


# Average drop, increase.


@pytest.mark.parametrize("replace", ["zero", "mean"])
def test_drop_and_increase_are_those_of_the_paper(replace: str) -> None:
    network, pixels, maps = small(), images(3), distinct_maps(3)
    drops = measured("average_drop", network, pixels, maps, CLASSES, replace=replace)
    rises = measured("increase", network, pixels, maps, CLASSES, replace=replace)
    for image, map_, wanted, drop, rise in zip(pixels.double(), maps, CLASSES, drops, rises, strict=True):
        mask = torch.from_numpy(np.clip(map_, 0, None) / map_.max())
        rest = image.mean((1, 2), keepdim=True) if replace == "mean" else 0.0
        both = torch.stack([image, mask * image + (1 - mask) * rest])
        before, after = exact(network)(both).softmax(1)[:, wanted].tolist()
        assert drop["drop"] == pytest.approx(100 * max(0, before - after) / before, abs=1e-3)
        assert rise["increase"] is (after > before)


def test_masks_that_show_everything_nothing_and_the_half_that_counts() -> None:
    """Twice the logit's share that a mask leaves: a half speaks for class 1 with 2, the other against it with 1."""
    weights = np.zeros((3, SIDE, SIDE))
    weights[:, : SIDE // 2] = 4 / (3 * SIDE * SIDE)
    weights[:, SIDE // 2 :] = -2 / (3 * SIDE * SIDE)
    ones, network = torch.ones(1, 3, SIDE, SIDE), Weighted(weights)
    upper = np.zeros((SIDE, SIDE), np.float32)
    upper[: SIDE // 2] = 7
    p = [1 / (1 + math.exp(-logit)) for logit in (1, 0, 2, -1)]
    cases = [(upper * 0 + 5, 0.0, False), (upper * 0, 100 * (p[0] - p[1]) / p[0], False), (upper, 0.0, True)]
    cases += [(7 - upper, 100 * (p[0] - p[3]) / p[0], False), (-upper, 100 * (p[0] - p[1]) / p[0], False)]
    for map_, drop, rises in cases:
        [found] = measured("average_drop", network, ones, [map_], [1])
        assert found["drop"] == pytest.approx(drop, abs=1e-4)
        [also] = measured("increase", network, ones, [map_], [1])
        assert also["increase"] is rises


# Sums over regions.


def test_a_linear_networks_contributions_are_perfect() -> None:
    network, image, contributions = linear()
    [found] = measured("sensitivity_n", network, image, [contributions], [1], patch=4)
    assert found["by_share"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert found["shares"] == [0.1, 0.3, 0.5]
    [found] = measured("sensitivity_n", network, image, [-2 * contributions], [1], patch=1, shares="0.2")
    assert found["correlation"] == pytest.approx(-1, abs=1e-5)
    [found] = measured("sensitivity_n", network, image, [contributions * 0 + 1], [1], patch=4)
    assert found == {"correlation": None, "by_share": [None] * 3, "shares": [0.1, 0.3, 0.5]}
    for scale in (1, 0.25):
        [found] = measured("infidelity", network, image, [contributions * np.float32(scale)], [1], window=8)
        assert found["infidelity"] == pytest.approx(0, abs=1e-9)
        assert found["relative"] == pytest.approx(0, abs=1e-6)
        assert found["scale"] == pytest.approx(1 / scale, rel=1e-4)
        assert (found["unscaled"] < 1e-9) is (scale == 1)
    [found] = measured("infidelity", network, image, [-contributions], [1], window=8)
    assert (found["scale"], found["relative"]) == (0, 1)


def test_sensitivity_n_hides_random_patches() -> None:
    """The subsets are read off what the network is shown; the correlations follow from them."""
    network, pixels, maps = small(), images(2), distinct_maps(2)
    rows = measured("sensitivity_n", network, pixels, maps, CLASSES[:2], patch=5, subsets=6, shares="0.1+0.6")
    for image, map_, wanted, row in zip(pixels, maps, CLASSES, rows, strict=False):
        generator = generator_for(image, 0)
        for share, found in zip((0.1, 0.6), row["by_share"], strict=True):
            chosen = torch.rand((6, 49), generator=generator).argsort(1).argsort(1) < round(share * 49)
            assert chosen.sum(1).tolist() == [round(share * 49)] * 6
            sums, lost = [], []
            for subset in chosen:
                hidden = np.kron(subset.reshape(7, 7).numpy(), np.ones((5, 5), bool))[:SIDE, :SIDE]
                sums.append(float(map_.astype(float)[hidden].sum()))
                both = torch.stack([image, image * torch.from_numpy(~hidden)])
                before, after = exact(network)(both)[:, wanted].tolist()
                lost.append(before - after)
            assert found == pytest.approx(pearsonr(sums, lost).statistic, abs=1e-4)
        assert row["correlation"] == pytest.approx(np.mean(row["by_share"]))


def test_infidelity_is_that_of_the_paper() -> None:
    network, pixels, maps = small(), images(2), distinct_maps(2)
    rows = measured("infidelity", network, pixels, maps, CLASSES[:2], window=10, draws=9)
    for image, map_, wanted, row in zip(pixels, maps, CLASSES, rows, strict=False):
        generator = generator_for(image, 0)
        corners = [torch.randint(SIDE - 9, (9,), generator=generator).tolist() for _ in range(2)]
        sums, lost = [], []
        for top, left in zip(*corners, strict=True):
            square = slice(top, top + 10), slice(left, left + 10)
            sums.append(map_[square].astype(float).sum())
            before, after = exact(network)(torch.stack([image, occluded(image, *square)]))[:, wanted].tolist()
            lost.append(before - after)
        s, d = np.array(sums), np.array(lost)
        scale = max(0, np.linalg.lstsq(s[:, None], d, rcond=None)[0][0])
        assert row["scale"] == pytest.approx(scale, rel=1e-4, abs=1e-9)
        assert row["infidelity"] == pytest.approx(((scale * s - d) ** 2).mean(), rel=1e-4)
        assert row["unscaled"] == pytest.approx(((s - d) ** 2).mean(), rel=1e-4)
        assert row["relative"] == pytest.approx(((scale * s - d) ** 2).mean() / (d**2).mean(), rel=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(8, 5), (6, 9), (40, 8)])
def test_agreement_is_the_rank_correlation_with_occlusion(window: int, stride: int) -> None:
    network, pixels, maps = small(), images(2), distinct_maps(2)
    rows = measured("occlusion_agreement", network, pixels, maps, CLASSES[:2], window=window, stride=stride)
    side = min(window, SIDE)
    starts = [*range(0, SIDE - side, stride), SIDE - side]
    for image, map_, wanted, row in zip(pixels, maps, CLASSES, rows, strict=False):
        total, count = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
        for top in starts:
            for left in starts:
                square = slice(top, top + side), slice(left, left + side)
                before, after = exact(network)(torch.stack([image, occluded(image, *square)]))[:, wanted].tolist()
                total[square] += before - after
                count[square] += 1
        seen = count > 0
        if len(starts) == 1:
            assert row["spearman"] is None
            continue
        expected = spearmanr(total[seen] / count[seen], map_[seen]).statistic
        assert row["spearman"] == pytest.approx(expected, abs=2e-3)


def test_occlusion_agrees_with_itself() -> None:
    network, image, contributions = linear()
    blocks = contributions.reshape(8, 4, 8, 4).sum((1, 3))
    own = np.kron(blocks, np.ones((4, 4))).astype(np.float32)
    for map_, expected in ((own, 1), (-own, -1), (0 * own + 2, None)):
        [found] = measured("occlusion_agreement", network, image, [map_], [1], window=4, stride=4)
        assert found["spearman"] == (None if expected is None else pytest.approx(expected, abs=1e-6))


# Max-sensitivity, sparseness.


def test_max_sensitivity_is_the_largest_change() -> None:
    """The maps are the images' first channels, so a map changes as the image does."""
    network, pixels = small(), images(2)

    def explain(run: ForwardPass) -> list[list[Map]]:
        return [[image[0].numpy(), 0 * image[0].numpy()] for image in run.pixels.detach()]

    with explained(network, pixels, explain(_like(pixels)), CLASSES[:2], explain) as batch:
        rows = metric("max_sensitivity", radius=0.1, draws=4).score(batch)
    for image, (row, zero) in zip(pixels, rows, strict=True):
        source = generator_for(image, 0)
        noise = [0.1 * (2 * torch.rand(image.shape, generator=source) - 1)[0].double() for _ in range(4)]
        expected = max(float(each.norm()) for each in noise) / float(image[0].double().norm())
        assert dict(row)["max_sensitivity"] == pytest.approx(expected, rel=1e-5)
        assert dict(zero)["max_sensitivity"] is None


def test_maps_that_are_not_finite_have_no_sensitivity() -> None:
    def explain(run: ForwardPass) -> list[list[Map]]:
        return [[np.full((4, 4), np.nan, np.float32)]]

    with explained(small(), images(1), [[np.ones((4, 4), np.float32)]], [0], explain) as batch:
        assert metric("max_sensitivity", draws=2).score(batch) == [[{"max_sensitivity": None}]]


def _like(pixels: Tensor) -> Any:
    class Pass:
        pass

    made = Pass()
    made.pixels = pixels  # type: ignore[attr-defined]
    return made


def test_sparseness_is_the_gini_index() -> None:
    def gini(values: np.ndarray) -> float | None:
        seen = (2, 1, 12, 9)
        whole = np.full((10, 14), 99, np.float32)
        whole[1:9, 2:12] = values
        image: Any = None
        return sparseness(PlacedMap(whole, seen, True), image, None, Options())["gini"]

    values = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    magnitudes = np.abs(values.astype(float)).ravel()
    pairs = np.abs(magnitudes[:, None] - magnitudes).mean() / (2 * magnitudes.mean())  # the half relative difference
    assert gini(values) == pytest.approx(pairs, rel=1e-6)
    assert gini(values * 0 - 3) == pytest.approx(0, abs=1e-12)
    one = np.zeros((8, 10), np.float32)
    one[3, 3] = -2
    assert gini(one) == pytest.approx(1 - 1 / 80)
    assert gini(one * 0) is None


# What holds for all of them.

QUICK: dict[str, dict[str, Any]] = {
    "insertion": {"steps": 5},
    "deletion": {"steps": 5},
    "road": {"percentages": "30+60"},
    "average_drop": {},
    "increase": {},
    "sensitivity_n": {"subsets": 4, "patch": 8, "shares": "0.3"},
    "infidelity": {"draws": 5, "window": 9},
    "max_sensitivity": {"draws": 2},
    "occlusion_agreement": {"window": 12, "stride": 10},
}


def own_maps(run: ForwardPass) -> list[list[Map]]:
    """Coarse maps of the images themselves."""
    return [[each.numpy()] for each in nn.functional.avg_pool2d(run.pixels.detach(), 8).sum(1)]


@pytest.mark.parametrize("name", list(QUICK))
def test_an_image_in_a_batch_is_an_image_alone(name: str) -> None:
    network, pixels = small(), images(3)
    made = metric(name, **QUICK[name])
    with explained(network, pixels, own_maps(_like(pixels)), CLASSES, own_maps) as batch:
        together = made.score(batch)
    for image, (wanted, [row]) in enumerate(zip(CLASSES, together, strict=True)):
        one = pixels[image : image + 1]
        with explained(network, one, own_maps(_like(one)), [wanted], own_maps) as batch:
            [[alone]] = made.score(batch)
        assert dict(alone).keys() == dict(row).keys()
        for key, value in dict(alone).items():
            assert dict(row)[key] == (value if isinstance(value, (str, bool)) else pytest.approx(value, abs=1e-5)), key


@pytest.mark.parametrize("name", list(QUICK))
def test_a_map_that_is_not_finite_has_no_figures(name: str) -> None:
    broken = np.full((4, 4), np.inf, np.float32)
    for options in ({}, QUICK[name]):
        [found] = measured(name, small(), images(1), [broken], [0], **options)
        assert found
        assert set(found.values()) == {None}


def test_shares_that_are_none() -> None:
    with pytest.raises(CnnvizError, match="expected numbers above 0 and below 1, joined by"):
        metric("sensitivity_n", shares="0.5+1.5")


# Baselines.


def test_baselines_are_maps_of_every_image() -> None:
    pixels = images(2)
    ramp = torch.linspace(0, 1, SIDE)[:, None] * torch.tensor([3.0, 0.0, 4.0])[:, None, None]
    pixels[1] = ramp.expand(3, SIDE, SIDE)
    maps = own_maps(_like(pixels))
    with explained(small(), pixels, maps, CLASSES[:2], own_maps) as batch:
        found = {name: baseline_batch(name, batch) for name in NAMES}
        again = with_baseline("random", batch, seed=0)
        other = baseline_batch("random", batch, seed=1)
        moved = with_baseline("blurred", batch).explain(batch.run.session.forward(pixels.flip(0)))
        with pytest.raises(CnnvizError, match="Unknown baseline 'edge'"):
            baseline_batch("edge", batch)
        assert np.shape(found.pop("random_cells")) == (2, 1, 4, 4)
        cells = [baseline_batch("random_cells", batch, seed) for seed in (0, 0, 1)]
        assert np.array_equal(cells[0], cells[1])
        assert len({float(map_[0, 0]) for [map_] in (*cells[1], *cells[2])}) == 4
        assert all(np.shape(each) == (2, 1, SIDE, SIDE) for each in found.values())
        assert found["edges"][1][0] == pytest.approx(5 / (SIDE - 1), rel=1e-4)
        bell = found["centre_gaussian"][0][0]
        assert bell[3, 20] == pytest.approx(
            math.exp(-((((3.5 / 32) - 0.5) * 4) ** 2 + (((20.5 / 32) - 0.5) * 4) ** 2) / 2), rel=1e-5
        )
        assert np.array_equal(again.maps, found["random"])
        assert not np.array_equal(other, found["random"])
        assert not np.array_equal(found["random"][0], found["random"][1])
        assert np.array_equal(moved, found["blurred"][::-1])
        smooth, own = found["blurred"][0][0], batch.on_input(0, 0)
        assert smooth.mean() == pytest.approx(own.mean(), abs=0.1 * float(own.std()))
        assert 0.3 < smooth.std() / own.std() < 0.999


def test_metrics_measure_baselines_as_methods() -> None:
    """A network that sees edges only: its own edges are better than random numbers."""

    class Edges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * (x[..., 1:] - x[..., :-1]).abs().sum((1, 2, 3))[:, None] / 50

    pixels = torch.zeros(1, 3, SIDE, SIDE)
    pixels[..., 10:20, 10:14] = 1
    insertion = metric("insertion", replace="zero", steps=8, baselines=False)
    with explained(Edges(), pixels, [[np.ones((4, 4), np.float32)]], [1]) as batch:
        areas = {name: dict(insertion.score(with_baseline(name, batch))[0][0])["area"] for name in NAMES}
    assert areas["edges"] > areas["random"] + 0.05
