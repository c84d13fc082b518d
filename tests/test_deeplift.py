"""DeepLIFT against dense matrices in float64, Shapley values counted out, and what its shares must sum to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.oracles import deeplift as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness

close = closeness(1e-4, 1e-6)

CHAINS: dict[str, Callable[[], nn.Sequential]] = {
    "relu": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(120, 4)
    ),
    "maximum": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.MaxPool2d(2), nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ),
    "norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(140, 4)
    ),
}  # fmt: skip


def _start(kind: str, images: Tensor) -> Tensor:
    return torch.zeros_like(images) if kind == "zero" else images.mean((2, 3), keepdim=True).expand_as(images)


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("name", CHAINS)
def test_by_its_formulas(name: str, kind: str) -> None:
    network, images = nets.seeded(CHAINS[name])(), nets.images()
    found = cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0], baseline=kind)
    for i, target in enumerate([1, 3, 0]):
        expected, difference = oracle.shares(network, images[i], _start(kind, images)[i], target)
        close(found.raw[i], expected)
        close(found.maps[i], expected.sum(0))
        assert found.scores["score_difference"][i] == pytest.approx(difference, rel=1e-4)
        assert abs(found.scores["completeness_gap"][i]) < 1e-4 * np.abs(expected).sum()


@pytest.mark.parametrize("name", ["residual", "reused", "silu", "deep head", "concat", "max head"])
def test_shares_sum_to_the_difference_in_score(name: str) -> None:
    network, images = nets.TOYS[name].build(), nets.images()
    found = cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0], baseline="noise", seed=3)
    assert float(found.raw.abs().max()) > 1e-4
    for gap, values in zip(found.scores["completeness_gap"], found.raw, strict=True):
        assert abs(gap) < 1e-4 * float(values.abs().sum())


class Made(nn.Module):
    """A convolution, what is tested, and a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.function = nn.Conv2d(3, 6, 3, stride=3), nn.Linear(6, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.conv(x)).mean((2, 3)))


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda a: a * a,
    "gate": lambda a: a * a.mean((2, 3), keepdim=True).sigmoid(),
    "division": lambda a: a / (1 + a.exp()),
    "by what depends": lambda a: 1.0 / (2 + a.square()),
    "softmax": lambda a: a * F.softmax(a, dim=1),
    "softmax over places": lambda a: (a.flatten(2) * a.flatten(2).softmax(-1)).reshape(a.shape),
    "glu": lambda a: F.glu(a, dim=1).repeat(1, 2, 1, 1),
    "layer norm": lambda a: F.layer_norm(a.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2),
    "group norm": lambda a: F.group_norm(a, 2),
    "instance norm": lambda a: F.instance_norm(a).exp(),
    "local response": lambda a: F.local_response_norm(a, 5, alpha=0.5),
    "norm": lambda a: a / a.norm(p=2, dim=(2, 3), keepdim=True),
    "by name": lambda a: torch.mul(a, other=a.sigmoid()),
    "divided by name": lambda a: torch.div(a, other=1 + a.square()),
    "matrix by name": lambda a: torch.matmul(a, other=a.transpose(2, 3)),
    "made weights": lambda a: (a.flatten(2) * torch.mul(a, other=a).flatten(2)).reshape(a.shape),
    "matrix": lambda a: torch.matmul(a, a.transpose(2, 3)),
    "largest": lambda a: a.amax((2, 3), keepdim=True),
    "addcmul": lambda a: torch.addcmul(a, a, a.sigmoid(), value=0.5),
    "pow": lambda a: (a.abs() + 0.1) ** 1.5,
    "clipped": lambda a: F.relu6(3 * a).clamp(0.2, 2.0),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_hands_on_all_of_a_difference(rule: str) -> None:
    network, images = nets.seeded(lambda: Made(RULES[rule]))(), nets.images()
    found = cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0], baseline="noise")
    with torch.no_grad():
        logits = network(images)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-5)  # the values stay those of the network
    differences = found.scores["score_difference"]
    assert min(abs(each) for each in differences) > 1e-5
    for gap, values in zip(found.scores["completeness_gap"], found.raw, strict=True):
        assert abs(gap) < 3e-4 * float(values.abs().sum())


