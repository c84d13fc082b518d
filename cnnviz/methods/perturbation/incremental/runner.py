"""Runs a network on what a group of windows changed.

A value is a patch [B, C, h, w] with its region, or a whole value. Before a kernel slides over a patch, the rows and
columns around it are fetched from the clean pass and the patch is laid over them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.engine.stopping import go_on
from cnnviz.methods.perturbation.incremental.assembly import NO_PADS, Assembly, Pads, padded
from cnnviz.methods.perturbation.incremental.ops import Op, describe
from cnnviz.methods.perturbation.incremental.plan import Group, Region
from cnnviz.models.graph.functionalize import copy_with
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
    memory: dict[Any, Any] = field(default_factory=dict)

    def rows(self, node: fx.Node, pads: Pads = NO_PADS, outside: float = 0.0) -> Tensor:
        """[H, W, C]: the channels of each position, with a border of ``outside``."""
        key = (node, pads, outside)
        if key not in self.memory:
            self.memory[key] = padded(self.values[node], pads, outside)
        found: Tensor = self.memory[key]
        return found


class Runner:
    """The part of a network up to its classifier, run window by window.

    Args:
        trunk: image [B, C, H, W] -> a tuple whose first item is the value that feeds the classifier.
        dtype: What it computes in.

    Attributes:
        batch: Most windows that run together.
    """

    batch = 32

    def __init__(self, trunk: fx.GraphModule, dtype: torch.dtype) -> None:
        self.trunk = trunk
        self.dtype = dtype
        self.nodes = list(trunk.graph.nodes)
        output = next(n for n in self.nodes if n.op == "output")
        self.result: fx.Node = output.args[0][0]
        self.source = next(n for n in self.nodes if n.op == "placeholder")
        self.ops: dict[fx.Node, Op] = {}
        self.order: list[fx.Node] = []
        self.overwriting: set[fx.Node] = set()
        self.trusted: dict[str, bool] = {}
        self.last_use = {source: node for node in self.nodes for source in node.all_input_nodes}

    def clean(self, image: Tensor) -> Clean:
        """Run one image and keep every value; describes the operations for its size."""
        clean = Clean({})
        values, shapes = clean.values, dict[fx.Node, tuple[int, ...]]()
        moved = {self.source}
        for node in self.nodes:
            if node.op == "output":
                break
            if node is self.source:
                values[node] = image
            else:
                self.first(node, clean)
            if node is self.source or any(n in moved for n in node.all_input_nodes):
                moved.add(node)
                if isinstance(values[node], Tensor):
                    shapes[node] = tuple(values[node].shape)
                if node is not self.source and node not in self.ops:
                    self.ops[node] = self.describe(node, shapes)
        self.order = [n for n in self.nodes if n in moved]
        self.overwriting = {n for n in self.order[1:] if self._overwrites(n)}
        self.shapes = shapes
        self.features = self._where_vectors_begin()
        return clean

    def _where_vectors_begin(self) -> fx.Node:
        """The first node with a vector for each image that all that follows is computed from."""
        place = {node: i for i, node in enumerate(self.order)}
        earliest, found = len(self.order), self.result
        for node in reversed(self.order[1:]):
            if earliest >= place[node] and len(self.shapes.get(node, ())) == 2:
                found = node
            earliest = min([earliest, *(place[n] for n in node.all_input_nodes if n in place)])
        return found

    def first(self, node: fx.Node, clean: Clean) -> None:
        """Run a node of the clean pass."""
        clean.values[node] = self.call(node, clean.values)

    def describe(self, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> Op:
        """The operation of a node."""
        return describe(self.trunk, node, shapes)

    def inputs(self, image: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """What the clean pass takes [1, C, H, W], and what stands in windows [H, W, C]."""
        source = image.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return source, fill.to(self.dtype)[0].permute(1, 2, 0).contiguous()

    def _overwrites(self, node: fx.Node) -> bool:
        """Whether a ReLU may overwrite its input: a new tensor that nobody else reads."""
        if not operation_of(self.trunk, node).is_relu or self.ops[node].kind != "pointwise":
            return False
        source = self.ops[node].inputs[0]
        if source is self.source or len(source.users) != 1:
            return False
        return self.ops[source].kind in {"add", "cat", "sweep"} or operation_of(self.trunk, source).name == "batch_norm"

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
            if getattr(module, "inplace", False):
                module = copy_with(module, inplace=False)
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        return function(*args, **kwargs)

    def run(self, clean: Clean, group: Group, fill: Tensor) -> Tensor:
        """What :meth:`finish` takes, for every window of a group.

        Args:
            clean: The clean pass of the image.
            group: The windows.
            fill: What stands in them, [H, W, C].
        """
        values: dict[fx.Node, Any] = {}
        step = self.step(clean, group, values)
        region = group.regions[self.source]
        values[self.source] = Value(step.cut_out(self.source, region, fill), region)
        for node in self.order[1:]:
            go_on()
            values[node] = step.value(node)
            if node is self.features:
                break
            for used in node.all_input_nodes:
                if self.last_use[used] is node:
                    values.pop(used, None)
        final = values[self.features]
        return step.whole(self.features) if isinstance(final, Value) else final

    def step(self, clean: Clean, group: Group, values: dict[fx.Node, Any]) -> Step:
        """One group on its way."""
        return Step(self, clean, group, values)

    def finish(self, clean: Clean, features: Sequence[Tensor]) -> Tensor:
        """The classifier's input of the image and for all windows, from the vectors of all: weights are read once."""
        values = dict(clean.values)
        values[self.features] = torch.cat([clean.values[self.features], *features])
        for node in self.order[self.order.index(self.features) + 1 :]:
            values[node] = self.call(node, values)
        found: Tensor = values[self.result]
        return found


