"""What each operation of a network does to the part of a map that has changed.

A change that is an interval [lo, hi) of the input along one axis is, behind a sliding kernel, the interval

    lo' = ceil((lo + p - d (k - 1)) / s),    hi' = floor((hi - 1 + p) / s) + 1

of the output, clipped to the map (k kernel, s stride, p padding before, d dilation); rows and columns do not mix.
Operations that are not known here are given whole maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from cnnviz.engine.prepare.pack import PackedConv, channelwise
from cnnviz.models.graph.operations import Operation, operation_of

Interval = tuple[int, int]
_OPEN = (-math.inf, math.inf)


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

    def pads(self, length: int, count: int) -> tuple[int, int]:
        """Inputs before and after the map's ``length`` that ``count`` outputs from the first on see."""
        return self.padding, max(0, self.context(0) + self.extent(count) - length)


Sweeping = Callable[[Tensor, Tensor | None, bool, bool], Tensor]
Linear = Callable[[Tensor, Tensor | None, list[int]], Tensor]


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
        linear: (input, onto, padding) -> what a convolution or an average does to a difference, added to ``onto`` in
            place; None for all else.
        padding: What ``linear`` is given for whole maps.
        bounds: Of an activation that only clips, also one that is fused into a convolution; infinite where none is.
        scale: [C], what a normalisation multiplies a difference by.
        channelwise: [kernel rows x columns, C], float32: of a convolution of each channel by itself, without bias.
    """

    kind: str
    inputs: tuple[fx.Node, ...]
    axes: tuple[Axis, Axis] | None = None
    outside: float = 0.0
    sweep: Sweeping | None = None
    work: float = 0.0
    linear: Linear | None = None
    padding: tuple[int, int] = (0, 0)
    bounds: tuple[float, float] | None = None
    scale: Tensor | None = None
    channelwise: Tensor | None = None


def describe(module: fx.GraphModule, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> Op:
    """The operation of a node; ``shapes`` are those of the values of one image."""
    inputs = tuple(n for n in node.all_input_nodes if n in shapes)
    other = Op("other", inputs)
    if not inputs or len(shapes[inputs[0]]) != 4 or len(shapes.get(node, ())) not in (2, 4):
        return other
    operation = operation_of(module, node, shapes)
    source = shapes[inputs[0]][2:]
    if isinstance(operation.module, PackedConv):
        return _packed(operation.module, node, source)
    if operation.name == "conv2d" and not operation.subclassed:
        return _convolution(operation) or other
    if _is_mean(operation):
        return Op("mean", inputs)
    if operation.kind == "pooling" and (pooling := _pooling(operation, inputs)) is not None:
        return pooling
    same = all(shapes[n] == shapes.get(node) for n in inputs)
    if len(inputs) == 1 and same and _is_pointwise(operation, node):
        bounds = _OPEN if operation.kind == "identity" else operation.bounds
        return Op("pointwise", inputs, bounds=bounds, scale=_scale(operation))
    if operation.kind == "addition" and len(inputs) == 2 and same and operation.arguments["alpha"] == 1:
        return Op("add", inputs)
    if operation.kind == "concatenation" and len(shapes[node]) == 4 and operation.arguments["dim"] == 1:
        listed = operation.arguments["tensors"]
        if isinstance(listed, tuple) and all(
            isinstance(n, fx.Node) and shapes.get(n, ())[2:] == source for n in listed
        ):
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

    name, scalars, _ = conv.activation
    clips = {"relu": (0.0, math.inf), "hardtanh": tuple(scalars), "none": _OPEN}.get(name)
    inputs = tuple(a for a in node.args if isinstance(a, fx.Node))
    own = (0, 0) if conv.same else (padding[0], padding[1])
    return Op("sweep", inputs, axes, 0.0, sweep, conv.macs, conv.linear, own, clips, None, conv.channelwise)


def _convolution(operation: Operation) -> Op | None:
    """A convolution with weights of its own that pads with zeros; None for any other."""
    given = operation.arguments
    weight, bias = operation.tensor("weight"), operation.tensor("bias")
    computed = weight is None or isinstance(given.get("bias"), fx.Node)
    if weight is None or computed or given["padding_mode"] != "zeros" or isinstance(given["padding"], str):
        return None
    stride, padding, dilation = given["stride"], given["padding"], given["dilation"]

    def sweep(x: Tensor, summand: Tensor | None, padded: bool, over: bool) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding if padded else 0, dilation, given["groups"])

    def linear(x: Tensor, onto: Tensor | None, pads: list[int]) -> Tensor:
        found = F.conv2d(x, weight, None, stride, pads, dilation, given["groups"])
        return found if onto is None else onto.add_(found)

    axes = _axes(given["kernel_size"], stride, padding, dilation)
    own = (int(padding[0]), int(padding[1]))
    each = channelwise(weight, given["groups"])
    return Op("sweep", (given["input"],), axes, 0.0, sweep, float(weight.numel()), linear, own, _OPEN, None, each)


def _axes(kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Axis, Axis]:
    return (
        Axis(int(kernel[0]), int(stride[0]), int(padding[0]), int(dilation[0])),
        Axis(int(kernel[1]), int(stride[1]), int(padding[1]), int(dilation[1])),
    )


def _pooling(operation: Operation, inputs: tuple[fx.Node, ...]) -> Op | None:
    """Max and average pooling as sweeps; None where the average counts differently at the border."""
    given = operation.arguments
    if operation.name not in {"max_pool2d", "avg_pool2d"} or given.get("return_indices"):
        return None
    kernel, stride, padding, dilation = (
        given.get(name, (1, 1)) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    known = all(isinstance(n, int) for sizes in (kernel, stride, padding, dilation) for n in _items(sizes))
    if not known or inputs[:1] != (given["input"],):
        return None
    maximum, ceil = operation.name == "max_pool2d", bool(given["ceil_mode"])
    border = not maximum and any(padding) and not given["count_include_pad"]
    if border or (not maximum and (ceil or given["divisor_override"])):
        return None

    def sweep(x: Tensor, summand: Tensor | None, padded: bool, over: bool) -> Tensor:
        pads = padding if padded else (0, 0)
        if maximum:
            return F.max_pool2d(x, kernel, stride, pads, dilation, padded and ceil)
        return F.avg_pool2d(x, kernel, stride, pads)

    def linear(x: Tensor, onto: Tensor | None, pads: list[int]) -> Tensor:
        if any(2 * pad > size for pad, size in zip(pads, kernel, strict=True)):  # more than it pads by itself
            x, pads = F.pad(x, (pads[1], pads[1], pads[0], pads[0])), [0, 0]
        return F.avg_pool2d(x, kernel, stride, pads)

    axes = _axes(kernel, stride, padding, dilation)
    if maximum:
        return Op("sweep", inputs[:1], axes, -math.inf, sweep)
    return Op("sweep", inputs[:1], axes, 0.0, sweep, 0.0, linear, (padding[0], padding[1]), _OPEN)


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _scale(operation: Operation) -> Tensor | None:
    """What a normalisation by fixed statistics multiplies each channel by; None for what is none."""
    if operation.name != "batch_norm":
        return None
    weight, variance = operation.tensor("weight"), operation.tensor("running_var")
    if variance is None:
        return None
    scale = torch.rsqrt(variance.float() + float(operation.arguments["eps"]))
    return scale if weight is None else scale * weight.float()


def _is_mean(operation: Operation) -> bool:
    """Global average pooling in any spelling."""
    if operation.name == "mean":
        dims = operation.arguments["dim"]
        return isinstance(dims, tuple) and set(dims) == {2, 3}
    return operation.name == "adaptive_avg_pool2d" and bool(operation.arguments["output_size"] == (1, 1))


def _is_pointwise(operation: Operation, node: fx.Node) -> bool:
    if operation.name == "batch_norm":
        held = all(n.op == "get_attr" or n is operation.arguments["input"] for n in node.all_input_nodes)
        return held and operation.arguments["training"] is False
    return operation.kind in {"activation", "identity"} and len(node.all_input_nodes) == 1
