"""The same operation in every spelling is the same answer: kind, name, and arguments in one form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.models.graph.operation_table import ENTRIES, MODULES
from cnnviz.models.graph.operations import (
    Operation,
    function_name,
    operation_of,
    operation_of_function,
    operation_of_gradient,
    operation_of_module,
)
from cnnviz.models.graph.trace import trace
from tests.support.operation_cases import CASES, Case, Spelling, Written


def read(spelling: Spelling, shape: tuple[int, ...] = (2, 4, 8, 8)) -> Operation:
    """What the last node of a spelling computes."""
    graph = fx.symbolic_trace(Written(spelling))
    nodes = list(graph.graph.nodes)
    return operation_of(graph, nodes[-2], {nodes[0]: shape})


def plain(operation: Operation) -> dict[str, Any]:
    """Arguments that can be compared: nodes and tensors by what they are."""
    return {name: _plain(value) for name, value in operation.arguments.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return "the image" if value.op == "placeholder" else value.name
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    return tuple(_plain(item) for item in value) if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_every_spelling_gives_the_same_operation(case: Case) -> None:
    found = [read(spelling) for spelling in case.spellings]
    assert [(operation.kind, operation.name) for operation in found] == [(case.kind, case.name)] * len(found)
    for operation in found:
        given = plain(operation)
        assert {name: given.get(name, "missing") for name in case.expected} == case.expected
    # Not only what is written above: nothing tells the spellings apart.
    assert all(plain(operation).items() >= {**plain(found[0]), **case.expected}.items() for operation in found)


def test_every_kind_has_a_case() -> None:
    kinds = {entry.kind for entry in ENTRIES.values()}
    assert kinds - {case.kind for case in CASES} == {"recurrent"}
    assert operation_of_module(nn.LSTM(3, 4)).kind == "recurrent"
    assert operation_of_module(nn.MultiheadAttention(4, 2)).kind == "attention"


def test_every_activation_of_torch_is_known() -> None:
    classes = [
        kind
        for kind in vars(nn.modules.activation).values()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == "torch.nn.modules.activation"
    ]
    assert len(classes) >= 29
    assert set(classes) <= set(MODULES)


class _Block(nn.Module):
    """A small network; its parameters are used as modules, functions or methods."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act, self.pool, self.drop = nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1)
        self.side = nn.Conv2d(4, 4, 1, bias=False)
        self.mean, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc, self.soft = nn.Linear(8, 5), nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.conv(x))))
        x = torch.cat([torch.add(x, self.side(x)), torch.mul(x, 2)], 1)
        return self.soft(self.fc(self.drop(self.flat(self.mean(x)))))


class _Functions(_Block):
    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        x = F.conv2d(x, self.conv.weight, self.conv.bias, 2, 1)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        x = F.max_pool2d(F.relu(x, inplace=True), 2)
        x = torch.concat((x + F.conv2d(x, self.side.weight), x * 2), dim=-3)
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)
        return F.softmax(F.linear(F.dropout(x, 0.1, training=self.training), self.fc.weight, self.fc.bias), dim=-1)


class _Methods(_Functions):
    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        x = torch.conv2d(x, self.conv.weight, self.conv.bias, stride=2, padding=1)
        x = torch.batch_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.1, norm.eps, True)
        x = torch.max_pool2d(x.relu_(), kernel_size=2)
        x = torch.cat([x.add(torch.conv2d(x, self.side.weight)), x.mul(2)], 1)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return F.linear(torch.dropout(x, 0.1, False), self.fc.weight, self.fc.bias).softmax(1)


def _records(network: nn.Module) -> list[tuple[str, str, dict[str, Any]]]:
    graph = trace(network.eval(), torch.rand(1, 3, 32, 32), lambda value: value)
    assert graph is not None
    numbers = {
        node: f"value {place}" for place, node in enumerate(n for n in graph.module.graph.nodes if n in graph.shapes)
    }
    found = []
    for node in numbers:
        operation = graph.operation(node)
        if operation.kind != "other":
            arguments = {k: _numbered(v, numbers) for k, v in operation.arguments.items() if k != "num_batches_tracked"}
            found.append((operation.kind, operation.name, arguments))
    return found


