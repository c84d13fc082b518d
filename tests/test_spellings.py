"""What a method computes does not depend on how a network spells its operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.methods.perturbation.incremental.ops import describe
from cnnviz.models.fully_convolutional.rewrite import convolutional
from cnnviz.models.graph.trace import trace
from cnnviz.models.receptive_field.field import receptive_field
from cnnviz.synthesis.reader import before_clipping
from tests.support import networks as nets


class Spelled(nets.Body):
    """A body whose head is any function of its last maps and of itself."""

    def __init__(self, head: Callable[[Tensor, nets.Body], Tensor]) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x), self)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


HEADS: dict[str, Callable[[Tensor, nets.Body], Tensor]] = {
    "F.linear": lambda a, net: F.linear(a.mean((2, 3)), net.fc.weight, net.fc.bias),
    "mean over axis=": lambda a, net: net.fc(a.mean(axis=(-1, -2))),
    "unsqueezed": lambda a, net: net.fc(a.mean((2, 3)).unsqueeze(1).squeeze(1)),
    "F.dropout1d": lambda a, net: net.fc(F.dropout1d(a.mean((2, 3)), training=False)),
}


@pytest.mark.parametrize("spelling", HEADS)
def test_cam_reads_a_head_in_any_spelling(spelling: str) -> None:
    network, x = nets.seeded(lambda: Spelled(HEADS[spelling]))(), nets.images(2, (32, 32))
    with torch.no_grad():
        expected = torch.einsum("c,nchw->nhw", network.fc.weight[2], network.maps(x))
    close(cnnviz.explain(network, x, method="cam", target=2).raw, expected)


class Middle(nets.Body):
    """A body with any function of its first maps between its two convolutions, and smooth elsewhere."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.conv(self.middle(self.stem(x))))


# As a module, and as a function or method.
TWINS: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
    "softsign": (nn.Softsign(), F.softsign),
    "tanhshrink": (nn.Tanhshrink(), F.tanhshrink),
    "logsigmoid": (nn.LogSigmoid(), F.logsigmoid),
    "softshrink": (nn.Softshrink(0.1), lambda x: F.softshrink(x, 0.1)),
    "threshold": (nn.Threshold(0.1, 0.3), lambda x: F.threshold(x, 0.1, 0.3)),
    "hardtanh": (nn.Hardtanh(-0.2, 0.5), lambda x: x.clamp(-0.2, 0.5)),
    "relu": (nn.ReLU(), lambda x: x.clamp_min(0)),
    "softmin": (nn.Softmin(1), lambda x: F.softmin(x, 1)),
    "log_softmax": (nn.LogSoftmax(1), lambda x: x.log_softmax(-3)),
    "instance_norm": (nn.InstanceNorm2d(6), F.instance_norm),
    "softmax": (nn.Softmax2d(), lambda x: torch.softmax(x, 1)),
}


def _pair(name: str) -> tuple[Middle, Middle]:
    one, two = (nets.seeded(lambda middle=middle: Middle(middle))() for middle in TWINS[name])
    return one, two  # type: ignore[return-value]


@pytest.mark.parametrize("name", TWINS)
def test_fullgrad_is_complete_in_either_spelling(name: str) -> None:
    """The score is the image's share and the constants', exactly, whatever stands in the middle."""
    x, maps = nets.images(2, (16, 16)), []
    for network in _pair(name):
        found = cnnviz.explain(network, x, method="fullgrad", target=1)
        assert max(map(abs, found.scores["completeness_gap"])) < 1e-5
        maps.append(found.raw)
    close(maps[1], maps[0])


@pytest.mark.parametrize("name", [name for name in TWINS if "norm" not in name])
def test_relevance_is_the_same_in_either_spelling(name: str) -> None:
    x = nets.images(2, (16, 16))
    maps = [cnnviz.explain(network, x, method="lrp", target=1, rule="epsilon").raw for network in _pair(name)]
    close(maps[1], maps[0])
    if name in {"softsign", "tanhshrink", "logsigmoid", "softshrink", "threshold"}:
        close(maps[1], _epsilon_by_hand(_pair(name)[0], x), 1e-4)