class TwoFactors(nn.Module):
    """Logit 1 is the product of the mean of the left half of an image and that of the right."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        left, right = maps[..., :8].mean((1, 2, 3)), maps[..., 8:].mean((1, 2, 3))
        return torch.stack([left, left * right], 1)


def test_a_product_is_shared_as_shapley_values_say() -> None:
    network, images = nets.seeded(TwoFactors)(), nets.images()
    found = cnnviz.explain(network, images, method="deeplift", target=1, baseline="mean")
    starts = _start("mean", images)
    for image, start, values in zip(images, starts, found.maps, strict=True):
        halves = [torch.zeros(16, dtype=torch.bool) for _ in range(2)]
        halves[0][:8], halves[1][8:] = True, True

        def score(
            players: tuple[int, ...], image: Tensor = image, start: Tensor = start, halves: Any = halves
        ) -> float:
            seen = start.clone()
            for player in players:
                seen[..., halves[player]] = image[..., halves[player]]
            with torch.no_grad():
                return float(network.double()(seen[None].double())[0, 1])

        expected = [0.0, 0.0]
        for order in itertools.permutations(range(2)):
            for place, player in enumerate(order):
                expected[player] += (score(order[: place + 1]) - score(order[:place])) / 2
        network.float()
        shares = [float(values[:, half].sum()) for half in halves]
        assert shares == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_on_a_linear_network_it_is_the_shapley_value_of_each_pixel_over_all_baselines() -> None:
    """w (x - E[x']), of DeepSHAP and of GradientSHAP alike."""
    network = nets.seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(560, 4)))()
    images = nets.images(2)
    weight = torch.autograd.functional.jacobian(lambda x: network(x)[:, 2].sum(), images)
    plain = cnnviz.explain(network, images, method="deeplift", target=2, baseline="zero")
    close(plain.raw, weight * images)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    for method, options in (("deeplift", {"trials": 400}), ("gradient_shap", {"samples": 400})):
        found = cnnviz.explain(network, images, method=method, target=2, baseline="random", **options)
        expected = weight * (images - (low + high) / 2)
        # The mean of 400 uniform baselines, whose deviation is the range over sqrt(12 * 400).
        noise = (weight * (high - low)).abs() / (12 * 400) ** 0.5
        assert float(((found.raw - expected).abs() / noise.clamp_min(1e-6)).max()) < 6
        assert float((found.raw - weight * images).abs().mean()) > 3 * float(noise.mean())


def test_on_relus_without_biases_it_is_gradient_times_input() -> None:
    network = nets.seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(560, 4, bias=False))
    )()
    found = cnnviz.explain(network, nets.images(), method="deeplift", target=2)
    close(found.raw, cnnviz.explain(network, nets.images(), method="gradient_x_input", target=2).raw)


def test_what_it_refuses() -> None:
    network = nets.TOYS["residual"].build()
    with pytest.raises(CnnvizError, match="not its probability"):
        cnnviz.explain(nets.as_model(network), nets.images(), method="deeplift", score="probability")
    odd = nets.seeded(lambda: Made(lambda a: a.cumsum(2)))()
    with pytest.raises(CnnvizError, match="no rule for cumsum"):
        cnnviz.explain(odd, nets.images(), method="deeplift")


PEERS: dict[str, Callable[[], nn.Sequential]] = {
    "relu": CHAINS["relu"],
    "maximum": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 4)),
}


def _captums(network: nn.Module, images: Tensor) -> Tensor:
    captum = pytest.importorskip("captum.attr")
    leaf = images.clone().requires_grad_()
    found: Tensor = captum.DeepLift(network.requires_grad_(True)).attribute(
        leaf, torch.zeros_like(leaf), target=torch.tensor([1, 3, 0])
    )
    return found.detach()


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("name", PEERS)
def test_captum_gives_the_same_where_it_knows_the_layers(name: str) -> None:
    network, images = nets.seeded(PEERS[name])(), nets.images()
    found = cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0])
    close(found.raw, _captums(network, images))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_captums_shares_do_not_sum_where_it_does_not() -> None:
    """SiLU is none of its activations: it takes the gradient, without a word."""
    network, images = nets.seeded(CHAINS["norm"])(), nets.images()
    found = cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0])
    for theirs, difference in zip(_captums(network, images), found.scores["score_difference"], strict=True):
        assert abs(float(theirs.sum()) - difference) > 0.05
