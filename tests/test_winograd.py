"""Convolutions with fewer products equal sums of products in float64, alone, packed and in whole networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import cnnviz
from cnnviz.engine.prepare import winograd
from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.engine.prepare.winograd import Weights, library

USED = library() is not None and winograd.pays(torch.empty(1, 64, 32, 32), (1, 1))
pytestmark = pytest.mark.skipif(not USED, reason="no C compiler, another processor, or no threads of PyTorch's for C")
LAST = torch.channels_last
# Rounding of float32, of sums of a thousand products, by the largest of the results.
EXACT = 3e-6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(weight: Tensor) -> Weights:
    built = library()
    assert built is not None
    return Weights(weight, built)


def error(made: Tensor, expected: Tensor) -> float:
    assert made.shape == expected.shape
    return float((made - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("images", "channels", "kinds", "size", "padding"),
    [
        (1, 64, 64, (8, 8), (1, 1)),
        (3, 64, 48, (7, 10), (1, 1)),
        (2, 80, 32, (9, 5), (0, 0)),
        (5, 64, 112, (4, 13), (0, 2)),
        (2, 128, 64, (1, 6), (1, 0)),
        (40, 64, 32, (3, 3), (0, 0)),
    ],
)
def test_equals_float64(
    images: int, channels: int, kinds: int, size: tuple[int, int], padding: tuple[int, int]
) -> None:
    x, weight, bias = drawn(images, channels, *size), drawn(kinds, channels, 3, 3), drawn(kinds)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    onto = drawn(*expected.shape)
    tiled = weights(weight)
    assert error(tiled.convolve(x, padding, bias), expected) < EXACT
    summed = tiled.convolve(x.contiguous(memory_format=LAST), padding, bias, onto, (-1.0, 20.0))
    assert error(summed, (expected + onto).clamp(-1, 20)) < EXACT
    plain = expected - bias.double()[:, None, None]
    rectified = tiled.convolve(x, padding, bounds=(0.0, math.inf))
    assert error(rectified, plain.relu()) < EXACT


def test_it_is_as_exact_as_the_sums_of_products_that_it_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False), drawn(2, 256, 14, 14).relu()
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    packed = PackedConv(conv, torch.float32, tuple(x.shape))
    fewer = packed(x)
    monkeypatch.setattr(winograd, "pays", lambda *args: False)
    plain = packed(x)
    assert not torch.equal(fewer, plain)
    assert error(fewer, exact) < 1.5 * error(plain, exact)


@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
def test_results_overwrite_what_they_are_added_to(order: torch.memory_format) -> None:
    x, weight = drawn(2, 64, 9, 9), drawn(64, 64, 3, 3)
    onto = drawn(2, 64, 9, 9, seed=1).contiguous(memory_format=order)
    expected = F.conv2d(x.double(), weight.double(), padding=1) + onto
    tiled = weights(weight)
    kept = onto.clone()
    assert error(tiled.convolve(x, (1, 1), None, onto), expected) < EXACT
    assert torch.equal(onto, kept)
    assert tiled.convolve(x, (1, 1), None, onto, over=True).data_ptr() == onto.data_ptr()
    assert error(onto, expected) < EXACT


def test_an_addition_of_another_shape_is_refused() -> None:
    tiled = weights(drawn(64, 64, 3, 3))
    with pytest.raises(ValueError, match=r"\(1, 64, 8, 8\) cannot be added to \(1, 64, 6, 6\)"):
        tiled.convolve(drawn(1, 64, 8, 8), (0, 0), None, drawn(1, 64, 8, 8))


def test_other_channels_and_tensors_without_memory_are_refused() -> None:
    tiled = weights(drawn(64, 64, 3, 3))
    for channels in (32, 128):
        with pytest.raises(ValueError, match=f"{channels} channels, where the weight has 64"):
            tiled.convolve(drawn(1, channels, 8, 8), (1, 1))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match="dense arrays"):
        tiled.convolve(drawn(1, 64, 8, 8), (1, 1))


def test_without_threads_for_c_only_one_thread_computes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "parallel_for", lambda: None)
    x = torch.empty(1, 64, 32, 32)
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        assert winograd.pays(x, (1, 1)) == (threads == 1)


def test_an_image_gives_the_same_bits_in_every_batch_and_on_any_number_of_threads() -> None:
    x, tiled = drawn(7, 64, 11, 11), weights(drawn(96, 64, 3, 3))
    threads = torch.get_num_threads()
    whole = tiled.convolve(x, (1, 1))
    assert all(torch.equal(tiled.convolve(x[i : i + 1], (1, 1))[0], whole[i]) for i in range(7))
    try:
        for count in (1, 2, 5, 64):
            torch.set_num_threads(count)
            assert torch.equal(tiled.convolve(x, (1, 1)), whole)
    finally:
        torch.set_num_threads(threads)


def test_what_is_no_number_stays_with_its_image() -> None:
    x, tiled = drawn(3, 64, 8, 8), weights(drawn(64, 64, 3, 3))
    clean = tiled.convolve(x, (1, 1), bounds=(0.0, 6.0))
    x[1, 5, 4, 4] = math.nan
    made = tiled.convolve(x, (1, 1), bounds=(0.0, 6.0))
    assert torch.equal(made[::2], clean[::2])
    assert made[1, :, 3:6, 3:6].isnan().all()


class Counted:
    """How often convolutions were computed with fewer products."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        plain = Weights.convolve

        def convolve(tiled: Weights, *args: Any, **more: Any) -> Tensor:
            self.times += 1
            return plain(tiled, *args, **more)

        monkeypatch.setattr(Weights, "convolve", convolve)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.parametrize(
    ("activation", "plain"),
    [
        (("none", [], ""), nn.Identity()),
        (("relu", [], ""), nn.ReLU()),
        (("hardtanh", [-0.5, 4.0], ""), nn.Hardtanh(-0.5, 4.0)),
        (("swish", [], ""), nn.SiLU()),
    ],
)
def test_packed_convolutions_use_it(counted: Counted, activation: Any, plain: nn.Module) -> None:
    conv, x, other = nn.Conv2d(64, 64, 3, padding=1), drawn(2, 64, 12, 12), drawn(2, 64, 12, 12, seed=1)
    packed = PackedConv(conv.requires_grad_(False), torch.float32, (2, 64, 12, 12))
    packed.activation = activation
    exact = F.conv2d(x.double(), conv.weight.double(), packed.bias.double(), padding=1)  # type: ignore[union-attr]
    assert error(packed(x), plain(exact)) < EXACT
    assert error(packed(x, other), plain(exact + other)) < EXACT
    assert error(packed.before_activation(x, other), exact + other) < EXACT
    inside = F.conv2d(x.double(), conv.weight.double())
    assert error(packed.linear(x, None, [0, 0]), inside) < EXACT
    assert error(packed.convolve(x, None, [0, 0]), plain(inside + packed.bias[:, None, None])) < EXACT  # type: ignore[index]
    assert counted.times == 5


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 3, 2, 1),
        nn.Conv2d(64, 64, 3, 1, 2, 2),
        nn.Conv2d(64, 64, 3, 1, 1, groups=2),
        nn.Conv2d(64, 64, (3, 1), 1, (1, 0)),
        nn.Conv2d(16, 64, 3, 1, 1),
        nn.Conv2d(72, 64, 3, 1, 1),
    ],
    ids=["stride", "dilation", "groups", "kernel", "narrow", "uneven"],
)
def test_other_convolutions_are_sums_of_products(counted: Counted, conv: nn.Conv2d) -> None:
    x = drawn(1, conv.in_channels, 12, 12)
    packed = PackedConv(conv.requires_grad_(False), torch.float32, tuple(x.shape))
    assert error(packed(x), conv.double()(x.double())) < EXACT
    assert counted.times == 0