def _numbered(value: Any, numbers: Mapping[fx.Node, str]) -> Any:
    if isinstance(value, fx.Node):
        return numbers[value]
    if isinstance(value, Tensor):
        return value.tolist()
    return tuple(_numbered(item, numbers) for item in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("other", [_Functions, _Methods])
def test_a_network_written_in_another_way_has_the_same_operations(other: type[_Block]) -> None:
    written = _Block()
    twin = other()
    twin.load_state_dict(written.state_dict())
    expected = _records(written)
    assert [name for _, name, _ in expected] == (
        "conv2d batch_norm relu max_pool2d conv2d add mul cat "
        "adaptive_avg_pool2d flatten dropout linear softmax".split()
    )
    assert _records(twin) == expected


def test_a_weight_that_is_computed_is_a_node_and_its_kernel_is_known() -> None:
    graph = fx.symbolic_trace(Written(lambda x, m: F.conv2d(x, m.weight * 2)))
    nodes = {node.name: node for node in graph.graph.nodes}
    operation = operation_of(graph, nodes["conv2d"], {nodes["mul"]: (6, 2, 3, 5)})
    assert operation.arguments["weight"] is nodes["mul"]
    assert operation.arguments["kernel_size"] == (3, 5)


def test_a_parametrised_weight_is_not_computed_to_be_read() -> None:
    module = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    calls = []
    module.parametrizations.weight.register_forward_hook(lambda *_: calls.append(1))
    operation = operation_of_module(module)
    assert (operation.name, operation.arguments["kernel_size"]) == ("conv2d", (3, 3))
    assert "weight" not in operation.arguments
    assert isinstance(operation.arguments["bias"], Tensor)
    assert not calls


class _Quiet(nn.ReLU):
    """Not what its base computes."""

    def forward(self, input: Tensor) -> Tensor:
        return input * 0


class _Standardised(nn.Conv2d):
    pass


class DropPath(nn.Module):
    pass


def test_subclasses() -> None:
    assert operation_of_module(_Quiet()).kind == "other"
    convolution = operation_of_module(_Standardised(3, 4, 3))
    assert (convolution.kind, convolution.subclassed) == ("convolution", True)
    assert not operation_of_module(nn.Conv2d(3, 4, 3)).subclassed
    assert operation_of_module(DropPath()).kind == "identity"
    assert operation_of_module(nn.Sequential()).kind == "other"


@pytest.mark.parametrize(
    ("module", "bounds"),
    [
        (nn.ReLU(), (0.0, math.inf)), (nn.ReLU6(), (0.0, 6.0)), (nn.Hardtanh(-1, 3), (-1.0, 3.0)),
        (nn.LeakyReLU(), None), (nn.Conv2d(1, 1, 1), None),
    ],
)  # fmt: skip
def test_bounds_are_what_an_activation_clips_to(module: nn.Module, bounds: tuple[float, float] | None) -> None:
    assert operation_of_module(module).bounds == bounds
    if bounds is not None:
        values = module(torch.linspace(-9, 9, 37))
        assert (float(values.min()), float(values.max())) == (bounds[0], min(bounds[1], 9.0))


def test_bounds_of_clamps() -> None:
    assert read(lambda x: x.clamp(0, 4)).bounds == (0.0, 4.0)
    assert read(lambda x: x.clamp_max(4)).bounds == (-math.inf, 4.0)
    assert read(lambda x: x.clamp(min=x)).bounds is None


def test_functions_are_known_without_a_call() -> None:
    assert operation_of_function(F.conv2d).kind == "convolution"
    assert operation_of_function(torch._C._nn.pad).kind == "padding"
    assert operation_of_function(torch.conv_transpose1d).kind == "transposed_convolution"
    assert operation_of_function(torch.cumsum).kind == "other"


@pytest.mark.parametrize(
    ("function", "name", "bounds"),
    [
        (F.relu, "relu", (0.0, math.inf)), (lambda x: F.threshold(x, 0, 0), "relu", (0.0, math.inf)),
        (lambda x: F.threshold(x, 1, 0), "threshold", None), (F.relu6, "hardtanh", (0.0, 6.0)),
        (lambda x: x.clamp(0, 4), "clamp", (0.0, 4.0)), (lambda x: x.clamp_min(0), "clamp", (0.0, math.inf)),
        (lambda x: x.clamp(torch.zeros(()), torch.ones(())), "clamp", None), (F.silu, "silu", None),
        (lambda x: F.prelu(x, torch.ones(1, requires_grad=True)), "prelu", None), (F.leaky_relu, "leaky_relu", None),
        (lambda x: F.rrelu(x, training=True), "rrelu", None), (torch.round, "round", None), (torch.sgn, "sgn", None),
        (torch.sum, "sum", None),
    ],
)  # fmt: skip
def test_autograd_nodes_are_named_as_what_they_differentiate(
    function: Callable[[Tensor], Tensor], name: str, bounds: tuple[float, float] | None
) -> None:
    made = function(torch.linspace(-1, 9, 11).requires_grad_())
    operation = operation_of_gradient(made.grad_fn)
    assert (operation.name, operation.bounds) == (name, bounds)


def test_messages_keep_the_spelling() -> None:
    assert read(lambda x: x.swapaxes(1, 2)).label == "swapaxes"
    assert read(nn.ReLU6()).label == "ReLU6"
    graph = fx.symbolic_trace(Written(F.relu))
    assert [function_name(node) for node in graph.graph.nodes] == ["", "relu", ""]
