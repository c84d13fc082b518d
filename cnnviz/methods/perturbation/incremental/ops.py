"""What each operation of a network does to the part of a map that has changed.

A change that is an interval [lo, hi) of the input along one axis is, behind a sliding kernel, the interval

    lo' = ceil((lo + p - d (k - 1)) / s),    hi' = floor((hi - 1 + p) / s) + 1

of the output, clipped to the map (k kernel, s stride, p padding before, d dilation); rows and columns do not mix.
Operations that are not known here are given whole maps.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.models.graph.operations import function_name
from cnnviz.models.graph.trace import ACTIVATION_NAMES

Interval = tuple[int, int]
_POINTWISE_FUNCTIONS = ACTIVATION_NAMES | {"dropout", "contiguous", "clone", "identity"}
_POINTWISE_MODULES = (nn.BatchNorm2d, nn.Identity, nn.Dropout, nn.Dropout2d)
# Activations that look at other positions or that carry weights by position.
_NOT_POINTWISE = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.MultiheadAttention, nn.GLU)


@dataclass(frozen=True)
class Axis:
    """A sliding kernel along one axis."""

    kernel: int
    stride: int
    padding: int
    dilation: int = 1

    @property
    def reach(self) -> int:
        return self.dilation * (self.kernel - 1)

    def changed(self, interval: Interval, length: int) -> Interval:
        """Outputs of ``length`` that see a part of ``interval``; at least one, so that a patch is never empty."""
        low = -(-(interval[0] + self.padding - self.reach) // self.stride)
        high = (interval[1] - 1 + self.padding) // self.stride + 1
        low = min(max(low, 0), length - 1)
        return low, max(min(high, length), low + 1)

    def context(self, start: int) -> int:
        """First input (it may lie in the padding) that output ``start`` sees."""
        return start * self.stride - self.padding

    def extent(self, count: int) -> int:
        """Inputs that ``count`` outputs in a row see."""
        return (count - 1) * self.stride + self.reach + 1


Sweeping = Callable[[Tensor, Tensor | None, bool, bool], Tensor]


@dataclass(frozen=True, eq=False)
class Op:
    """How a node acts on patches.

    Attributes:
        kind: ``sweep`` (convolution, pooling), ``pointwise``, ``add``, ``cat``, ``mean`` or ``other``.
        inputs: The node's tensor inputs; of a sweep first what it slides over, then what is added to the result.
        axes: Rows and columns of a sweep.
        outside: What a sweep sees outside the map.
        sweep: (input, summand, padded, over) -> output; with ``padded`` the operation pads by itself, with ``over``
            it may overwrite the summand.
        work: Multiplications for one output position, all channels; passes over memory count as some.
    """

    kind: str
    inputs: tuple[fx.Node, ...]
    axes: tuple[Axis, Axis] | None = None
    outside: float = 0.0
    sweep: Sweeping | None = None
    work: float = 0.0


def describe(module: fx.GraphModule, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> Op:
    """The operation of a node; ``shapes`` are those of the values of one image."""
    inputs = tuple(n for n in node.all_input_nodes if n in shapes)
    other = Op("other", inputs)
    if not inputs or len(shapes[inputs[0]]) != 4 or len(shapes.get(node, ())) not in (2, 4):
        return other
    target = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    source = shapes[inputs[0]][2:]
    if isinstance(target, PackedConv):
        return _packed(target, node, source)
    if type(target) is nn.Conv2d and target.padding_mode == "zeros" and not isinstance(target.padding, str):
        return _convolution(target, node)
    if _is_mean(target, node):
        return Op("mean", inputs)
    pooling = _pooling(target, node)
    if pooling is not None:
        return pooling
    same = all(shapes[n] == shapes.get(node) for n in inputs)
    if len(inputs) == 1 and same and _is_pointwise(target, node):
        return Op("pointwise", inputs)
    if target is None and len(node.args) == 2 and not node.kwargs and len(inputs) == 2 and same:
        return Op("add", inputs) if node.target in {operator.add, torch.add, "add"} else other
    if function_name(node) == "cat" and len(shapes[node]) == 4 and _dimension(node) == 1:
        listed = tuple(node.args[0])  # type: ignore[arg-type]
        if all(isinstance(n, fx.Node) and shapes.get(n, ())[2:] == source for n in listed):
            return Op("cat", listed)
    return other


def _packed(conv: PackedConv, node: fx.Node, source: tuple[int, ...]) -> Op:
    padding, stride, dilation, _ = conv.geometry
    if conv.same:
        before = [conv.same_padding(source[axis], axis)[0] for axis in (0, 1)]
    else:
        before = list(padding)
    axes = _axes(conv.kernel, stride, before, dilation)

    def sweep(x: Tensor, summand: Tensor | None, padded: bool, over: bool) -> Tensor:
        if padded and conv.same:
            x = conv.pad(x)
        pads = list(padding) if padded and not conv.same else [0, 0]
        return conv.convolve(x, summand, pads, over or conv.in_place)

    work = conv.macs
    return Op("sweep", tuple(a for a in node.args if isinstance(a, fx.Node)), axes, 0.0, sweep, work)


def _convolution(conv: nn.Conv2d, node: fx.Node) -> Op:
    padding = [int(p) for p in conv.padding]
    axes = _axes(conv.kernel_size, conv.stride, padding, conv.dilation)

    def sweep(x: Tensor, summand: Tensor | None, padded: bool, over: bool) -> Tensor:
        pads = padding if padded else 0
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, pads, conv.dilation, conv.groups)

    work = float(conv.weight.numel())
    return Op("sweep", (node.args[0],), axes, 0.0, sweep, work)  # type: ignore[arg-type]


def _axes(kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Axis, Axis]:
    return (
        Axis(int(kernel[0]), int(stride[0]), int(padding[0]), int(dilation[0])),
        Axis(int(kernel[1]), int(stride[1]), int(padding[1]), int(dilation[1])),
    )


def _pooling(target: nn.Module | None, node: fx.Node) -> Op | None:
    """Max and average pooling as sweeps; None where the average counts differently at the border."""
    name = type(target).__name__ if target is not None else function_name(node)
    maximum = name in {"MaxPool2d", "max_pool2d", "boolean_dispatch"}
    if not maximum and name not in {"AvgPool2d", "avg_pool2d"}:
        return None
    values = _pooling_values(target, node, maximum)
    if values is None:
        return None
    kernel, stride, padding, dilation = (_pair(values[key]) for key in ("kernel_size", "stride", "padding", "dilation"))
    ceil = bool(values["ceil_mode"])
    border = any(padding) and not values["count_include_pad"]
    if not maximum and (ceil or border or values["divisor_override"]):
        return None
    axes = _axes(kernel, stride, padding, dilation)

    def sweep(x: Tensor, summand: Tensor | None, padded: bool, over: bool) -> Tensor:
        pads = padding if padded else (0, 0)
        if maximum:
            return F.max_pool2d(x, kernel, stride, pads, dilation, padded and ceil)
        return F.avg_pool2d(x, kernel, stride, pads)

    return Op("sweep", (node.args[0],), axes, float("-inf") if maximum else 0.0, sweep)  # type: ignore[arg-type]


def _pooling_values(target: nn.Module | None, node: fx.Node, maximum: bool) -> dict[str, Any] | None:
    values: dict[str, Any] = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    values.update({"count_include_pad": True, "divisor_override": None, "return_indices": False})
    if target is not None:
        values.update({key: getattr(target, key) for key in (*values, "kernel_size") if hasattr(target, key)})
    else:
        names = ("input", "kernel_size", "stride", "padding") + (
            ("dilation", "ceil_mode", "return_indices")
            if maximum
            else ("ceil_mode", "count_include_pad", "divisor_override")
        )
        values.update(dict(zip(names, node.args, strict=False)))
        values.update(node.kwargs)
    if values["stride"] is None or values["stride"] == []:
        values["stride"] = values.get("kernel_size")
    numbers = (_pair(values.get(key)) for key in ("kernel_size", "stride", "padding", "dilation"))
    plain = all(isinstance(n, int) for pair in numbers for n in pair)
    return values if plain and not values["return_indices"] and node.args[:1] == (node.all_input_nodes[0],) else None


def _pair(value: Any) -> tuple[Any, Any]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return (pair[0], pair[-1])


def _is_mean(target: nn.Module | None, node: fx.Node) -> bool:
    """Global average pooling in any spelling."""
    name = function_name(node)
    if isinstance(target, nn.AdaptiveAvgPool2d) or name == "adaptive_avg_pool2d":
        size = target.output_size if isinstance(target, nn.AdaptiveAvgPool2d) else _second(node, "output_size")
        return size == 1 or (isinstance(size, (tuple, list)) and tuple(size) == (1, 1))
    if name != "mean":
        return False
    dims = _second(node, "dim")
    return isinstance(dims, (tuple, list)) and {d % 4 for d in dims if isinstance(d, int)} == {2, 3}


def _second(node: fx.Node, name: str) -> Any:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get(name)


def _is_pointwise(target: nn.Module | None, node: fx.Node) -> bool:
    if target is not None:
        if isinstance(target, _NOT_POINTWISE):
            return False
        activation = type(target).__module__ == "torch.nn.modules.activation"
        return activation or isinstance(target, _POINTWISE_MODULES)
    name = function_name(node)
    if name == "batch_norm":
        return all(n.op == "get_attr" or n is node.args[0] for n in node.all_input_nodes)
    return name in _POINTWISE_FUNCTIONS and len(node.all_input_nodes) == 1


def _dimension(node: fx.Node) -> Any:
    dim = _second(node, "dim")
    return dim % 4 if isinstance(dim, int) else 0 if dim is None else dim
