"""Saliency, gradient times input, SmoothGrad and integrated gradients against float64 second opinions."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import cnnviz
from cnnviz import pipeline
from cnnviz.engine import open_session as opening
from cnnviz.engine.cut import Cut
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.run.reporters import Silent
from cnnviz.settings import DrawSettings, ModelSpec, OutputSettings, RunSettings, TargetSettings
from tests.oracles import gradients as oracle
from tests.support import kinds_of_networks as kinds
from tests.support import tiny_model
from tests.support.comparisons import closeness

close = closeness(1e-4)

METHODS = ("saliency", "gradient_x_input", "smoothgrad", "integrated_gradients")
TINY = f"{tiny_model.__file__}:make"


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_saliency_is_the_largest_difference(kind: str, tracing: str) -> None:
    network, batch = kinds.make(kind), kinds.images(2, (6, 7))
    found = cnnviz.explain(network, batch, method="saliency", target=[1, 3], tracing=tracing)
    for i, target in enumerate([1, 3]):
        expected = oracle.gradient(network, batch[i], target)
        close(found.raw[i], expected)
        close(found.maps[i], np.abs(expected).max(0))
    assert found.facts["reduction"] == "max of |.| over channels"


@pytest.mark.parametrize(("reduction", "order"), [("sum", 1), ("l2", 2), ("max", np.inf)])
def test_reductions(reduction: str, order: float) -> None:
    network, batch = kinds.make("plain"), kinds.images()
    found = cnnviz.explain(network, batch, method="saliency", target=0, reduction=reduction)
    close(found.maps, np.linalg.norm(found.raw.double().numpy(), ord=order, axis=1), 1e-6)


def test_gradient_times_input_sums_to_the_score_without_biases() -> None:
    network, batch = kinds.make("no bias"), kinds.images(3)
    found = cnnviz.explain(network, batch, method="gradient_x_input", target=2)
    close(found.raw.sum((1, 2, 3)), found.logits[:, 2], 1e-5)
    expected = oracle.gradient(network, batch[1], 2) * batch[1].double().numpy()
    close(found.raw[1], expected)
    close(found.maps[1], expected.sum(0))


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    network, batch = kinds.make("residual"), kinds.images()
    plain = cnnviz.explain(network, batch, method="saliency", target=1)
    found = cnnviz.explain(network, batch, method="smoothgrad", target=1, noise=0, samples=5)
    close(found.raw, plain.raw, 1e-6)
    close(found.maps, plain.maps, 1e-6)
    square = cnnviz.explain(network, batch, method="smoothgrad", target=1, noise=0, samples=3, statistic="square")
    close(square.raw, plain.raw.double().square(), 1e-5)
    variance = cnnviz.explain(network, batch, method="smoothgrad", target=1, noise=0, samples=5, statistic="variance")
    assert variance.raw.max() <= 1e-9 * plain.raw.square().max()


@pytest.mark.parametrize("statistic", ["mean", "square", "variance"])
def test_smoothgrad_statistics(statistic: str) -> None:
    network, batch = kinds.make("plain"), kinds.images(2, (5, 6))
    options = {"noise": 0.3, "samples": 20, "seed": 4, "statistic": statistic}
    found = cnnviz.explain(network, batch, method="smoothgrad", target=2, **options)
    for i, image in enumerate(batch):
        # The same stream of numbers as documented: the seed and the image's content.
        seed = zlib.crc32(b"4", zlib.crc32(image.numpy().tobytes()))
        source = torch.Generator().manual_seed(seed)
        sigma = 0.3 * float(image.max() - image.min())
        noisy = [image + sigma * torch.randn(image.shape, generator=source) for _ in range(20)]
        close(found.raw[i], oracle.statistics([oracle.gradient(network, x, 2) for x in noisy])[statistic])


@pytest.mark.parametrize("kind", ["plain", "relu6", "silu", "residual", "concat", "max-pool"])
def test_integrated_gradients_are_complete(kind: str) -> None:
    network, batch = kinds.make(kind), kinds.images(2)
    found = cnnviz.explain(network, batch, method="integrated_gradients", target=[0, 2], steps=300)
    with torch.no_grad():
        exact = network(batch).double()
        start = network(torch.zeros_like(batch)).double()
    for i, target in enumerate([0, 2]):
        difference = float(exact[i, target] - start[i, target])
        total = float(found.raw[i].double().sum())
        assert total == pytest.approx(difference, abs=0.01 * abs(difference) + 0.01)
        assert found.scores["score_difference"][i] == pytest.approx(difference, abs=1e-4)
        assert found.scores["completeness_gap"][i] == pytest.approx(difference - total, abs=1e-4)
        expected = oracle.integrated_by_crossings(network, batch[i], torch.zeros(3, 8, 10), target)
        close(found.raw[i], expected, 0.02)
    close(found.maps, found.raw.sum(1), 1e-6)


def test_a_linear_network_needs_one_step() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 3))
    batch = kinds.images(2, (4, 5))
    weight = network[1].weight[2].detach().reshape(3, 4, 5)
    for rule in ("gauss", "midpoint", "right"):
        found = cnnviz.explain(network, batch, method="integrated_gradients", target=2, steps=1, quadrature=rule)
        close(found.raw, weight * batch, 1e-5)
        assert max(map(abs, found.scores["completeness_gap"])) < 1e-4


def test_quadratures_on_a_polynomial() -> None:
    """f = sum x^3: the gradient 3 a^2 x^2 along the way; two Gauss nodes integrate it exactly, right ends do not."""

    class Cubic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = (x**3).sum((1, 2, 3))
            return torch.stack([total, -total], 1)

    batch = kinds.images(1, (3, 3))
    cube = batch.double() ** 3

    def found(rule: str, steps: int) -> Tensor:
        options = {"steps": steps, "quadrature": rule}
        return cnnviz.explain(Cubic(), batch, method="integrated_gradients", target=0, **options).raw

    close(found("gauss", 2), cube, 1e-5)
    close(found("right", 2), 3 * (0.25 + 1) / 2 * cube, 1e-5)
    close(found("midpoint", 2), 3 * (1 / 16 + 9 / 16) / 2 * cube, 1e-5)


def test_baselines() -> None:
    network, batch = kinds.make("plain"), kinds.images(2)
    explain = {"method": "integrated_gradients", "target": 1, "steps": 400}
    mean = cnnviz.explain(network, batch, baseline="mean", **explain)
    starts = batch.mean((2, 3), keepdim=True).expand_as(batch)
    for i in range(2):
        close(mean.raw[i], oracle.integrated_by_crossings(network, batch[i], starts[i], 1), 0.02)
    one = cnnviz.explain(network, batch, baseline="random", seed=3, **explain)
    two = cnnviz.explain(network, batch, baseline="random", seed=4, **explain)
    both = cnnviz.explain(network, batch, baseline="random", seed=3, trials=2, **explain)
    assert not torch.allclose(one.raw, two.raw, atol=1e-2)
    close(both.raw, (one.raw + two.raw) / 2, 1e-5)
    image = batch[1]
    source = torch.Generator().manual_seed(zlib.crc32(b"3", zlib.crc32(image.numpy().tobytes())))
    low, high = image.amin((1, 2), keepdim=True), image.amax((1, 2), keepdim=True)
    start = low + (high - low) * torch.rand(image.shape, generator=source)
    close(one.raw[1], oracle.integrated_by_crossings(network, image, start, 1), 0.02)
    with pytest.raises(CnnvizError, match="baseline='purble'"):
        cnnviz.explain(network, batch, method="integrated_gradients", baseline="purble")


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_images_give_alone(method: str) -> None:
    network, batch = kinds.make("residual"), kinds.images(3)
    options = {"integrated_gradients": {"baseline": "random", "steps": 7}, "smoothgrad": {"samples": 5}}.get(method, {})
    together = cnnviz.explain(network, batch, method=method, target=[0, 1, 2], **options)
    for i in range(3):
        alone = cnnviz.explain(network, batch[i : i + 1], method=method, target=i, **options)
        close(together.raw[i], alone.raw[0], 1e-5)


def test_a_function_as_target_and_the_probability() -> None:
    network, batch = kinds.make("plain"), kinds.images(2)
    for method in METHODS:
        options = {"seed": 1} if method in {"smoothgrad", "integrated_gradients"} else {}
        one, two, both = (
            cnnviz.explain(network, batch, method=method, target=target, **options).raw
            for target in (0, 3, lambda z: z[torch.arange(2), [0, 0]] - z[:, 3])
        )
        close(both, one - two, 1e-4)
    found = cnnviz.explain(network, batch, method="saliency", target=2, score="probability")
    leaf = batch.double().requires_grad_()
    network.double()(leaf).softmax(1)[:, 2].sum().backward()
    close(found.raw, leaf.grad, 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_found(method: str) -> None:
    network, batch = kinds.make("in-place").train(), kinds.images()
    network.one.weight.grad = torch.ones_like(network.one.weight)
    state = torch.get_rng_state()
    cnnviz.explain(network, batch, method=method)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert torch.equal(network.one.weight.grad, torch.ones_like(network.one.weight))
    assert not batch.requires_grad


class Untraceable(nn.Module):
    """Asks for values while it runs, and changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = kinds.make("residual")

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return self.inner(F.relu(x) if float(x.detach().max()) > 1e9 else x)


