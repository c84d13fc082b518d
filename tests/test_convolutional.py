"""Classifiers read convolutionally, against the network slid by hand and against heads applied to windows by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.errors import CnnvizError
from cnnviz.models.fully_convolutional.rewrite import (
    CLASS_MAP,
    Cells,
    FullyConvolutional,
    cells,
    convolutional,
    moves_with_size,
)
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import Graph, at_size, trace
from tests.support import digits
from tests.support.library import fill, timm_network, torchvision_network


def pixels(height: int, width: int | None = None, channels: int = 3, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, channels, height, width or height), generator=generator)


def traced(network: nn.Module, probe: Tensor, key: str | None = None) -> Graph:
    graph = trace(network, probe, selector(key))
    assert graph is not None
    return graph


def rewritten(network: nn.Module, probe: Tensor) -> FullyConvolutional:
    return convolutional(traced(network, probe), "net")


def class_map(module: FullyConvolutional, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = module.class_map(module.head(module.body(x)))
    return found


def places(module: FullyConvolutional, probe: Tensor, size: tuple[int, int] | None = None) -> Cells:
    graph = traced(module, probe)
    return cells(graph, graph.calls[CLASS_MAP][0], size)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float(expected.std()) > 1e-3, "a map without differences proves nothing"
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def windows(features: Tensor, window: tuple[int, int], head: Callable[[Tensor], Tensor]) -> Tensor:
    """A head applied to every window of a feature map, one after the other: [N, K, rows, cols]."""
    h, w = window
    rows = [
        torch.stack([head(features[:, :, i : i + h, j : j + w]) for j in range(features.shape[3] - w + 1)], 2)
        for i in range(features.shape[2] - h + 1)
    ]
    return torch.stack(rows, 2)


Oracle = Callable[[Any, Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


def _mean(linear: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda a: linear(a.mean((2, 3)))


def _resnet(net: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x)))), _mean(net.fc)


LIBRARY: dict[str, tuple[int, tuple[int, int], Oracle]] = {
    "alexnet": (224, (256, 320), lambda net, x: (net.features(x), lambda a: net.classifier(a.flatten(1)))),
    "vgg11": (224, (224, 290), lambda net, x: (net.features(x), lambda a: net.classifier(a.flatten(1)))),
    "resnet18": (96, (160, 129), _resnet),
    "mobilenet_v2": (96, (160, 129), lambda net, x: (net.features(x), _mean(net.classifier))),
    "squeezenet1_1": (
        96, (131, 144), lambda net, x: (F.relu(net.classifier[1](net.features(x))), lambda a: a.mean((2, 3)))
    ),
    "densenet121": (64, (96, 65), lambda net, x: (F.relu(net.features(x)), _mean(net.classifier))),
    "efficientnet_lite0": (96, (160, 129), lambda net, x: (net.forward_features(x), _mean(net.classifier))),
}  # fmt: skip


@pytest.mark.parametrize("name", LIBRARY)
def test_one_cell_is_the_ordinary_output_and_larger_maps_are_windows_of_the_features(name: str) -> None:
    size, larger, oracle = LIBRARY[name]
    network = timm_network(name) if name.startswith("efficientnet") else torchvision_network(name)
    probe = pixels(size)
    module = rewritten(network, probe)
    with torch.no_grad():
        ordinary = network(probe)
        close(module(probe), ordinary)
        found = class_map(module, probe)
        assert found.shape[2:] == (1, 1)
        close(found.flatten(1), ordinary)
        big = pixels(*larger)
        features, head = oracle(network, big)
        expected = windows(features, module.window, head)
    assert expected.shape[2] * expected.shape[3] > 1
    close(class_map(module, big), expected)


def test_alexnet_at_451_pixels_has_8_by_8_cells() -> None:
    # torchvision's pads its first convolution by 2 and trains at 224, Caffe's pads nothing and trains at 227; both have
    # 13 x 13 cells behind the last pooling, and windows of 6 x 6: 8 x 8.
    network = torchvision_network("alexnet")
    module = rewritten(network, pixels(224))
    graph = traced(module, pixels(224))
    large = at_size(graph, (451, 451))
    assert large.shapes[large.calls[CLASS_MAP][0]] == (1, 12, 8, 8)
    where = cells(graph, graph.calls[CLASS_MAP][0], (451, 451))
    assert (where.first, where.stride, where.window, where.field.size) == ((112, 112), (32, 32), (224, 224), (355, 355))


class Unpadded(nn.Module):
    """Convolutions without padding: a crop gives what the cell above it gives."""

    def __init__(self, pool: nn.Module, inputs: int, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 3, stride=2), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ELU()
        )
        self.pool = pool
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8 * inputs, 10), nn.BatchNorm1d(10), nn.ReLU(inplace=True), nn.LayerNorm(10),
            nn.Linear(10, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.classifier(x.view(x.size(0), -1))


POOLS = {
    # 21 x 27 pixels: 8 x 11 cells.
    "none": (nn.Identity(), 88, 2),
    "identity": (nn.AdaptiveAvgPool2d((8, 11)), 88, 2),
    "global": (nn.AdaptiveAvgPool2d(1), 1, 2),
    "global maximum": (nn.AdaptiveMaxPool2d(1), 1, 2),
    "even": (nn.AdaptiveAvgPool2d((4, 11)), 44, (4, 2)),
    "even maximum": (nn.AdaptiveMaxPool2d((2, 11)), 22, (8, 2)),
    "uneven": (nn.AdaptiveAvgPool2d((3, 7)), 21, 2),
    "enlarging": (nn.AdaptiveAvgPool2d((12, 11)), 132, 2),
    "kernel of the map": (nn.AvgPool2d((8, 11)), 1, 2),
    "stage of the body": (nn.MaxPool2d(2), 20, 4),
}


@pytest.mark.parametrize("pool", POOLS)
def test_every_cell_is_the_network_slid_by_hand(pool: str) -> None:
    layer, inputs, stride = POOLS[pool]
    down, across = stride if isinstance(stride, tuple) else (stride, stride)
    network = fill(Unpadded(layer, inputs))
    module = rewritten(network, pixels(21, 27))
    big = pixels(38, 49)
    found = class_map(module, big)
    with torch.no_grad():
        slid = [
            torch.stack([network(big[:, :, i : i + 21, j : j + 27]) for j in range(0, 49 - 27 + 1, across)], 2)
            for i in range(0, 38 - 21 + 1, down)
        ]
    expected = torch.stack(slid, 2)
    # At the end one may have a position more: a pooling drops what fills no kernel, of the crop or of the whole.
    rows, cols = (min(found.shape[a], expected.shape[a]) for a in (2, 3))
    assert all(abs(expected.shape[a] - found.shape[a]) <= 1 for a in (2, 3))
    close(found[:, :, :rows, :cols], expected[:, :, :rows, :cols])
    where = places(module, pixels(21, 27))
    assert where.stride == (down, across)
    assert (where.first, where.window) == ((10.5, 13.5), (21, 27))
    assert where.field.offset == (0, 0)


def seen_region(module: FullyConvolutional, size: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last row and column with an influence on a cell, by gradients in float64."""
    module = module.double()
    x = pixels(*size).double().requires_grad_()
    module.class_map(module.head(module.body(x)))[0, :, cell[0], cell[1]].abs().sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0).nonzero()
    (top, left), (bottom, right) = seen.min(0).values.tolist(), seen.max(0).values.tolist()
    return top, bottom, left, right


