"""Extremal perturbations against all regions there are, and on a network whose evidence lies in one place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.methods.perturbation import extremal
from tests.oracles import extremal as oracle
from tests.support import networks as nets


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance)


def test_masks_are_cells_with_smooth_edges() -> None:
    lattice = extremal.Lattice.of((12, 16), 3, torch.device("cpu"))
    assert lattice.inner == (3, 4)
    region = {(0, 0), (1, 2), (2, 2)}
    cells = torch.tensor([[float((row, column) in region) for column in range(4)] for row in range(3)])
    close(lattice(cells[None])[0], oracle.mask(region, (3, 4), (12, 16)), 1e-6)
    close(lattice(torch.ones(1, 3, 4)), torch.ones(1, 12, 16), 1e-6)


def test_the_pyramid_and_what_lies_between_its_levels() -> None:
    image = nets.images()[:1]
    pyramid = extremal.blur_pyramid(image, 2.1)
    levels = [oracle.blurred(image[0].double(), 2.1 * level / 7) for level in range(8)]
    close(pyramid, torch.stack(levels), 1e-5)
    masks = torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(1))
    for found, mask in zip(extremal.perturb(pyramid, masks), masks.double(), strict=True):
        close(found, oracle.perturbed(levels, mask), 1e-5)
    close(extremal.perturb(pyramid, torch.ones(1, 12, 16)), image, 1e-7)
    close(extremal.perturb(pyramid, torch.zeros(1, 12, 16)), levels[-1][None], 1e-5)


@pytest.mark.parametrize(("name", "game"), [("silu", "preserve"), ("residual", "delete")])
def test_finds_nearly_the_best_of_all_regions(name: str, game: str) -> None:
    """All 495 regions of 4 of 12 cells, in float64: the score reached is near the best, seen from the median."""
    network = nets.TOYS[name].build()
    exact = copy.deepcopy(network).double().requires_grad_(False)
    classes = [1, 3, 0]
    found = cnnviz.explain(
        network, nets.images(), method="extremal", target=classes, areas="0.3333", cells=3, blur=0.2, game=game
    )
    for i, target in enumerate(classes):
        image = nets.images()[i].double()
        levels = [oracle.blurred(image, 0.2 * 12 * level / 7) for level in range(8)]
        best, every = oracle.best_of_all(
            lambda images, target=target: exact(images)[:, target], levels, (3, 4), 4, deletes=game == "delete"
        )
        reached = float(found.scores["perturbed_scores"][i][0])
        assert min(abs(reached - score) for score in every.values()) < 1e-4  # it is one of them
        scores = sorted(every.values(), reverse=game == "preserve")
        assert abs(reached - scores[0]) < 0.5 * abs(scores[len(scores) // 2] - scores[0])
        if abs(reached - scores[0]) < 1e-5:
            close(found.raw[i], oracle.mask(best, (3, 4), (12, 16)), 1e-5)


def test_exchanges_only_raise_the_score() -> None:
    network = nets.TOYS["residual"].build()

    def kept(steps: int) -> Tensor:
        found = cnnviz.explain(
            network, nets.images(), method="extremal", target=[1, 3, 0], areas="0.3", cells=4, blur=0.2,
            steps=steps,
        )  # fmt: skip
        assert bool((torch.as_tensor(found.scores["exchanges"]) <= steps).all())
        return torch.as_tensor(found.scores["perturbed_scores"])

    none, few = kept(0), kept(4)
    assert bool((few >= none - 1e-5).all())  # they begin from the same region
    assert float((few - none).max()) > 1e-3


def test_neither_threads_nor_batches_change_the_region() -> None:
    network = nets.TOYS["residual"].build()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    options: dict[str, Any] = {"method": "extremal", "areas": "0.1,0.3", "cells": 4, "blur": 0.2, "steps": 2}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = cnnviz.explain(network, images, target=[1, 3], **options)
        torch.set_num_threads(2)
        two = cnnviz.explain(network, images, target=[1, 3], **options)
        alone = cnnviz.explain(network, images[1:2], target=[3], **options)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.raw, two.raw)
    assert torch.equal(one.raw[1:2], alone.raw)


def test_needs_no_gradient() -> None:
    """A network whose values are rounded on the way lets no gradient through, yet has a region."""

    class Rounded(Corner):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 16).round() / 16)

    images = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    found = cnnviz.explain(nets.seeded(Rounded)(), images, method="extremal", target=0, areas="0.25", cells=8)
    assert float(found.maps[0, 21:, 21:].mean()) > 0.75


class Corner(nn.Module):
    """Its score is the contrast of neighbouring pixels in the lower right quarter: blurring takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(3, 1, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        contrast = torch.relu(self.edges(x))[:, 0, 20:, 20:].mean((1, 2))
        return torch.stack([contrast, -contrast], 1)


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_the_region_is_where_the_evidence_is(game: str) -> None:
    network = nets.seeded(Corner)()
    images = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    found: Any = cnnviz.explain(network, images, method="extremal", target=0, areas="0.25", cells=6, game=game)
    mask = found.maps[0]
    inside, outside = float(mask[21:, 21:].mean()), float(mask[:18, :18].mean())
    assert inside > 0.75
    assert outside < 0.1
    assert found.scores["reached_areas"][0][0] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("areas", ["nonsense", "0", "1", "0.1,2", ""])
def test_areas_are_shares(areas: str) -> None:
    with pytest.raises(CnnvizError, match="areas"):
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), method="extremal", areas=areas)
