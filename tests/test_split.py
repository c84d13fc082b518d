"""The network cut into trunk and head: rewritten copies give the same numbers, and what is rewritten is counted."""

from __future__ import annotations

import copy
import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.engine.prepare.pack import PackedConv, tells_orders
from cnnviz.engine.prepare.split import Split, cut
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layers import resolve
from cnnviz.models.graph.trace import Graph, trace
from tests.support import networks as nets

CPU = rt.Runtime(torch.device("cpu"), "fp32")
PREPARATIONS = ["shared", "plain", "folded", "packed"]
TRACED = [name for name, toy in nets.TOYS.items() if toy.traces]


def _graph(network: nn.Module, size: tuple[int, int] = (12, 16)) -> Graph:
    network.requires_grad_(False)
    found = trace(network, nets.images(1, size), lambda value: value)
    assert found is not None
    return found


def _run(split: Split, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    run = opening._graph_runner(split)(x)
    return run.logits, run.activations


def _parts(split: Split, kind: type[nn.Module]) -> list[nn.Module]:
    assert isinstance(split.trunk, nn.Module)
    return [m for m in split.trunk.modules() if isinstance(m, kind)]


@pytest.mark.parametrize("preparation", PREPARATIONS)
@pytest.mark.parametrize("name", TRACED)
def test_values_equal_the_formula(name: str, preparation: str) -> None:
    toy = nets.TOYS[name]
    network = toy.build()
    graph = _graph(network)
    layer = resolve(graph, toy.layer, "toy")
    assert layer.pre_activation is toy.pre_activation
    split = cut(graph, [layer.node], CPU, preparation)
    x = nets.images(2)
    logits, (activation,) = _run(split, x)
    exact = copy.deepcopy(network).double()
    a, head = toy.split(exact, x.double())
    scale = float(a.abs().max())
    torch.testing.assert_close(activation.double(), a, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(logits.double(), head(a), rtol=0, atol=1e-5 * float(head(a).abs().max()))
    assert activation.is_leaf
    assert activation.requires_grad
    assert split.preparation == preparation


def test_normalisations_are_folded_into_convolutions() -> None:
    """Statistics far from zero and one: two normalisations fewer, four convolutions' numbers the same."""
    network = nets.TOYS["residual"].build()
    assert float((network.norm.running_mean.abs() + (network.norm.running_var - 1).abs()).min()) > 1e-3
    graph = _graph(network)
    node = resolve(graph, None, "toy").node
    plain, folded, packed = (cut(graph, [node], CPU, p) for p in ("plain", "folded", "packed"))
    assert [len(_parts(s, nn.BatchNorm2d)) for s in (plain, folded, packed)] == [2, 0, 0]
    assert [len(_parts(s, nn.Conv2d)) for s in (plain, folded, packed)] == [3, 3, 0]
    assert len(_parts(packed, PackedConv)) == 3
    assert len(_parts(packed, nn.ReLU)) == 0


@pytest.mark.skipif(
    not rt.packable(torch.device("cpu")) or not tells_orders(), reason="no packed convolutions, or orders are not told"
)
def test_weights_are_in_the_order_of_the_input_and_of_the_threads() -> None:
    """Packed for one image and one number of threads, run with others: as if packed for those, and no copy more."""
    conv = nn.Conv2d(64, 192, 1).requires_grad_(False)
    order: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    with rt.threads(2):
        packed = PackedConv(conv, torch.float32, (1, 64, 7, 7))
    held = set()
    for threads in (1, 2):
        for shape in ((1, 64, 7, 7), (8, 64, 7, 7), (8, 64, 7, 9), (1, 64, 30, 40)):
            x = nets.images(shape[0], shape[2:]).mean(1, keepdim=True).repeat(1, 64, 1, 1)
            with rt.threads(threads):
                found = packed(x)
                wanted = order(conv.weight.to_mkldnn(), *packed.geometry, list(shape))
                used = packed._weight_for(shape)
                assert packed._weight_for(shape) is used
            torch.testing.assert_close(found.double(), conv.double()(x.double()), rtol=0, atol=1e-5)
            conv.float()
            assert pack_orders(used) == pack_orders(wanted)
            held.add(id(used))
    assert len(held) == len({pack_orders(weight) for weight in packed._fitting.values()})


@pytest.mark.skipif(
    not rt.packable(torch.device("cpu")) or not tells_orders(), reason="no packed convolutions, or orders are not told"
)
def test_weights_of_many_shapes_are_held_once() -> None:
    packed = PackedConv(nn.Conv2d(16, 32, 3, padding=1).requires_grad_(False), torch.float32, (1, 16, 9, 9))
    held = {id(packed._weight_for((1, 16, 9 + side, 30 - side))): side for side in range(12)}
    assert len(held) <= len({pack_orders(weight) for weight in packed._fitting.values()})


@pytest.mark.skipif(not rt.packable(torch.device("cpu")), reason="no packed convolutions")
def test_a_part_that_comes_again_is_convolved_alike() -> None:
    """With padding of its own, and in whatever order the weight is then held."""
    conv = nn.Conv2d(16, 24, 3, 2, 1).requires_grad_(False)
    packed = PackedConv(conv, torch.float32, (1, 16, 30, 30))
    x = torch.randn(5, 16, 9, 7)
    for padding in ([0, 0], [2, 1], [1, 1]):
        expected = nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 2, padding)
        for _ in range(3):
            torch.testing.assert_close(packed.convolve(x, None, padding).double(), expected, rtol=0, atol=1e-5)


def pack_orders(weight: Tensor) -> bytes:
    """A weight as it lies in memory: what oneDNN says of it has holes with whatever lay there before."""
    return ctypes.string_at(torch.ops.mkldnn.data_ptr(weight), torch.ops.mkldnn._nbytes(weight))


def test_nothing_is_folded_across_the_target() -> None:
    network = nets.TOYS["conv before norm"].build()
    graph = _graph(network)
    split = cut(graph, [resolve(graph, "conv", "toy").node], CPU, "folded")
    assert isinstance(split.head, nn.Module)
    assert len(_parts(split, nn.BatchNorm2d)) == 0  # the stem's is folded
    assert len([m for m in split.head.modules() if isinstance(m, nn.BatchNorm2d)]) == 1  # the target's is not


@pytest.mark.parametrize("preparation", ["plain", "folded", "packed"])
def test_the_network_itself_is_not_touched(preparation: str) -> None:
    network = nets.TOYS["residual"].build()
    graph = _graph(network)
    before = {name: (t.data_ptr(), t.clone()) for name, t in network.state_dict().items()}
    x = nets.images(2)
    expected = network(x)
    split = cut(graph, [resolve(graph, None, "toy").node], CPU, preparation)
    _run(split, x)
    for name, t in network.state_dict().items():
        assert t.data_ptr() == before[name][0]
        assert torch.equal(t, before[name][1])
    assert torch.equal(network(x), expected)
    assert network.relu.inplace is True


@pytest.mark.parametrize("preparation", PREPARATIONS)
@pytest.mark.parametrize("layers", [("stem", "conv2"), ("conv2", "stem", "conv"), ("stem", "stem")])
def test_several_targets_keep_their_order(layers: tuple[str, ...], preparation: str) -> None:
    network = nets.TOYS["residual"].build()
    graph = _graph(network)
    split = cut(graph, [resolve(graph, layer, "toy").node for layer in layers], CPU, preparation)
    x = nets.images(2)
    _, activations = _run(split, x)
    caught: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(layer).register_forward_hook(lambda m, a, out, k=layer: caught.update({k: out.clone()}))
        for layer in layers
    ]
    network(x)
    for handle in handles:
        handle.remove()
    for layer, activation in zip(layers, activations, strict=True):
        torch.testing.assert_close(activation.detach(), caught[layer], rtol=1e-5, atol=1e-5)