def _epsilon_by_hand(network: Middle, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Formula 58 layer by layer: elementwise functions hand on what they get, means share in proportion."""

    def shares(layer: nn.Module, a: Tensor, arriving: Tensor) -> Tensor:
        leaf = a.detach().requires_grad_()
        z = layer(leaf)
        s = arriving / (z + torch.where(z >= 0, epsilon, -epsilon))
        return leaf.detach() * torch.autograd.grad(z, leaf, s.detach())[0]

    with torch.no_grad():
        stem = network.stem(x)
        middle = network.middle(stem)
        maps = network.conv(middle)
        pooled = maps.mean((2, 3))
        scores = network.fc(pooled)
        arriving = torch.zeros_like(scores)
        arriving[:, 1] = scores[:, 1]
    relevance = shares(network.fc, pooled, arriving)
    mean = pooled[:, :, None, None] * maps.shape[2] * maps.shape[3]
    relevance = maps * (relevance[:, :, None, None] / mean)
    relevance = shares(network.conv, middle, relevance)
    return shares(network.stem, x, relevance)


class Gated(nets.Body):
    """A channel gate, brought into shape in any way: x times sigmoid(mean of x)."""

    def __init__(self, shaped: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.shaped, self.unflatten, self.sigmoid = shaped, nn.Unflatten(1, (6, 1, 1)), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.maps(x))
        return self.pooled(a * self.shaped(self, a.mean((2, 3))))  # type: ignore[call-arg]


GATES: dict[str, Callable[..., Tensor]] = {
    "methods": lambda net, g: g.sigmoid().unsqueeze(2).unsqueeze(3),
    "functions": lambda net, g: torch.unsqueeze(torch.unsqueeze(torch.sigmoid(g), 2), 3),
    "reshape": lambda net, g: torch.reshape(torch.sigmoid(g), (-1, 6, 1, 1)),
    "modules": lambda net, g: net.unflatten(net.sigmoid(g)),
}


@pytest.mark.parametrize("spelling", GATES)
def test_a_gate_takes_no_relevance_however_it_is_brought_into_shape(spelling: str) -> None:
    """Relevance at the image with the gate as a constant: gradient times input of a network of ReLUs without biases."""
    network, x = nets.seeded(lambda: Gated(GATES[spelling]))(), nets.images(2, (16, 16))
    for layer in (network.stem, network.conv, network.fc):
        layer.bias = None
    found = cnnviz.explain(network, x, method="lrp", target=1, rule="epsilon", epsilon=0.0).raw
    leaf = x.clone().requires_grad_()
    a = F.relu(network.maps(leaf))
    gate = torch.sigmoid(a.mean((2, 3))).detach()[:, :, None, None]
    score = network.pooled(a * gate)[:, 1].sum()
    close(found, x * torch.autograd.grad(score, leaf)[0], 1e-4)


class Functions(nn.Module):
    """Every layer by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.second = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)
        self.shift = nn.Parameter(torch.randn(8) / 5)
        self.third = nn.Parameter(torch.randn(5, 8 * 4 * 4) / 12)
        self.bias = nn.Parameter(torch.randn(5) / 5)

    def maps(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first, self.shift, 2, 1).clamp(min=0)
        return torch.max_pool2d(F.conv2d(x, self.second, padding=1).add(x).relu(), 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.flatten(self.maps(x), 1), self.third, self.bias)


def _functions() -> Functions:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Functions().eval()


def test_a_class_map_of_a_linear_layer_by_function() -> None:
    network, small, large = _functions(), nets.images(1, (16, 16)), nets.images(1, (24, 32))
    graph = trace(network, small, lambda value: value)
    assert graph is not None
    module = convolutional(graph, "functions")
    found = module.class_map(module.head(module.body(large)))
    maps = network.maps(large)
    corners = [(row, col) for row in range(3) for col in range(5)]
    windows = torch.cat([maps[:, :, row : row + 4, col : col + 4].flatten(1) for row, col in corners])
    close(found.detach()[0].flatten(1).T, F.linear(windows, network.third, network.bias).detach())


def test_functions_are_occluded_by_increments() -> None:
    network, x = _functions(), nets.images(1, (16, 16))
    on, off = (
        cnnviz.explain(network, x, method="occlusion", target=1, window=(6, 6), stride=(4, 4), incremental=how).raw
        for how in ("on", "off")
    )
    close(on, off, 1e-4)
    graph = trace(network, x, lambda value: value)
    assert graph is not None
    nodes = [node for node in graph.module.graph.nodes if node in graph.shapes and node.op != "output"]
    kinds = [describe(graph.module, node, graph.shapes).kind for node in nodes]
    assert kinds == ["other", "sweep", "pointwise", "sweep", "add", "pointwise", "sweep", "other", "other"]


def test_a_layer_is_read_before_a_clamp_as_before_a_relu() -> None:
    graph = trace(_functions(), nets.images(1, (16, 16)), lambda value: value)
    assert graph is not None
    clamp = next(node for node in graph.module.graph.nodes if graph.operation(node).name == "clamp")
    assert before_clipping(graph, clamp) is clamp.args[0]
    assert before_clipping(graph, clamp.args[0]) is clamp.args[0]


@pytest.mark.parametrize(
    ("function", "context"),
    [
        (lambda x: F.rms_norm(x, (16,)), True),
        (lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2), False),
        (lambda x: F.glu(x, 1), False),
        (lambda x: torch.swapdims(torch.swapdims(x, 1, 2), -3, -2), False),
        (lambda x: F.channel_shuffle(x, 2), False),
    ],
)
def test_receptive_fields_follow(function: Callable[[Tensor], Tensor], context: bool) -> None:
    """What one output answers to, by gradients; where statistics of the whole map enter, that is the local path."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.conv(x))

    network, x = Network(), nets.images(1, (32, 32)).requires_grad_()
    graph = trace(network, x.detach(), lambda value: value)
    assert graph is not None
    field = receptive_field(graph, graph.logits)
    assert field.global_context is context
    if not context:
        [gradient] = torch.autograd.grad(network(x)[0, :, 5, 7].square().sum(), x)
        rows, cols = (gradient[0].abs().sum(0).sum(axis).nonzero().flatten() for axis in (1, 0))
        seen = (int(cols[0]), int(rows[0]), len(cols), len(rows))
        assert field.box(5, 7) == seen
