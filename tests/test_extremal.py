"""Extremal perturbations against a float64 ascent by loops, and on a network whose evidence lies in one place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.methods import extremal
from tests import networks as nets
from tests.oracles import extremal as oracle

PUBLISHED = (extremal.MOMENTUM, extremal.RATE, *extremal.WEIGHTS)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance)


def test_smooth_masks_are_the_smooth_maximum_of_kernels() -> None:
    smooth = extremal.SmoothMask.of((12, 16), 3, torch.device("cpu"))
    assert smooth.inner == (3, 4)
    grids = torch.rand(2, 1, 13, 14, generator=torch.Generator().manual_seed(0))
    for found, grid in zip(smooth(grids), grids.double(), strict=True):
        close(found, oracle.smooth_mask(grid[0], (12, 16)), 1e-6)
    close(smooth(smooth.ones(1)), torch.ones(1, 12, 16), 0.05)


def test_the_pyramid_and_what_lies_between_its_levels() -> None:
    image = nets.images()[:1]
    pyramid = extremal.blur_pyramid(image, 2.1)
    levels = [oracle.blurred(image[0].double(), 2.1 * level / 7) for level in range(8)]
    close(pyramid, torch.stack(levels), 1e-5)
    mask = torch.rand(1, 12, 16, generator=torch.Generator().manual_seed(1))
    close(extremal.perturb(pyramid, mask)[0], oracle.perturbed(levels, mask[0].double()), 1e-5)
    close(extremal.perturb(pyramid, torch.ones(1, 12, 16)), image, 1e-7)


def test_the_area_error_compares_the_sorted_mask_with_zeros_and_ones() -> None:
    masks = torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(2))
    found = extremal.area_error(masks, extremal.template((0.1, 0.4), (12, 16), masks.device))
    close(found, torch.stack([oracle.area_error(m.double(), a) for m, a in zip(masks, (0.1, 0.4), strict=True)]), 1e-6)
    exact = (torch.arange(192).reshape(1, 12, 16) % 10 == 0).float()
    share = float(exact.mean())
    assert float(extremal.area_error(exact, extremal.template((share,), (12, 16), exact.device))) == 0


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_equals_an_ascent_by_loops(score: str) -> None:
    """Of the game of deletion: what is to be preserved stays at exactly one, where rounding alone sorts pixels."""
    network = nets.TOYS["silu"].build()
    # One cell a pixel: between cells, pixels of a border would tie but for rounding, which sorts them anyhow.
    images = nets.images()[:, :, ::2, ::2]
    found = cnnviz.explain(
        network, images, method="extremal", target=[1, 3, 0], score=score,
        areas="0.2", steps=3, cells=6, blur=0.2, game="delete",
    )  # fmt: skip
    exact = copy.deepcopy(network).double().requires_grad_(False)
    for i, target in enumerate([1, 3, 0]):

        def scored(image: Tensor, target: int = target) -> Tensor:
            logits = exact(image[None])
            return logits[0, target] if score == "logit" else torch.softmax(logits, 1)[0, target]

        expected = oracle.ascend(scored, images[i].double(), 0.2, (3, 6, 0.2, True), PUBLISHED)
        assert float(expected.std()) > 1e-3  # the mask has moved
        close(found.raw[i], expected, 1e-3 * float(expected.max() - expected.min()))


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
    found: Any = cnnviz.explain(
        network, images, method="extremal", target=0, areas="0.25", steps=120, cells=10, game=game
    )
    mask = found.maps[0]
    inside, outside = float(mask[21:, 21:].mean()), float(mask[:18, :18].mean())
    assert inside > 0.75
    assert outside < 0.1
    assert found.scores["reached_areas"][0][0] == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("areas", ["nonsense", "0", "1", "0.1,2", ""])
def test_areas_are_shares(areas: str) -> None:
    with pytest.raises(CnnvizError, match="areas"):
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), method="extremal", areas=areas, steps=1)
