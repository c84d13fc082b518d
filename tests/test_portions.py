"""A prepared trunk over some images of a batch at a time: which ones, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine.prepare import portions
from cnnviz.engine.prepare.pack import PackedConv
from tests.support.networks import as_model, calibrate


def _network(*rest: nn.Module) -> nn.Sequential:
    """Wide maps of few weights: 64 channels at full size, then 8 of a sixteenth of the positions."""
    torch.manual_seed(7)
    layers = [nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 8, 4, stride=4), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(8, 8, 1), *rest, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(8, 5))
    calibrated = calibrate(network, (64, 64))
    assert isinstance(calibrated, nn.Sequential)
    return calibrated


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the first convolution was given."""
    counts: list[int] = []
    run = PackedConv.forward

    def spied(conv: PackedConv, x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.shape[1] == 3:
            counts.append(len(x))
        return run(conv, x, other)

    monkeypatch.setattr(PackedConv, "forward", spied)
    return counts


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))


def _model(network: nn.Module) -> cnnviz.Model:
    return as_model(network, (64, 64))


# The largest map takes a MiB for an image.
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((20 << 20, 24 << 20, 4), [13]),
        ((5 << 20, 24 << 20, 4), [5, 4, 4]),
        ((3 << 20, 4 << 20, 4), [4, 3, 3, 3]),  # four at least, if they may be as large as that
        ((2 << 20, 3 << 20, 4), [13]),
    ],
)
def test_portions_by_what_the_largest_map_takes(
    seen: list[int], monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int, int], expected: list[int]
) -> None:
    network, images = _network(), _images(13)
    for name, value in zip(("_BYTES", "_MOST", "_LEAST"), limits, strict=True):
        monkeypatch.setattr(portions, name, value)
    seen.clear()
    found = cnnviz.explain(_model(network), images, "gradcam", target=list(range(5)) * 2 + [0, 1, 2])
    assert seen[-len(expected) :] == expected

    activations = network[:6](images)
    leaf = torch.relu(activations).detach().requires_grad_()
    scores = network[7:](leaf)
    chosen = scores.gather(1, torch.tensor(list(range(5)) * 2 + [0, 1, 2])[:, None])
    gradient = torch.autograd.grad(chosen.sum(), leaf)[0]
    expected_maps = torch.relu((gradient.mean((2, 3), keepdim=True) * leaf).sum(1))
    torch.testing.assert_close(found.logits, scores.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.raw, expected_maps.detach(), rtol=1e-4, atol=1e-6)


def test_a_thread_has_an_image_at_least(seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_BYTES", 5 << 20)
    network, before = _network(), torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        cnnviz.explain(_model(network), _images(13), "gradcam", target=1)
    finally:
        torch.set_num_threads(before)
    assert seen[-1] == 13


def test_many_weights_are_read_once(seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_BYTES", 5 << 20)
    wide = _network(nn.Conv2d(8, 512, 3, padding=1), nn.Conv2d(512, 512, 3, padding=1), nn.Conv2d(512, 8, 1))
    cnnviz.explain(_model(wide), _images(13), "gradcam", target=1)
    assert seen[-1] == 13


def test_what_leaves_in_whole_is_not_put_together(seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_BYTES", 5 << 20)
    cnnviz.explain(_model(_network()), _images(13), "gradcam", target=1, layer="2")
    assert seen[-1] == 13


@pytest.mark.parametrize(
    "others",
    [lambda x: (len(x),), lambda x: (x.new_zeros(1, 2),), lambda x: (x.sum(0),)],
    ids=["a number", "one for all", "a sum"],
)
def test_values_without_a_row_for_each_image(others: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_BYTES", 4)
    monkeypatch.setattr(portions, "_MOST", 1 << 20)
    batch = torch.arange(45.0).reshape(9, 5, 1, 1)
    found = portions.in_portions(lambda x: (x * 2, *others(x)), batch, 1.0)
    expected = (batch * 2, *others(batch))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found, expected, strict=True))


def test_a_table_is_none_of_the_images(seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A value with as many rows as a portion has images, by chance, which crosses the cut."""
    monkeypatch.setattr(portions, "_BYTES", 4 << 20)

    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.above = _network()[:6], nn.Linear(8, 5)

        def forward(self, image: Tensor) -> Tensor:
            table = image.new_ones(4, image.shape[2]).cumsum(0)
            maps = self.below(image)
            return self.above(F.adaptive_avg_pool2d(torch.relu(maps), 1).flatten(1) * table.sum() / 640)

    network = Crossing().eval()
    images = _images(12)
    found = cnnviz.explain(_model(network), images, "gradcam", target=1, layer="below.5")
    assert seen[-1] == 12
    torch.testing.assert_close(found.logits, network(images).detach(), rtol=1e-4, atol=1e-5)