def test_a_network_that_cannot_be_traced() -> None:
    batch = kinds.images(2, (6, 7))
    before = batch.clone()
    found = cnnviz.explain(Untraceable(), batch, method="saliency", target=2)
    assert torch.equal(batch, before)
    for i in range(2):
        close(found.raw[i], 0.5 * oracle.gradient(kinds.make("residual"), 0.5 * batch[i], 2))


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
def test_the_image_and_a_layer_together(tracing: str) -> None:
    from cnnviz.engine import runtime as rt

    network, batch = kinds.make("in-place"), kinds.images(2)
    options = opening.SessionOptions(Cut.at_image("two"), private=False, tracing=tracing)
    with opening.open_session(network, "net", (3, 8, 10), rt.resolve("cpu"), options) as opened:
        run = opened.forward(batch)
        at_image, at_layer = run.gradients(run.logits[:, 1])
    assert [layer.name for layer in opened.layers] == ["two"]
    exact = kinds.make("functional").double()
    x = batch.double().requires_grad_()
    a = exact.two(F.relu(exact.one(x)))
    z = exact.head(F.relu(exact.hidden(F.relu(a).mean((2, 3)))))
    expected = torch.autograd.grad(z[:, 1].sum(), [x, a])
    close(at_image, expected[0])
    close(at_layer, expected[1])
    close(run.activations[1].detach(), a.detach())