def test_branches_around_the_cut_cross_it_as_constants() -> None:
    network = nets.TOYS["residual"].build()
    graph = _graph(network)
    split = cut(graph, [resolve(graph, "conv2", "toy").node], CPU, "shared")
    with torch.no_grad():
        crossing = split.trunk(nets.images(1))
    assert split.crossing == 1
    assert len(crossing) == 2  # the target, and the shortcut


def test_cut_at_the_image() -> None:
    """Everything is head; the gradient is that of the network."""
    network = nets.TOYS["residual"].build()
    graph = _graph(network)
    x = nets.images(2)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    for preparation in PREPARATIONS:
        logits, (pixels,) = _run(cut(graph, [graph.input], CPU, preparation), x)
        (found,) = torch.autograd.grad(logits[:, 1].sum(), pixels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_module_itself_runs_when_copies_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewritten copy is used only when it reproduces the module's own values."""
    network = nets.TOYS["residual"].build().requires_grad_(False)
    options = opening.SessionOptions()
    assert opening.prepare(network, "toy", (3, 12, 16), CPU, options).preparation == "packed"
    honest = opening.cut

    def spoiled(graph: Any, targets: Any, runtime: Any, preparation: str) -> Split:
        split = honest(graph, targets, runtime, preparation)
        if preparation in {"packed", "folded"}:
            inner = split.trunk
            split.trunk = lambda pixels: tuple(1.01 * value for value in inner(pixels))
        return split

    monkeypatch.setattr(opening, "cut", spoiled)
    assert opening.prepare(network, "toy", (3, 12, 16), CPU, options).preparation == "plain"


def test_a_precision_that_spoils_the_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "agrees", lambda *args: False)
    network = nets.TOYS["plain"].build().requires_grad_(False)
    runtime = rt.Runtime(torch.device("cpu"), "bf16")
    with pytest.raises(CnnvizError, match="bf16 on cpu") as raised:
        opening.prepare(network, "toy", (3, 12, 16), runtime, opening.SessionOptions())
    assert "fp32" in raised.value.hint