def test_whether_it_pays_is_the_same_for_a_batch_and_its_images() -> None:
    for size in range(1, 20):
        for padding in ((0, 0), (1, 1)):
            one, many = (winograd.pays(torch.empty(count, 64, size, size), padding) for count in (1, 500))
            assert one == many
            assert not one or size >= 7
    parts = torch.empty(500, 64, 6, 6)
    assert winograd.pays(parts, (0, 0), len(parts))
    assert not winograd.pays(parts.double(), (0, 0), len(parts))
    assert not winograd.pays(torch.empty(0, 64, 32, 32), (1, 1))


class Blocks(nn.Module):
    """Two residual blocks wide enough."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(4))
        self.fc = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for first, second in zip(self.convs[::2], self.convs[1::2], strict=True):
            x = F.relu(x + second(F.relu(first(x))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def loaded() -> cnnviz.Model:
    return cnnviz.load_model(f"{__file__}:Blocks", input_size=(3, 32, 32), resize=32, seed=3)


@pytest.mark.parametrize(
    ("method", "options"), [("gradcam", {}), ("saliency", {}), ("occlusion", {"stride": 6, "window": 12})]
)
def test_maps_equal_those_of_sums_of_products(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    x = drawn(2, 3, 32, 32)
    model, other = loaded(), loaded()
    made = cnnviz.explain(model, x, method, 3, **options).raw
    used = counted.times
    monkeypatch.setattr(winograd, "library", lambda: None)
    expected = cnnviz.explain(other, x, method, 3, **options).raw
    assert used
    assert counted.times == used
    assert not torch.equal(made, expected)
    assert (made - expected).abs().max() < 1e-4 * expected.abs().max()