def test_the_record_has_each_images_own_gap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    spec = lookup.find_method("integrated_gradients")
    run = RunSettings(
        command="saliency",
        inputs=(str(tmp_path / "a.png"), str(tmp_path / "b.png")),
        model=ModelSpec(model=TINY, input_size=(3, 32, 32), view="squash"),
        target=TargetSettings(
            method=spec.name, params=spec.resolve_params({"steps": 9, "baseline": "black"}).to_dict()
        ),
        draw=DrawSettings(save=("raw", "heatmap")),
        output=OutputSettings(str(tmp_path / "out")),
    )

    pipeline.run(run, Silent())
    rows = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    found = [row["explanations"][0] for row in rows]
    for each in found:
        raw = np.load(tmp_path / "out" / each["files"]["raw"])["raw"]
        assert raw.shape == (3, 32, 32)
        scores = each["scores"]
        total = float(raw.astype(np.float64).sum())
        assert scores["score_difference"] - scores["completeness_gap"] == pytest.approx(total, abs=1e-4)
        assert (scores["steps"], scores["baseline"]) == (9, "black")
        assert each["reduction"] == "sum over channels"
    assert found[0]["scores"]["score_difference"] != found[1]["scores"]["score_difference"]


@pytest.mark.peers
def test_captum_agrees() -> None:
    from captum import attr

    network, batch = kinds.make("residual"), kinds.images(2)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    found = cnnviz.explain(network, batch, method="integrated_gradients", target=1, steps=50)
    peer = attr.IntegratedGradients(network).attribute(batch, target=1, n_steps=50, method="gausslegendre")
    close(found.raw, peer.detach(), 1e-3)
    found = cnnviz.explain(network, batch, method="gradient_x_input", target=1)
    close(found.raw, attr.InputXGradient(network).attribute(batch.clone().requires_grad_(), target=1).detach())
