"""Parameter randomisation: what is random at each step, what is put back, and what the figures say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnnviz.metrics.contract import Row, RunSummary
from cnnviz.metrics.random_weights import Cascade
from cnnviz.metrics.randomization import summarize
from cnnviz.metrics.similarity import spearman, ssim
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import trace
from cnnviz.registry.metrics import RANDOMIZATION
from cnnviz.registry.params import Options
from cnnviz.settings import ModelSpec
from tests.support import networks as nets
from tests.support.runs import TINY, ran


def maps(shape: tuple[int, int], *, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    a = rng.normal(size=shape) if signed else rng.random(shape)
    b = a + 0.5 * rng.normal(size=shape)
    return a.astype(np.float32), (b if signed else np.abs(b)).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_the_correlation_of_mean_ranks(ties: bool) -> None:
    a, b = maps((9, 14), signed=True)
    if ties:
        a, b = np.maximum(np.round(a, 1), 0), np.round(b, 0)

    def ranks(values: np.ndarray) -> list[float]:
        flat = values.ravel()
        return [float((flat < v).sum() + ((flat == v).sum() + 1) / 2) for v in flat]

    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1], abs=1e-12)
    assert spearman(a, np.zeros_like(a)) is None


@pytest.mark.parametrize("signed", [False, True])
def test_ssim_is_that_of_the_paper(signed: bool) -> None:
    a, b = maps((40, 53), signed=signed)
    x, y = a.astype(np.float64) / np.abs(a).max(), b.astype(np.float64) / np.abs(b).max()
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(bell, bell) / np.outer(bell, bell).sum()
    c1, c2 = (((0.01 * (2 if signed else 1)) ** 2), ((0.03 * (2 if signed else 1)) ** 2))
    local = []
    for row in range(a.shape[0] - 10):
        for col in range(a.shape[1] - 10):
            u, v = x[row : row + 11, col : col + 11], y[row : row + 11, col : col + 11]
            mu, mv = (weights * u).sum(), (weights * v).sum()
            su, sv = (weights * (u - mu) ** 2).sum(), (weights * (v - mv) ** 2).sum()
            both = (weights * (u - mu) * (v - mv)).sum()
            local.append((2 * mu * mv + c1) * (2 * both + c2) / ((mu**2 + mv**2 + c1) * (su + sv + c2)))
    expected = float(np.mean(local))
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)
    assert ssim(a, 7 * a) == pytest.approx(1)
    assert ssim(a, 0 * a) is None


def cascade(name: str) -> tuple[torch.nn.Module, Cascade]:
    network = nets.TOYS[name].build()
    image = nets.images()[:1]
    return network, Cascade(network, trace(network, image, selector(None)), tuple(image.shape[1:]), seed=3)


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", list(nets.TOYS))
def test_each_step_randomises_one_more_layer_and_puts_all_back(name: str) -> None:
    network, steps = cascade(name)
    before, modes = state(network), [m.training for m in network.modules()]
    changed_before: set[str] = set()
    for cut in steps.cuts:
        with steps.at(cut):
            changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        assert changed_before < changed
        changed_before = changed
    everything = {n for n, p in network.named_parameters() if p.numel() > 1 and p.std() > 0}
    assert everything <= changed_before
    assert modes == [m.training for m in network.modules()]
    for key, value in state(network).items():
        assert torch.equal(value, before[key]), key


def test_the_first_step_is_the_classifier_and_an_exception_puts_all_back() -> None:
    network, steps = cascade("plain")
    before = state(network)

    def fail() -> None:
        with steps.at(steps.cuts[0]):
            changed = {n.rpartition(".")[0] for n, p in network.named_parameters() if not torch.equal(p, before[n])}
            assert changed == {steps.cuts[0].down_to}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert all(torch.equal(value, before[key]) for key, value in state(network).items())
    last = [name for name, m in network.named_modules() if isinstance(m, torch.nn.Linear)][-1]
    assert steps.cuts[0].down_to == last


def test_random_weights_keep_their_scale_and_follow_the_seed() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 5), torch.nn.BatchNorm2d(64), torch.nn.Conv2d(64, 64, 5))
    network.eval().requires_grad_(False)
    with torch.no_grad():
        network[0].weight.mul_(3).add_(0.5)
    one, two, other = (Cascade(network, None, (3, 16, 16), seed) for seed in (1, 1, 2))
    with one.at(one.cuts[-1]):
        first, mean = network[0].weight.clone(), network[1].running_mean.clone()
    with two.at(two.cuts[-1]):
        assert torch.equal(first, network[0].weight)
        assert torch.equal(mean, network[1].running_mean)
    with other.at(other.cuts[-1]):
        assert not torch.equal(first, network[0].weight)
    assert float(first.std()) == pytest.approx(float(network[0].weight.std()), rel=0.05)
    assert float(first.mean()) == pytest.approx(0.5, rel=0.05)


def test_values_of_a_deep_network_do_not_explode() -> None:
    network = nets.torchvision_network("resnet18")
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    steps = Cascade(network, trace(network, image, selector(None)), (3, 64, 64), 0)
    assert [cut.layers for cut in steps.cuts] == sorted({cut.layers for cut in steps.cuts})
    assert steps.cuts[0].down_to == "fc"
    assert steps.cuts[-1].down_to == "conv1"
    with steps.at(steps.cuts[-1]), torch.no_grad():
        features = network.layer4(network.layer3(network.layer2(network.layer1(
            network.maxpool(network.relu(network.bn1(network.conv1(image))))))))  # fmt: skip
    assert 0.01 < float(features.std()) < 100


def run(out: Path, folder: Path, method: str, model: ModelSpec, **more: Any) -> dict[str, Any]:
    batch, limit = more.pop("batch", 2), more.pop("limit", 3)
    asked: dict[str, Any] = {"model": model, "batch_size": batch, "limit": limit, "save": (), **more}
    return ran(method, [folder], out, sanity=True, seed=1, **asked)[0]


def test_a_run_has_the_figures_of_every_map_and_their_means(tmp_path: Path, sample_images: Path) -> None:
    reports = [run(tmp_path / str(b), sample_images, "saliency", TINY, batch=b, classes=("top:2",)) for b in (1, 3)]
    rows = [e["scores"]["sanity"] for image in reports[0]["images"] for e in image["explanations"]]
    assert len(rows) == 6
    assert [row["down_to"] for row in rows[0]] == ["7", "3", "0"]
    for one, other in zip(*(report["images"] for report in reports), strict=True):
        for a, b in zip(one["explanations"], other["explanations"], strict=True):
            for x, y in zip(a["scores"]["sanity"], b["scores"]["sanity"], strict=True):
                assert x["spearman"] == pytest.approx(y["spearman"], abs=2e-4)
    for step, row in enumerate(reports[0]["summary"]["sanity"]):
        values = [one[step]["spearman"] for one in rows]
        half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
        assert row["spearman"]["value"] == pytest.approx(np.mean(values), abs=1e-4)
        assert row["spearman"]["ci95"] == pytest.approx([np.mean(values) - half, np.mean(values) + half], abs=2e-4)
        assert row["spearman"]["n"] == 6


def test_flat_maps_are_left_out_of_the_means() -> None:
    def row(value: float | None) -> Row:
        return Row([{"down_to": "fc", "layers": 1, "ssim": 0.5, "spearman": value}], "a.png", None)

    [step] = summarize([row(0.25), row(None), row(0.75)], RANDOMIZATION, Options()).figures
    assert (step["spearman"]["value"], step["spearman"]["n"]) == (0.5, 2)
    [step] = summarize([row(None)], RANDOMIZATION, Options()).figures
    assert step["spearman"] == {"value": None, "ci95": None, "n": 0}
    assert summarize([], RANDOMIZATION, Options()) == RunSummary([])


def test_guided_backpropagation_survives_randomisation_and_gradcam_does_not(
    tmp_path: Path, sample_images: Path
) -> None:
    """Adebayo et al. 2018, figure 2; and why deconvnet and guided backpropagation carry their caveat."""
    after = {}
    for method in ("guided", "gradcam"):
        small = ModelSpec(input_size=(3, 128, 128), resize=146)  # a third of the pixels that it is trained on
        report = run(tmp_path / method, sample_images, method, small, limit=2)
        steps = report["summary"]["sanity"]
        after[method] = steps[len(steps) // 3]["spearman"]["value"]
    assert after["guided"] > 0.85
    assert after["gradcam"] < 0.5