@pytest.mark.parametrize("preparation", ["folded", "packed"])
@pytest.mark.parametrize("size", [(12, 16), (13, 17), (31, 9)])
def test_other_sizes_than_the_probes(size: tuple[int, int], preparation: str) -> None:
    network = nets.TOYS["residual"].build()
    graph = _graph(network)
    split = cut(graph, [resolve(graph, None, "toy").node], CPU, preparation)
    for count in (1, 5):
        x = nets.images(count, size)
        logits, _ = _run(split, x)
        torch.testing.assert_close(logits.detach(), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "regnet_x_400mf"]
)
def test_library_networks_are_packed(name: str) -> None:
    """Every normalisation is gone, and the values are the network's."""
    network = nets.torchvision_network(name)
    x = nets.images(2, (64, 64))
    opened = opening.prepare(network, name, (3, 64, 64), CPU, opening.SessionOptions())
    run = opened.forward(x)
    expected = network(x)
    torch.testing.assert_close(run.logits.detach(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert opened.preparation == "packed"
    assert opened.split is not None
    assert len(_parts(opened.split, nn.BatchNorm2d)) == 0


class Perceptron(nn.Module):
    """Two linear layers of a size at which the kernels for few rows add in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, stride=2)
        self.first, self.second = nn.Linear(64, 1280), nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(torch.relu(self.conv(x)).mean((2, 3)))))


def test_an_image_gets_the_same_bits_in_batches_of_any_size() -> None:
    """The linear layers, forward and backward, whether an image is alone or one of eight."""
    network = nets.fill(Perceptron())
    opened = opening.prepare(network, "perceptron", (3, 15, 15), CPU, opening.SessionOptions())
    x = nets.images(8, (15, 15))

    def explained(batch: Tensor) -> tuple[Tensor, Tensor]:
        run = opened.forward(batch)
        return run.logits.detach(), run.gradients(run.logits.softmax(1)[:, 3])[0]

    logits, gradients = explained(x)
    torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-5)
    for size in (1, 2, 3, 5, 7):
        parts = [explained(part) for part in x.split(size)]
        assert torch.equal(torch.cat([part[0] for part in parts]), logits), size
        assert torch.equal(torch.cat([part[1] for part in parts]), gradients), size
