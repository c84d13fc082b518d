"""Opti-CAM against the paper's loop in float64, and on a network of which one channel alone matters."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from tests.oracles import opticam as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness

close = closeness(1e-4, 1e-6)
STEPS = 12
CLASSES = ([1, 3], [0, 2])


@cache
def found(name: str, classes: tuple[int, ...]) -> Any:
    toy = nets.TOYS[name]
    how = {"layer": toy.layer, "target": list(classes), "iterations": STEPS, "rate": 0.2}
    return cnnviz.explain(toy.build(), nets.images(2), "opticam", **how)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", ["plain", "residual", "silu"])
def test_is_the_papers_loop(name: str, classes: list[int]) -> None:
    result, toy = found(name, tuple(classes)), nets.TOYS[name]
    network = toy.build().double()
    for place, (image, index) in enumerate(zip(nets.images(2).double(), classes, strict=True)):
        activations = toy.split(network, image[None])[0][0].detach()

        def score(seen: Tensor, index: int = index) -> Tensor:
            logit: Tensor = network(seen[None])[0, index]
            return logit

        expected, weights, scores = oracle.opticam(score, activations, image, STEPS, 0.2)
        close(result.raw[place], expected)
        close(result.arrays["weights"][place], weights)
        close(result.maps[place], oracle.masked(torch.ones(1, 12, 16), expected)[0] * float(result.maps[place].max()))
        assert result.scores["masked_score"][place] == pytest.approx(max(scores), rel=1e-4, abs=1e-5)
        assert result.scores["masked_score_before"][place] == pytest.approx(scores[0], rel=1e-4, abs=1e-5)
        assert max(scores) > scores[0] + 1e-4  # it climbed


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_a_batch_gives_what_its_images_give(name: str) -> None:
    toy, images = nets.TOYS[name], nets.images(2)
    for place, index in enumerate(CLASSES[0]):
        alone = cnnviz.explain(toy.build(), images[place : place + 1], "opticam", target=index, layer=toy.layer,
                               iterations=STEPS, rate=0.2)  # fmt: skip
        close(alone.raw[0], found(name, tuple(CLASSES[0])).raw[place])


def test_steps_never_lower_the_score() -> None:
    """A rate that leaps past every summit: the best of the way is kept, the start at worst."""
    network = nets.TOYS["plain"].build()
    for rate in (0.0, 0.1, 30.0):
        result = cnnviz.explain(network, nets.images(), "opticam", target=[1, 3, 0], iterations=4, rate=rate)
        before, after = (torch.as_tensor(result.scores[key]) for key in ("masked_score_before", "masked_score"))
        assert bool((after >= before).all())
        assert bool((after == before).all()) == (rate == 0)


class _Patches(nn.Module):
    """Channels: the picture's first colour, its second, one that is the same everywhere; class 1 is the second."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1)
        self.look.weight.data = torch.diag(torch.tensor([1.0, 1.0, 0.0]))[:, :, None, None]
        self.look.bias.data = torch.tensor([0.0, 0.0, 1.0])
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.look(x)).mean((2, 3)))
        return y


def test_the_one_channel_that_matters_gets_the_weight() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[0, 0, :4, :4] = 2  # the first colour is stronger, so that at the start the second is hardly seen
    image[0, 1, 4:, 4:] = 1
    network = _Patches()
    result = cnnviz.explain(network, image, "opticam", target=1, layer="look", iterations=40, rate=0.2)
    weights = result.arrays["weights"][0]
    # The channel that is the same everywhere changes no mask: its u stays where it began, at 0.
    first, second, _ = (weights / weights[2]).log().tolist()
    assert second > 0.3
    assert first < -0.3
    assert second - first > math.log(2)  # the second colour is seen better than the first, which was twice as strong
    assert int(result.raw[0].argmax()) in {8 * row + column for row in range(4, 8) for column in range(4, 8)}
    # The most there is: the patch is seen as if nothing hid it, 16 of 64 places.
    assert float(result.scores["masked_score"][0]) == pytest.approx(0.25, abs=1e-3)


def test_a_layer_that_is_the_same_everywhere_gives_a_map_of_zeros() -> None:
    result = cnnviz.explain(nets.TOYS["plain"].build(), torch.zeros(1, 3, 12, 16), "opticam", target=1, layer="act",
                            iterations=3)  # fmt: skip
    assert bool(torch.isfinite(result.raw).all())
    flat = cnnviz.explain(_Patches(), torch.ones(1, 3, 8, 8), "opticam", target=1, layer="look", iterations=3)
    assert not bool(flat.maps.any())
    assert flat.arrays["weights"][0].tolist() == pytest.approx([1 / 3] * 3)
