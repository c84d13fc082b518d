"""One group of windows on its way through a network by differences: what each operation makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.methods.perturbation.incremental.assembly import NO_PADS, Assembly, in_memory, padded
from cnnviz.methods.perturbation.incremental.ops import Op
from cnnviz.methods.perturbation.incremental.plan import Region
from cnnviz.methods.perturbation.incremental.runner import Step, Value, same

if TYPE_CHECKING:
    from cnnviz.methods.perturbation.incremental.differences import Differences

_INTEGERS = {2: torch.int16, 4: torch.int32}


class DifferenceStep(Step):
    """One group on its way: patches of differences."""

    runner: Differences

    def value(self, node: fx.Node) -> Any:
        op, region = self.runner.ops[node], self.group.regions.get(node)
        if op.kind == "mean":
            return self._averaged(node, op.inputs[0])
        if op.kind == "other" or region is None or not all(isinstance(self.values.get(n), Value) for n in op.inputs):
            return self._of_values(node, region)
        kinds: dict[str, Callable[[fx.Node, Op, Region], Tensor]] = {
            "sweep": self._slid,
            "pointwise": self._pointwise,
            "add": self._added,
            "cat": self._side_by_side,
        }
        return Value(kinds[op.kind](node, op, region).to(self.runner.kept(node)), region)

    def _slid(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        if op.linear is None:
            return (self._least_of_each if _tiles(op) else self._largest)(node, op, region)
        seen, pads = self._seen(node, op, region)
        found = op.linear(seen, self._onto(node, op, region), pads)
        if op.bounds is None:
            return self._curved(found, node, region)
        return self._clipped(found, node, region)

    def _seen(self, node: fx.Node, op: Op, region: Region) -> tuple[Tensor, list[int]]:
        """What a sweep slides over, and the zeros that it is to see around that."""
        source: Value = self.values[op.inputs[0]]
        pads = self._pads(node, op, region)
        if pads is not None:
            return source.tensor.to(self.runner.precision(node)), list(pads)
        return self._laid(node, op.inputs[0], self.context(op, region)), [0, 0]

    def _pads(self, node: fx.Node, op: Op, region: Region) -> tuple[int, int] | None:
        """Zeros around a patch with which a sweep gives just the region; None where windows differ in it."""
        key, patch = ("pads", node), self.group.regions[op.inputs[0]]
        if key not in self.group.memory:
            self.group.memory[key] = _even_pads(op, patch, self.context(op, region), region)
        found: tuple[int, int] | None = self.group.memory[key]
        return found

    def _laid(self, user: fx.Node | None, node: fx.Node, region: Region) -> Tensor:
        """A part of a difference for its user: its patch, and zeros around it."""
        value: Value = self.values[node]
        dtype = value.tensor.dtype if user is None else self.runner.precision(user)
        if value.region is None or same(value.region, region):
            return value.tensor.to(dtype)
        assembly = self.assembly((user, node), node, region, value.region)
        parts = torch.empty(assembly.shape, dtype=dtype, device=value.tensor.device)
        assembly.into(parts, None, value.tensor)
        return self.stacked(parts)

    def whole(self, node: fx.Node) -> Tensor:
        """The whole difference of a node for every window."""
        value: Value = self.values[node]
        if value.region is None or value.region.whole:
            return value.tensor
        return self._laid(None, node, value.region.everywhere(self.runner.shapes[node][2:]))

    def _onto(self, node: fx.Node, op: Op, region: Region) -> Tensor | None:
        """What a convolution adds its result to: the other summand, and the activation's shift."""
        shift = None if op.bounds is None else self.runner.limits(node, self.clean)[0]
        if len(op.inputs) == 1:
            return None if shift is None else self.stacked(self._area(node, region).fetched(shift, None))
        other, dtype = op.inputs[1], self.runner.precision(node)
        value: Value = self.values[other]
        if not same(value.region, region):
            assembly = self.assembly(("summand", node, other), other, region, value.region)
            if shift is None:
                parts = torch.zeros(assembly.shape, dtype=dtype, device=value.tensor.device)
            else:
                parts = self._area(node, region).fetched(shift, None)
            assembly.by_patch(parts, value.tensor, Tensor.add_)
            return self.stacked(parts)
        own = op.inputs[0] is not other and self.runner.spends(node, other)
        parts = in_memory((value.tensor if own else value.tensor.clone()).to(dtype))
        parts = parts.view(self._area(node, region).shape)
        if shift is not None:
            self._area(node, region).by_map(parts, shift, Tensor.add_)
        return self.stacked(parts)

    def _area(self, node: fx.Node, region: Region) -> Assembly:
        """How a group's parts of a map lie on it."""
        return self.assembly(("area", node), node, region, None)

    def _clipped(self, shifted: Tensor, node: fx.Node, region: Region) -> Tensor:
        """Clip m + (c - p), in place."""
        _, upper, lower = self.runner.limits(node, self.clean)
        if upper is None and lower is None:
            return shifted
        parts = in_memory(shifted).view(self._area(node, region).shape)
        if upper is not None:
            # The upper limit is never negative. Numbers read as integers are then in order where it matters: a negative
            # one stays below, and two positive ones compare as they are. In half precision integers are much faster.
            kind = _INTEGERS[parts.itemsize]
            self._area(node, region).by_map(parts.view(kind), upper.view(kind), _least)
        if lower is not None:
            self._area(node, region).by_map(parts, lower, _greatest)
        return self.stacked(parts)

    def _curved(self, change: Tensor, node: fx.Node, region: Region) -> Tensor:
        """g(p) - g(p - m) of any activation g."""
        op, area = self.runner.ops[node], self._area(node, region)
        values = area.fetched(padded(self.runner.before(node, self.clean), NO_PADS, 0.0), None)
        values.sub_(in_memory(change).view(area.shape))
        if op.kind == "sweep":
            module = self.runner.trunk.get_submodule(str(node.target))
            assert isinstance(module, PackedConv)
            curved = module.activate(self.stacked(values))
        else:
            curved = self.runner.call(node, {op.inputs[0]: self.stacked(values)})
        return self._less(curved, node, region)

    def _less(self, values: Tensor, node: fx.Node, region: Region) -> Tensor:
        """The clean value of a node less others of the same parts."""
        area = self._area(node, region)
        found = area.fetched(self.clean.rows(node), None).sub_(in_memory(values).view(area.shape))
        return self.stacked(found)

    def _largest(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        """Max pooling."""
        assert op.axes is not None
        assert op.sweep is not None
        source, context = op.inputs[0], self.context(op, region)
        value: Value = self.values[source]
        lengths, made = self.runner.shapes[source][2:], self.runner.shapes[node][2:]
        down, across = (axis.pads(lengths[i], made[i]) for i, axis in enumerate(op.axes))
        around = self.assembly(("around", node), source, context, None, (down, across))
        parts = around.fetched(self.clean.rows(source, (down, across), op.outside), None)
        self.assembly((node, source), source, context, value.region).by_patch(parts, value.tensor, Tensor.sub_)
        return self._less(op.sweep(self.stacked(parts), None, False, False), node, region)

    def _least_of_each(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        """Max pooling where each value is seen by one place of the result: with V the largest clean value v that it
        sees, V - max(v - m) = min(m + (V - v))."""
        assert op.axes is not None
        source, context = op.inputs[0], self.context(op, region)
        value: Value = self.values[source]
        pads, missing = self.runner.missing(node, self.clean)
        around = self.assembly(("around", node), source, context, None, pads)
        parts = around.fetched(missing, None)
        self.assembly((node, source), source, context, value.region).by_patch(parts, value.tensor, Tensor.add_)
        down, across = (axis.kernel for axis in op.axes)
        each = parts.unflatten(3, (-1, across)).unflatten(2, (-1, down))
        taps = [each[:, :, :, i, :, j] for i in range(down) for j in range(across)]
        least = taps[0].contiguous() if len(taps) == 1 else torch.minimum(taps[0], taps[1])
        for tap in taps[2:]:
            torch.minimum(least, tap, out=least)
        return self.stacked(least)

    def _pointwise(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        inner: Tensor = self.values[op.inputs[0]].tensor.to(self.runner.precision(node))
        if op.scale is not None:
            return (
                inner if self.runner.left_scale(node) is not None else inner * op.scale.to(inner.dtype)[:, None, None]
            )
        if op.bounds is None:
            return self._curved(inner, node, region)
        parts = in_memory(inner if self.runner.owns(op.inputs[0]) else inner.clone())
        self._shift(parts, node, region)
        return self._clipped(parts.permute(0, 3, 1, 2), node, region)

    def _shift(self, parts: Tensor, node: fx.Node, region: Region) -> None:
        """m + (c - p), in place, for the activation alone; with what the normalisation before it has left to it."""
        scale, shift = self.runner.left_scale(self.runner.ops[node].inputs[0]), self.runner.limits(node, self.clean)[0]
        area = self._area(node, region)
        placed = parts.view(area.shape)
        if scale is not None:
            factor = scale.to(parts.dtype)
            if shift is None:
                placed.mul_(factor)
            else:
                area.by_map(placed, shift, lambda into, seen: torch.addcmul(seen, into, factor, out=into))
        elif shift is not None:
            area.by_map(placed, shift, Tensor.add_)

    def _added(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        first, second = (self._laid(node, n, region) for n in op.inputs)
        return first + second

    def _side_by_side(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        inputs = [self.values[n] for n in op.inputs]
        if all(same(value.region, region) for value in inputs):
            return torch.cat([value.tensor.to(self.runner.precision(node)) for value in inputs], dim=1)
        total, first = self.runner.shapes[node][1], 0
        shape = (len(region.rows), len(region.cols), region.height, region.width, total)
        parts = torch.empty(shape, dtype=self.runner.precision(node), device=inputs[0].tensor.device)
        for n, value in zip(op.inputs, inputs, strict=True):
            assembly = self.assembly((node, n, first), n, region, value.region, place=(total, first))
            assembly.into(parts, None, value.tensor)
            first += value.tensor.shape[1]
        return self.stacked(parts)

    def _averaged(self, node: fx.Node, source: fx.Node) -> Value:
        value: Value = self.values[source]
        clean: Tensor = self.clean.values[node]
        height, width = self.runner.shapes[source][2:]
        mean = value.tensor.sum((2, 3), dtype=torch.float32) / (height * width)
        region = self.group.regions.get(node)
        return Value(mean.reshape(self.count, *clean.shape[1:]), region)

    def _of_values(self, node: fx.Node, region: Region | None) -> Any:
        """Whatever is not known by differences: by values, in float32."""
        held = {
            n: self.clean.values[n] - self.whole(n).float() if isinstance(self.values.get(n), Value) else self.fixed(n)
            for n in node.all_input_nodes
        }
        found = self.runner.call(node, held)
        if not isinstance(found, Tensor):
            return found
        change: Tensor = self.clean.values[node] - found
        if found.dim() != 4:
            return Value(change)
        return Value(change.to(self.runner.kept(node)).contiguous(memory_format=torch.channels_last), region)


def _tiles(op: Op) -> bool:
    """Whether a kernel steps by its own size."""
    assert op.axes is not None
    return all(axis.kernel == axis.stride and axis.dilation == 1 for axis in op.axes)


def _least(into: Tensor, other: Tensor) -> None:
    torch.minimum(into, other, out=into)


def _greatest(into: Tensor, other: Tensor) -> None:
    torch.maximum(into, other, out=into)


def _even_pads(op: Op, patch: Region, context: Region, region: Region) -> tuple[int, int] | None:
    """Zeros before and after a patch with which a sweep gives just the region; None where windows differ in it."""
    assert op.axes is not None
    found = []
    for axis, starts, size, outer, wanted in (
        (op.axes[0], patch.rows, patch.height, context.rows, region.height),
        (op.axes[1], patch.cols, patch.width, context.cols, region.width),
    ):
        offsets = {inner - first for inner, first in zip(starts, outer, strict=True)}
        pad = min(offsets)
        if len(offsets) > 1 or pad < 0 or (size + 2 * pad - axis.reach - 1) // axis.stride + 1 != wanted:
            return None
        found.append(pad)
    return found[0], found[1]
