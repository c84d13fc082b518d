"""Receptive fields against where the gradient of a linearised network is not zero."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import Graph, trace
from cnnviz.models.receptive_field.field import ReceptiveField, fields_or_reasons, receptive_field, receptive_fields
from tests.support.library import timm_network, torchvision_network

Box = tuple[int, int, int, int]
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def traced(network: nn.Module, size: tuple[int, int]) -> Graph:
    graph = trace(network.eval(), torch.rand(1, 3, *size), selector(None))
    assert graph is not None
    return graph


def linearised(network: nn.Module) -> nn.Module:
    """Averaging convolutions, no norms, no activations, average pooling: gradients are positive or exactly zero."""
    twin = copy.deepcopy(network).double()
    for name, module in list(twin.named_modules()):
        parent, _, last = name.rpartition(".")
        kind = type(module).__name__
        if (type(module) is nn.Conv2d and module.padding_mode == "zeros") or kind == "Conv2dSame":
            module.forward = _spreading(module)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MaxPool2d):
            module.forward = _averaging(module)  # type: ignore[method-assign]
        elif isinstance(module, _NORMS) or kind in {"SqueezeExcitation", "SqueezeExcite"} or _activates(module):
            setattr(twin.get_submodule(parent), last, nn.Identity())
    return twin.eval()


def _spreading(conv: nn.Conv2d) -> Any:
    """The same network of ones at a fraction of the work: each group's mean, one kernel, the same for all outputs."""
    kernel = torch.full((1, 1, *conv.kernel_size), 1.0 / math.prod(conv.kernel_size), dtype=torch.float64)

    def forward(x: Tensor) -> Tensor:
        if type(conv) is not nn.Conv2d:  # as TensorFlow pads: ceil(length / stride) outputs, the odd pixel behind
            need = [
                max(0, (-(-x.shape[d] // conv.stride[d]) - 1) * conv.stride[d] + conv.kernel_size[d] - x.shape[d])
                for d in (-1, -2)
            ]
            x = F.pad(x, [part for total in need for part in (total // 2, total - total // 2)])
        n, _, h, w = x.shape
        grouped = x.reshape(n * conv.groups, -1, h, w).mean(1, keepdim=True)
        y = F.conv2d(grouped, kernel, None, conv.stride, conv.padding, conv.dilation)
        outputs = y.expand(-1, conv.out_channels // conv.groups, -1, -1)
        return outputs.reshape(n, conv.out_channels, *y.shape[2:]).contiguous()  # some networks add in place

    return forward


def _activates(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _averaging(pool: Any) -> Any:
    return lambda x: F.avg_pool2d(x, pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)


def _average_instead(x: Tensor, kernel_size: Any, stride: Any = None, **more: Any) -> Tensor:
    return F.avg_pool2d(x, kernel_size, stride, more.get("padding", 0), more.get("ceil_mode", False))


class _EnoughError(Exception):
    pass


def seen(
    network: nn.Module, size: tuple[int, int], layers: list[str], units: Any
) -> dict[tuple[str, int, int], tuple[Box, tuple[int, int]]]:
    """Bounding box (x, y, w, h) of the pixels with a gradient, for units of layers; and the layer's (h, w)."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, out: Tensor) -> None:
        kept[name] = out.clone()
        if len(kept) == len(layers):
            raise _EnoughError

    for name in layers:
        network.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: keep(name, out))
    x = torch.ones(1, 3, *size, dtype=torch.float64, requires_grad=True)
    linear = mock.patch.multiple(F, relu=lambda x, inplace=False: x, max_pool2d=_average_instead)
    with linear, contextlib.suppress(_EnoughError):
        network(x)
    found: dict[tuple[str, int, int], tuple[Box, tuple[int, int]]] = {}
    for name, value in kept.items():
        h, w = value.shape[2:]
        for row, col in units(h, w):
            (gradient,) = torch.autograd.grad(value[0, :, row, col].sum(), x, retain_graph=True)
            found[name, row, col] = (_bounding(gradient[0].sum(0) != 0), (h, w))
    return found


def _bounding(mask: Tensor) -> Box:
    rows, cols = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
    if not rows:
        return 0, 0, 0, 0
    return cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1


def corners_and_centre(h: int, w: int) -> set[tuple[int, int]]:
    return {(0, 0), (h - 1, w - 1), (h // 2, w // 2)}


def every_row_and_column(h: int, w: int) -> list[tuple[int, int]]:
    return [(min(i, h - 1), min(i, w - 1)) for i in range(max(h, w))]


# (layer, size, stride, offset)
ANCHORS = {
    "alexnet": [("features.10", 163, 16, -66), ("features.12", 195, 32, -66)],
    "vgg16": [("features.28", 196, 16, -90), ("features.30", 212, 32, -90)],
    "resnet18": [("layer4", 435, 32, -217)],
}


@pytest.mark.parametrize("name", ANCHORS)
def test_figures_that_the_literature_states(name: str) -> None:
    graph = traced(torchvision_network(name), (64, 64))
    for layer, size, stride, offset in ANCHORS[name]:
        found = receptive_field(graph, graph.calls[layer][-1])
        assert (found.size, found.stride, found.offset) == ((size,) * 2, (stride,) * 2, (offset,) * 2)
        assert not found.global_context


def test_resnet50_has_427_and_with_the_papers_stride_in_the_first_convolution_483() -> None:
    network = torchvision_network("resnet50")
    graph = traced(network, (32, 32))
    found = receptive_field(graph, graph.calls["layer4"][-1])
    assert (found.size, found.stride, found.offset) == ((427, 427), (32, 32), (-213, -213))
    for stage in ("layer2", "layer3", "layer4"):
        block: Any = network.get_submodule(f"{stage}.0")
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    graph = traced(network, (32, 32))
    assert receptive_field(graph, graph.calls["layer4"][-1]).size == (483, 483)


# One of each family; the layers; whether a squeeze-and-excitation brings in the whole image.
FAMILIES = [
    ("alexnet", ["features.2", "features.12"], (260, 64), False),
    ("vgg11", ["features.9", "features.20"], (220, 32), False),
    ("resnet18", ["maxpool", "layer2", "layer4"], (500, 9), False),
    ("squeezenet1_1", ["features.4", "features.12"], (260, 19), False),
    ("densenet121", ["features.transition1", "features.denseblock2"], (300, 32), False),
    ("inception_v3", ["Mixed_5d", "Mixed_6a", "Mixed_6b"], (190, 76), False),
    ("googlenet", ["inception3b", "inception5b"], (150, 16), False),
    ("shufflenet_v2_x0_5", ["stage2", "conv5"], (200, 9), False),
    ("mobilenet_v2", ["features.6", "features.18"], (560, 9), False),
    ("mobilenet_v3_small", ["features.3", "features.12"], (150, 9), True),
    ("mnasnet0_5", ["layers.9", "layers.16"], (200, 9), False),
    ("efficientnet_b0", ["features.3", "features.8"], (200, 9), True),
    ("regnet_y_400mf", ["trunk_output.block1", "trunk_output"], (150, 9), True),
    ("convnext_tiny", ["features.2", "features.4"], (320, 32), False),
    ("timm/tf_efficientnet_lite0", ["conv_stem", "blocks.2", "bn2"], (915, 9), False),
]


@pytest.mark.parametrize(("name", "layers", "size", "context"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_the_field_is_where_the_gradient_is(name: str, layers: list[str], size: tuple[int, int], context: bool) -> None:
    network = timm_network(name[5:]) if name.startswith("timm/") else torchvision_network(name)
    graph = traced(network, size)
    fields = receptive_fields(graph)
    inside = 0
    for (layer, row, col), (box, _) in seen(linearised(network), size, layers, corners_and_centre).items():
        found = fields[graph.calls[layer][-1]]
        assert found is not None
        assert found.clipped(row, col, size) == box, (layer, row, col)
        inside += box[1] > 0 and box[1] + box[3] < size[0]
        if layer == layers[-1]:
            assert found.global_context is context
    assert inside, "no unit's field lies inside the image: the test shows nothing but borders"


class Net(nn.Module):
    """``body`` is what is measured; a head makes it a classifier."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x).flatten(1).sum(1, keepdim=True)
        return scores


def conv(inputs: int = 3, outputs: int = 4, kernel: Any = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


class Crops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(stride=2), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        x = F.pad(x[:, :, 1:, :-2], (3, 0, 0, 1))
        return self.b(x)[..., ::2, 1::3]


class Focus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv(12, 4, padding=1)

    def forward(self, x: Tensor) -> Any:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.a(torch.cat(parts, 1))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(kernel=1, stride=2), conv(stride=2, padding=1), conv(8, 4, (1, 5), padding=(0, 2))

    def forward(self, x: Tensor) -> Any:
        joined = torch.cat([self.a(x), self.b(x)], dim=1)
        return self.c(joined) + 0.5 * self.a(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, stride=(1, 2), padding=(2, 0))
        x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.avg_pool2d(x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 2, 1)


BODIES: dict[str, nn.Module] = {
    "crops": Crops(),
    "focus": Focus(),
    "branches": Branches(),
    "functional": Functional(),
    "asymmetric": nn.Sequential(nn.ZeroPad2d((0, 3, 1, 0)), conv(stride=2), nn.ReplicationPad2d(1), conv(4, 4)),
    "ceil": nn.Sequential(conv(padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True)),
    "same": nn.Sequential(conv(kernel=(5, 3), padding="same"), conv(4, 4, 5, padding="valid")),
    "even": nn.Sequential(conv(kernel=4, stride=3, padding=1), conv(4, 4, 2, padding=1)),
    "unshuffle": nn.Sequential(nn.PixelUnshuffle(2), conv(12, 4, padding=1)),
    "adaptive": nn.Sequential(conv(padding=1), nn.AdaptiveAvgPool2d((6, 5))),
}


@pytest.mark.parametrize("name", BODIES)
def test_every_row_and_column_of_small_graphs(name: str) -> None:
    size = (24, 30)
    network = Net(BODIES[name])
    graph = traced(network, size)
    found = receptive_field(graph, graph.calls["body"][-1])
    boxes = seen(linearised(network), size, ["body"], every_row_and_column)
    assert {key[1:]: found.clipped(*key[1:], size) for key in boxes} == {k[1:]: box for k, (box, _) in boxes.items()}


def test_dilation_is_exact_where_padding_hides_no_tap() -> None:
    network = Net(nn.Sequential(conv(dilation=(2, 3)), conv(4, 4, dilation=2, stride=2)))
    graph = traced(network, (40, 41))
    found = receptive_field(graph, graph.calls["body"][-1])
    assert (found.size, found.stride, found.offset) == ((9, 11), (2, 2), (0, 0))
    for (_, row, col), (box, _) in seen(linearised(network), (40, 41), ["body"], corners_and_centre).items():
        assert found.box(row, col) == box


ENLARGING: dict[str, nn.Module] = {
    "nearest": nn.Sequential(conv(stride=2, padding=1), nn.Upsample(scale_factor=2), conv(4, 4, padding=1)),
    "bilinear": nn.Sequential(conv(stride=4, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")),
    "by three": nn.Sequential(conv(stride=3, padding=1), nn.Upsample(scale_factor=3, mode="bilinear")),
    "transposed": nn.Sequential(conv(stride=4, padding=1), nn.ConvTranspose2d(4, 4, 4, 2, padding=1)),
    "pixel shuffle": nn.Sequential(conv(stride=4, padding=1), nn.PixelShuffle(2)),
    "to a half and back": nn.Sequential(nn.Upsample(scale_factor=2), conv(stride=4, padding=1)),
}


@pytest.mark.parametrize("name", ENLARGING)
def test_behind_enlargements_the_field_is_the_smallest_that_holds_for_all_phases(name: str) -> None:
    size = (24, 36)
    network = Net(ENLARGING[name])
    graph = traced(network, size)
    found = receptive_field(graph, graph.calls["body"][-1])
    edges = []
    for (_, row, col), ((x, y, w, h), _) in seen(linearised(network), size, ["body"], every_row_and_column).items():
        x0, y0, w0, h0 = found.box(row, col)
        margins = (x - x0, y - y0, x0 + w0 - x - w, y0 + h0 - y - h)
        assert min(margins) >= 0, (row, col)
        edges.append([margin == 0 for margin in margins])
    assert all(any(column) for column in zip(*edges, strict=True)), "too large: no unit reaches its edge"


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.a, self.fc, self.spelling = conv(stride=2), nn.Linear(4, 4), spelling

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.spelling == "pool":
            return x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))
        if self.spelling == "linear":
            return x * torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]
        if self.spelling == "rows":
            return x * torch.sigmoid(x.mean(3, keepdim=True))
        tokens = x.flatten(2)
        mixed = torch.softmax(tokens.transpose(1, 2) @ tokens, -1)
        return x + (tokens @ mixed).view(x.shape)


@pytest.mark.parametrize("spelling", ["pool", "linear", "rows", "attention"])
def test_what_reads_the_whole_map_is_stated_and_the_local_path_kept(spelling: str) -> None:
    graph = traced(Net(Gate(spelling)), (21, 33))
    found = receptive_field(graph, graph.calls["body"][-1])
    assert (found.size, found.stride, found.offset, found.global_context) == ((3, 3), (2, 2), (0, 0), True)
    first = receptive_field(graph, graph.calls["body.a"][-1])
    assert not first.global_context


@pytest.mark.parametrize(
    ("norm", "context"), [(nn.GroupNorm(2, 4), True), (nn.InstanceNorm2d(4), True), (nn.BatchNorm2d(4), False)]
)
def test_normalisation_over_the_map_is_context(norm: nn.Module, context: bool) -> None:
    graph = traced(Net(nn.Sequential(conv(), norm)), (16, 20))
    assert receptive_field(graph, graph.calls["body"][-1]).global_context is context


class Mismatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(stride=2, padding=1), conv(padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.a(x) + self.b(x)[:, :, : (x.shape[2] + 1) // 2, : (x.shape[3] + 1) // 2]


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flip(x, (3,))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (Mismatched(), "its branches differ in stride"),
        (Odd(), "flip"),
        (conv(padding=1, padding_mode="circular"), "circularly"),
        (nn.AdaptiveAvgPool2d((5, 7)), "differ in size"),
        (nn.Upsample(scale_factor=2), "1/2 of a pixel apart"),
        (nn.Flatten(2), "leaves no positions"),
    ],
)
def test_no_figure_is_better_than_a_wrong_one(body: nn.Module, words: str) -> None:
    graph = traced(Net(body), (16, 20))
    node = graph.calls["body"][-1]
    assert words in str(fields_or_reasons(graph)[node])
    assert receptive_fields(graph)[node] is None
    with pytest.raises(CnnvizError, match="receptive field of body is not known"):
        receptive_field(graph, node)


def test_boxes_are_x_y_width_height() -> None:
    found = ReceptiveField(size=(5, 9), stride=(2, 4), offset=(-1, -3))
    assert found.box(2, 1) == (1, 3, 9, 5)
    assert found.clipped(0, 0, (30, 40)) == (0, 0, 6, 4)
    assert found.clipped(14, 9, (30, 40)) == (33, 27, 7, 3)