@pytest.mark.parametrize("cell", [(0, 0), (2, 3), (4, 1)])
def test_what_a_cell_of_a_padded_network_sees(cell: tuple[int, int]) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    module = rewritten(fill(network), pixels(24))
    where = places(module, pixels(24))
    assert (where.first, where.stride) == ((12, 12), (4, 4))
    size = (44, 52)
    top, bottom, left, right = seen_region(module, size, cell)
    first = [where.field.offset[a] + cell[a] * where.stride[a] for a in (0, 1)]
    assert (top, left) == (max(0, first[0]), max(0, first[1]))
    assert (bottom, right) == tuple(min(size[a], first[a] + where.field.size[a]) - 1 for a in (0, 1))


def test_padding_as_tensorflow_does_moves_the_cells_with_the_size() -> None:
    from timm.layers import Conv2dSame

    network = nn.Sequential(
        Conv2dSame(3, 4, 3, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    module = rewritten(fill(network), pixels(16))
    graph = traced(module, pixels(16))
    assert moves_with_size(graph)
    # At an even size the kernels begin with the picture, at an odd one a pixel before it.
    assert cells(graph, graph.calls[CLASS_MAP][0], (24, 27)).first == (8, 7)
    for size in ((24, 27), (25, 24)):
        where = cells(graph, graph.calls[CLASS_MAP][0], size)
        top, bottom, left, right = seen_region(module, size, (2, 2))
        assert (top, left) == tuple(where.field.offset[a] + 2 * where.stride[a] for a in (0, 1))
        # 16 pixels have 8 cells, of which the last sees one pixel of padding: 17 from first to last.
        assert (bottom - top + 1, right - left + 1) == where.field.size == (17, 17)
        assert (top - 2 * 2 + 8, left - 2 * 2 + 8) == where.first
    assert not moves_with_size(traced(rewritten(torchvision_network("resnet18"), pixels(64)), pixels(64)))


def test_weights_are_shared_and_the_network_is_left_alone() -> None:
    network = fill(Unpadded(nn.Identity(), 88))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    module = rewritten(network, pixels(21, 27))
    shared = {p.data_ptr() for p in network.parameters()}
    assert all(p.data_ptr() in shared for p in module.parameters() if p.dim() == 4)
    assert isinstance(network.classifier[1], nn.Linear)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "classifier.1 (Linear): 8x11 convolution, 8 to 10" in module.changes


class Wrapped(nn.Module):
    """Returns its scores in a mapping, behind a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Unpadded(nn.AdaptiveAvgPool2d(1), 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"heads": [torch.softmax(self.inner(x), 1)], "other": x.mean()}


def test_scores_under_a_key_and_behind_a_softmax() -> None:
    network, probe = fill(Wrapped()), pixels(21, 27, count=2)
    module = convolutional(traced(network, probe, "heads.0"), "net", "heads.0")
    with torch.no_grad():
        close(module(probe)["heads"]["0"], network(probe)["heads"][0])
        scores = network.inner(probe)
    runtime = rt.resolve("cpu", "fp32")
    options = SessionOptions(Cut.at_layers(CLASS_MAP), "heads.0")
    with open_session(module, "net", (3, 21, 27), runtime, options) as session:
        assert session.final_activation == "softmax"
        run = session.forward(probe)
        close(run.logits.detach(), scores)
        close(run.activations[0].detach().flatten(1), scores)
        assert session.forward(pixels(40)).activations[0].shape == (1, 5, 10, 7)


def test_a_grey_network() -> None:
    network = digits.make().eval()
    module = rewritten(network, pixels(8, channels=1))
    big = pixels(16, 12, channels=1)
    with torch.no_grad():
        close(module(pixels(8, channels=1)), network(pixels(8, channels=1)))
        features = network[:5](big)
        close(class_map(module, big), windows(features, (4, 4), lambda a: network[5:](a)))


class Odd(nn.Module):
    """A feature map and a head of choice."""

    def __init__(self, head: Callable[[Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.parts, self.head = nn.Conv2d(3, 4, 3), nn.ModuleList(parts), head

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(F.relu(self.conv(x)))
        for part in self.parts:
            x = part(x)
        return x


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "branches": (
        Odd(lambda a: torch.cat([a.mean((2, 3)), a.amax((2, 3))], 1), nn.Linear(8, 3)),
        "several branches meet in cat behind its last feature map",
    ),
    "softmax": (Odd(lambda a: a.mean((2, 3)), nn.Softmax(1), nn.Linear(4, 3)), r"parts.0 \(Softmax\) stands between"),
    "order": (Odd(lambda a: a.permute(0, 2, 3, 1).flatten(1), nn.Linear(144, 3)), "its axes 1 and 2"),
    "unequal maxima": (
        Odd(lambda a: F.adaptive_max_pool2d(a, 4).flatten(1), nn.Linear(64, 3)), "4x4 of 6x6 cells by unequal windows"
    ),
    "unequal averages": (
        Odd(lambda a: F.adaptive_avg_pool2d(a, 4).relu().flatten(1), nn.Linear(64, 3)), "cells are of unequal size"
    ),
    "norm of the map": (
        Odd(lambda a: a.flatten(1), nn.LayerNorm(144), nn.Linear(144, 3)), r"parts.0 \(LayerNorm\) stands between"
    ),
    "columns": (Odd(lambda a: a, nn.Linear(6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "receptive field"),
    "no vector": (Odd(lambda a: a[:, :, :2, :2]), r"getitem makes \[4, 2, 2\] of \[4, 6, 6\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(name: str) -> None:
    network, reason = REFUSED[name]
    with pytest.raises(CnnvizError, match=reason):
        rewritten(fill(network), pixels(8))


def test_transformers_are_refused() -> None:
    network = torchvision_network("vit_b_32")
    with pytest.raises(CnnvizError, match="self-attention"):
        rewritten(network, pixels(224))
