"""Runs a network on what a group of windows changed.

A value is a patch [B, C, h, w] with its region, or a whole value. Before a kernel slides over a patch, the rows and
columns around it are fetched from the clean pass and the patch is laid over them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.engine.stopping import go_on
from cnnviz.methods.perturbation.incremental.ops import Op, describe
from cnnviz.methods.perturbation.incremental.plan import Group, Region
from cnnviz.models.graph.operations import attribute, operation_of


@dataclass(eq=False)
class Value:
    """A tensor with the region it stands for; without a region it is whole."""

    tensor: Tensor
    region: Region | None = None


@dataclass(eq=False)
class Clean:
    """The clean pass over one image: every value, and its maps as rows of channels."""

    values: dict[fx.Node, Any]
    _rows: dict[fx.Node, Tensor] = field(default_factory=dict)

    def rows(self, node: fx.Node) -> Tensor:
        """[h w + 2, C]: the channels of each position, then a row of zeros, then one of minus infinity."""
        if node not in self._rows:
            value = self.values[node]
            flat = value[0].permute(1, 2, 0).reshape(-1, value.shape[1])
            ends = flat.new_tensor([[0.0], [float("-inf")]]).expand(2, flat.shape[1])
            self._rows[node] = torch.cat([flat, ends])
        return self._rows[node]


class Runner:
    """The part of a network up to its classifier, run window by window.

    Args:
        trunk: image [B, C, H, W] -> a tuple whose first item is the value that feeds the classifier.
    """

    def __init__(self, trunk: fx.GraphModule) -> None:
        self.trunk = trunk
        self.nodes = list(trunk.graph.nodes)
        output = next(n for n in self.nodes if n.op == "output")
        self.result: fx.Node = output.args[0][0]
        self.source = next(n for n in self.nodes if n.op == "placeholder")
        self.ops: dict[fx.Node, Op] = {}
        self.order: list[fx.Node] = []
        self.overwriting: set[fx.Node] = set()
        self.trusted: dict[str, bool] = {}
        self._last_use = {source: node for node in self.nodes for source in node.all_input_nodes}

    def clean(self, image: Tensor) -> Clean:
        """Run one image and keep every value; describes the operations for its size."""
        values: dict[fx.Node, Any] = {}
        shapes: dict[fx.Node, tuple[int, ...]] = {}
        moved = {self.source}
        for node in self.nodes:
            if node.op == "output":
                break
            if node is self.source:
                values[node] = image
            else:
                values[node] = self.call(node, values)
            if node is self.source or any(n in moved for n in node.all_input_nodes):
                moved.add(node)
                if isinstance(values[node], Tensor):
                    shapes[node] = tuple(values[node].shape)
                if node is not self.source:
                    self.ops[node] = describe(self.trunk, node, shapes)
        self.order = [n for n in self.nodes if n in moved]
        self.overwriting = {n for n in self.order[1:] if self._overwrites(n)}
        self.shapes = shapes
        return Clean(values)

    def _overwrites(self, node: fx.Node) -> bool:
        """Whether a ReLU may overwrite its input: a new tensor that nobody else reads."""
        if not operation_of(self.trunk, node).is_relu or self.ops[node].kind != "pointwise":
            return False
        source = self.ops[node].inputs[0]
        if source is self.source or len(source.users) != 1:
            return False
        return self.ops[source].kind in {"add", "cat"} or operation_of(self.trunk, source).name == "batch_norm"

    def call(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """The node on whole values, never in place."""
        args: Any
        kwargs: Any
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
        if node.op == "get_attr":
            return attribute(self.trunk, str(node.target))
        if node.op == "call_module":
            module = self.trunk.get_submodule(str(node.target))
            if isinstance(module, PackedConv) and module.in_place:
                return module.convolve(module.pad(args[0]) if module.same else args[0], args[1], module.geometry[0])
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        return function(*args, **kwargs)

    def run(self, clean: Clean, group: Group, patch: Tensor) -> Tensor:
        """The classifier's input for every window of a group.

        Args:
            clean: The clean pass of the image.
            group: The windows.
            patch: What stands in them, [B, C, h, w], windows in reading order.
        """
        values: dict[fx.Node, Any] = {self.source: Value(patch, group.regions[self.source])}
        step = _Step(self, clean, group, values)
        for node in self.order[1:]:
            go_on()
            values[node] = step.value(node)
            for used in node.all_input_nodes:
                if self._last_use[used] is node and used is not self.result:
                    values.pop(used, None)
        final = values[self.result]
        return step.whole(self.result) if isinstance(final, Value) else final


class _Step:
    """One group on its way through the network."""

    def __init__(self, runner: Runner, clean: Clean, group: Group, values: dict[fx.Node, Any]) -> None:
        self.runner = runner
        self.clean = clean
        self.group = group
        self.values = values
        self.count = len(group.rows) * len(group.cols)

    def value(self, node: fx.Node) -> Any:
        op, region = self.runner.ops[node], self.group.regions.get(node)
        if op.kind == "mean":
            return Value(self._mean(node, op.inputs[0]), region)
        if op.kind == "other" or region is None or not all(isinstance(self.values[n], Value) for n in op.inputs):
            return self._other(node)
        if op.kind == "sweep":
            return Value(self._sweep(op, region), region)
        if op.kind == "pointwise":
            inner = self.values[op.inputs[0]]
            if node in self.runner.overwriting:
                return Value(inner.tensor.relu_(), region)
            held = {op.inputs[0]: inner.tensor}
            return Value(self._call(node, held), region)
        if op.kind == "cat":
            return Value(self._cat(node, op, region), region)
        first, second = (self._part(n, region) for n in op.inputs)
        return Value(first + second, region)

    def _cat(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        """Parts laid side by side over what the clean pass has of the whole concatenation: one copy each."""
        inputs = [self.values[n] for n in op.inputs]
        if all(_same(value.region, region) for value in inputs):
            return torch.cat([value.tensor for value in inputs], dim=1)
        blocks, first = self._fetch(node, region), 0
        for value in inputs:
            last = first + value.tensor.shape[1]
            _paste(blocks[..., first:last], region, value)
            first = last
        return self._stacked(blocks)

    def _sweep(self, op: Op, region: Region) -> Tensor:
        assert op.axes is not None
        assert op.sweep is not None
        source = op.inputs[0]
        summand = self._part(op.inputs[1], region) if len(op.inputs) > 1 else None
        fetched = summand is not None and summand is not self.values[op.inputs[1]].tensor
        if region.whole:
            return op.sweep(self.whole(source), summand, True, fetched)
        down, across = op.axes
        context = Region(
            tuple(down.context(row) for row in region.rows),
            tuple(across.context(col) for col in region.cols),
            down.extent(region.height),
            across.extent(region.width),
        )
        return op.sweep(self._part(source, context, op.outside), summand, False, fetched)

    def whole(self, node: fx.Node) -> Tensor:
        """The whole value of a node for every window."""
        value: Value = self.values[node]
        if value.region is None or value.region.whole:
            return value.tensor
        height, width = self.runner.shapes[node][2:]
        rows, cols = (0,) * len(value.region.rows), (0,) * len(value.region.cols)
        return self._part(node, Region(rows, cols, height, width, True))

    def _part(self, node: fx.Node, region: Region, outside: float = 0.0) -> Tensor:
        """A part of a value: its patch, laid over what the clean pass has around it."""
        value: Value = self.values[node]
        assert value.region is not None
        if _same(value.region, region):
            return value.tensor
        blocks = self._fetch(node, region, outside)
        _paste(blocks, region, value)
        return self._stacked(blocks)

    def _fetch(self, node: fx.Node, region: Region, outside: float = 0.0) -> Tensor:
        """A part of the clean map for every window: [rows, cols, h, w, C]."""
        height, width = self.runner.shapes[node][2:]
        rows = self.clean.rows(node)
        found = rows.index_select(0, _rows_of(region, (height, width), outside).to(rows.device))
        return found.view(len(region.rows), len(region.cols), region.height, region.width, -1)

    def _stacked(self, blocks: Tensor) -> Tensor:
        """[rows, cols, h, w, C] as [B, C, h, w] in the same memory."""
        return blocks.view(self.count, *blocks.shape[2:]).permute(0, 3, 1, 2)

    def _mean(self, node: fx.Node, source: fx.Node) -> Tensor:
        value: Value = self.values[source]
        clean: Tensor = self.clean.values[node]
        if value.region is None or value.region.whole:
            held = {source: value.tensor}
            whole: Tensor = self._call(node, held)
            return whole
        height, width = self.runner.shapes[source][2:]
        before = self._stacked(self._fetch(source, value.region)).float().sum((2, 3))
        difference = (value.tensor.float().sum((2, 3)) - before) / (height * width)
        mean: Tensor = clean.reshape(1, -1).float() + difference
        return mean.to(clean.dtype).reshape(self.count, *clean.shape[1:])

    def _other(self, node: fx.Node) -> Any:
        held = {
            n: self.whole(n) if isinstance(self.values.get(n), Value) else self._fixed(n) for n in node.all_input_nodes
        }
        result = self._call(node, held)
        if not isinstance(result, Tensor):
            return result
        region = self.group.regions.get(node)
        return Value(result, region if region is not None and result.dim() == 4 else None)

    def _fixed(self, node: fx.Node) -> Any:
        return self.values[node] if node in self.values else self.clean.values[node]

    def _call(self, node: fx.Node, held: Mapping[fx.Node, Any]) -> Any:
        every = {n: held[n] if n in held else self._fixed(n) for n in node.all_input_nodes}
        return self.runner.call(node, every)


def _same(a: Region | None, b: Region) -> bool:
    return a is not None and (a.rows, a.cols, a.height, a.width) == (b.rows, b.cols, b.height, b.width)


def _rows_of(region: Region, size: tuple[int, int], outside: float) -> Tensor:
    """Where each position of a region lies in the rows of the clean map; outside the map, the row for that."""
    height, width = size
    y = torch.tensor(region.rows)[:, None] + torch.arange(region.height)
    x = torch.tensor(region.cols)[:, None] + torch.arange(region.width)
    index = (y * width)[:, None, :, None] + x[None, :, None, :]
    if min(region.rows) < 0 or min(region.cols) < 0 or int(y.max()) >= height or int(x.max()) >= width:
        inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[None, :, None, :]
        index = torch.where(inside, index, height * width + (1 if outside < 0 else 0))
    return index.reshape(-1)


def _paste(blocks: Tensor, region: Region, value: Value) -> None:
    """Lay a patch over blocks [rows, cols, h, w, C], window by window where it belongs; what sticks out is dropped."""
    patch, own = value.tensor, value.region
    assert own is not None
    source = patch.permute(0, 2, 3, 1).unflatten(0, (len(own.rows), len(own.cols)))
    down = list(_runs(own.rows, region.rows, own.height, region.height))
    for across in _runs(own.cols, region.cols, own.width, region.width):
        for rows in down:
            blocks[rows[0], across[0], rows[1], across[1]] = source[rows[0], across[0], rows[2], across[2]]


def _runs(inner: Sequence[int], outer: Sequence[int], size: int, room: int) -> list[tuple[slice, slice, slice]]:
    """Runs of windows whose patch lies at the same place of their context: (windows, target, source) slices."""
    found = []
    first = 0
    for offset, run in itertools.groupby(i - o for i, o in zip(inner, outer, strict=True)):
        count = len(list(run))
        low, high = max(offset, 0), min(offset + size, room)
        if low < high:
            found.append((slice(first, first + count), slice(low, high), slice(low - offset, high - offset)))
        first += count
    return found