class Step:
    """One group on its way through the network."""

    def __init__(self, runner: Runner, clean: Clean, group: Group, values: dict[fx.Node, Any]) -> None:
        self.runner = runner
        self.clean = clean
        self.group = group
        self.values = values
        self.count = len(group.rows) * len(group.cols)

    def cut_out(self, node: fx.Node, region: Region, rows: Tensor) -> Tensor:
        """Parts [B, C, h, w] of a map [H, W, C] that lies as a node's."""
        return self.stacked(self.assembly(("area", node), node, region, None).fetched(rows, None))

    def value(self, node: fx.Node) -> Any:
        op, region = self.runner.ops[node], self.group.regions.get(node)
        if op.kind == "mean":
            return Value(self._mean(node, op.inputs[0]), region)
        if op.kind == "other" or region is None or not all(isinstance(self.values[n], Value) for n in op.inputs):
            return self._other(node)
        if op.kind == "sweep":
            return Value(self._sweep(node, op, region), region)
        if op.kind == "pointwise":
            inner = self.values[op.inputs[0]]
            if node in self.runner.overwriting:
                return Value(inner.tensor.relu_(), region)
            held = {op.inputs[0]: inner.tensor}
            return Value(self._call(node, held), region)
        if op.kind == "cat":
            return Value(self._cat(node, op, region), region)
        first, second = (self._part(node, n, region) for n in op.inputs)
        return Value(first + second, region)

    def _cat(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        """Parts laid side by side, one copy each."""
        inputs = [self.values[n] for n in op.inputs]
        if all(same(value.region, region) for value in inputs):
            return torch.cat([value.tensor for value in inputs], dim=1)
        total, first, parts = self.runner.shapes[node][1], 0, None
        for n, value in zip(op.inputs, inputs, strict=True):
            place = (total, first)
            assembly = self.assembly((node, n, first), n, region, value.region, NO_PADS, place)
            if parts is None:
                parts = value.tensor.new_empty(assembly.shape)
            assembly.into(parts, self.clean.rows(n), value.tensor)
            first += value.tensor.shape[1]
        assert parts is not None
        return self.stacked(parts)

    def _sweep(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        assert op.axes is not None
        assert op.sweep is not None
        source = op.inputs[0]
        # It may be what the kernel slides over, of which another part is needed.
        summand = self._part(("summand", node), op.inputs[1], region) if len(op.inputs) > 1 else None
        fetched = summand is not None and summand is not self.values[op.inputs[1]].tensor
        if region.whole:
            return op.sweep(self.whole(source), summand, True, fetched)
        down, across = op.axes
        context = self.context(op, region)
        (height, width), made = self.runner.shapes[source][2:], self.runner.shapes[node][2:]
        pads = (down.pads(height, made[0]), across.pads(width, made[1]))
        return op.sweep(self._part(node, source, context, pads, op.outside), summand, False, fetched)

    def context(self, op: Op, region: Region) -> Region:
        """What a sweep sees of its input; it may reach into the padding."""
        assert op.axes is not None
        down, across = op.axes
        rows = tuple(down.context(row) for row in region.rows)
        cols = tuple(across.context(col) for col in region.cols)
        return Region(rows, cols, down.extent(region.height), across.extent(region.width))

    def whole(self, node: fx.Node) -> Tensor:
        """The whole value of a node for every window."""
        value: Value = self.values[node]
        if value.region is None or value.region.whole:
            return value.tensor
        return self._part(None, node, value.region.everywhere(self.runner.shapes[node][2:]))

    def _part(
        self, user: Hashable, node: fx.Node, region: Region, pads: Pads = NO_PADS, outside: float = 0.0
    ) -> Tensor:
        """A part of a value for its user: its patch, and around it what the clean pass has."""
        value: Value = self.values[node]
        assert value.region is not None
        if same(value.region, region):
            return value.tensor
        assembly = self.assembly((user, node), node, region, value.region, pads)
        return self.stacked(assembly.fetched(self.clean.rows(node, pads, outside), value.tensor))

    def assembly(
        self,
        key: Any,
        node: fx.Node,
        part: Region,
        patch: Region | None,
        pads: Pads = NO_PADS,
        place: tuple[int, int] | None = None,
    ) -> Assembly:
        found = self.group.memory.get(key)
        if found is None:
            channels, *size = self.runner.shapes[node][1:]
            found = self.group.memory[key] = Assembly((size[0], size[1]), channels, part, patch, pads, place)
        made: Assembly = found
        return made

    def stacked(self, blocks: Tensor) -> Tensor:
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
        before = self.cut_out(source, value.region, self.clean.rows(source)).float().sum((2, 3))
        difference = (value.tensor.float().sum((2, 3)) - before) / (height * width)
        mean: Tensor = clean.reshape(1, -1).float() + difference
        return mean.to(clean.dtype).reshape(self.count, *clean.shape[1:])

    def _other(self, node: fx.Node) -> Any:
        held = {
            n: self.whole(n) if isinstance(self.values.get(n), Value) else self.fixed(n) for n in node.all_input_nodes
        }
        result = self._call(node, held)
        if not isinstance(result, Tensor):
            return result
        region = self.group.regions.get(node)
        return Value(result, region if region is not None and result.dim() == 4 else None)

    def fixed(self, node: fx.Node) -> Any:
        return self.values[node] if node in self.values else self.clean.values[node]

    def _call(self, node: fx.Node, held: Mapping[fx.Node, Any]) -> Any:
        every = {n: held[n] if n in held else self.fixed(n) for n in node.all_input_nodes}
        return self.runner.call(node, every)


def same(a: Region | None, b: Region) -> bool:
    return a is not None and (a.rows, a.cols, a.height, a.width) == (b.rows, b.cols, b.height, b.width)
