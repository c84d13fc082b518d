"""One group of windows on its way through a network by differences, with compiled kernels.

What follows a convolution (the addition of another branch, the activation) is one pass over memory, and so are a
concatenation, the normalisation and the activation of a dense block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from cnnviz.methods.perturbation.incremental.assembly import in_memory
from cnnviz.methods.perturbation.incremental.difference_step import DifferenceStep
from cnnviz.methods.perturbation.incremental.kernels import Clipping, Joining, Kernels, Sliding
from cnnviz.methods.perturbation.incremental.ops import Op
from cnnviz.methods.perturbation.incremental.plan import Group, Region
from cnnviz.methods.perturbation.incremental.runner import Clean, Value, same

if TYPE_CHECKING:
    from cnnviz.methods.perturbation.incremental.differences import Differences


# Bytes of what windows take that are made at a time: with weights of so many beside them they stay in a core's cache.
_CACHE, _WEIGHTS = 8 << 20, 512 << 10

Make = Callable[[range, Tensor | None], Tensor]


class Later(Value):
    """Parts that are made when they are read: by what alone reads them, or some windows at a time, so that what they
    are made of stays in the cache.

    Args:
        make: (windows, room for them or None) -> [windows, h, w, C]. Room need not be used.
        count: How many windows there are.
        region: Where the parts lie.
        taken: Bytes that a window takes, with those it is made of; infinite where weights are larger than the cache.
        through: The nodes that the parts are the values of, too.
    """

    def __init__(self, make: Make, count: int, region: Region, taken: float, through: Collection[fx.Node] = ()) -> None:
        self.make, self.count, self.region, self.taken, self.through = make, count, region, taken, through

    @functools.cached_property
    def tensor(self) -> Tensor:  # type: ignore[override]
        """All, [B, C, h, w]."""
        parts = self._in_parts()
        if parts == 1:
            return self.some(range(self.count))
        made = None
        for i in range(parts):
            windows = range(self.count * i // parts, self.count * (i + 1) // parts)
            room = None if made is None else made[windows.start : windows.stop]
            found = self.make(windows, room)
            if made is None:
                made = found.new_empty((self.count, *found.shape[1:]))
            if found is not room:
                made[windows.start : windows.stop] = found
        assert made is not None
        return made.permute(0, 3, 1, 2)

    def _in_parts(self) -> int:
        """How often windows are made; as many each time where that is possible, for oneDNN prepares every size."""
        if math.isinf(self.taken):
            return 1
        fewest = math.ceil(self.count * self.taken / (_CACHE * torch.get_num_threads()))
        even = (parts for parts in range(fewest, min(2 * fewest, self.count) + 1) if self.count % parts == 0)
        return next(even, min(fewest, self.count))

    def some(self, windows: range) -> Tensor:
        """Those of some windows, [n, C, h, w]."""
        return self.make(windows, None).permute(0, 3, 1, 2)


class CompiledStep(DifferenceStep):
    """One group on its way: patches of differences, by compiled kernels where they are in the kernels' precision."""

    def __init__(
        self, kernels: Kernels, runner: Differences, clean: Clean, group: Group, values: dict[fx.Node, Any]
    ) -> None:
        super().__init__(runner, clean, group, values)
        self.kernels = kernels

    def value(self, node: fx.Node) -> Any:
        op, region = self.runner.ops[node], self.group.regions.get(node)
        source = self.values.get(op.inputs[0]) if op.inputs else None
        if op.kind == "pointwise" and isinstance(source, Later) and node in source.through:
            return source
        if region is None or not self._compiles(node):
            return super().value(node)
        if op.kind == "cat" and (last := self.runner.ahead(node)) is not None:
            return self._concatenated(node, op, region, last)
        later = self._swept(node, op, region) if op.kind == "sweep" and op.bounds is not None else None
        if later is None:
            return super().value(node)
        return Value(later.tensor, region)

    def _concatenated(self, node: fx.Node, op: Op, region: Region, last: fx.Node) -> Later:
        """A concatenation with the normalisation and the activation after it."""
        norm, pieces = next(iter(node.users)), [[n] for n in op.inputs]
        joining = self._joining(("cat", node), region, pieces, self.runner.left_scale(norm))
        patches, clipping = self._patches(pieces), self.runner.clipping(last, self.clean)

        def make(windows: range, room: Tensor | None) -> Tensor:
            return joining.into(
                joining.empty(patches[0][0], windows) if room is None else room, patches, clipping, windows
            )

        return Later(make, self.count, region, self._bytes(joining.shape), (norm, last))

    def _swept(self, node: fx.Node, op: Op, region: Region) -> Later | None:
        """A convolution or an average, with what is added to it and its activation; None for what is neither."""
        clipping = self.runner.clipping(node, self.clean)
        source: Value = self.values[op.inputs[0]]
        if op.channelwise is not None and len(op.inputs) == 1 and _dense(op):
            sliding = self._sliding(node, op, region)
            taken = self._bytes(sliding.shape) + (source.taken if isinstance(source, Later) else 0.0)

            def slide(windows: range, room: Tensor | None) -> Tensor:
                patch = in_memory(_some(source, windows))
                made = sliding.empty(patch, windows) if room is None else room
                return sliding.convolved(made, patch, clipping, windows)

            return Later(slide, self.count, region, taken)
        if op.linear is None:
            return None
        linear, seen, size, pads = op.linear, *self._sight(node, op, region)
        joining = self._joining(("swept", node), region, [[node, *op.inputs[1:]]])
        others = [in_memory(self.values[n].tensor) for n in op.inputs[1:]]
        fits = op.work * self.kernels.dtype.itemsize <= _WEIGHTS

        def multiply(windows: range, room: Tensor | None) -> Tensor:
            found = in_memory(linear(seen(windows), None, pads))
            if clipping is None and not others:
                return found
            return joining.into(found if room is None else room, [[found, *others]], clipping, windows)

        return Later(multiply, self.count, region, size + self._bytes(joining.shape) if fits else math.inf)

    def _bytes(self, shape: Sequence[int]) -> float:
        return float(math.prod(shape) * self.kernels.dtype.itemsize)

    def _sight(self, node: fx.Node, op: Op, region: Region) -> tuple[Callable[[range], Tensor], float, list[int]]:
        """What a sweep slides over for some windows, the bytes that are made for each, and the zeros around it."""
        source, context = op.inputs[0], self.context(op, region)
        value: Value = self.values[source]
        taken = value.taken if isinstance(value, Later) else 0.0
        pads = self._pads(node, op, region)
        if pads is not None:
            return functools.partial(_some, value), taken, list(pads)
        joining = self._joining(("seen", node), context, [[source]])

        def make(windows: range) -> Tensor:
            patch = in_memory(_some(value, windows))
            return joining.into(joining.empty(patch, windows), [[patch]], None, windows).permute(0, 3, 1, 2)

        return make, taken + self._bytes(joining.shape), [0, 0]

    def _slid(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        if op.linear is not None or not self._compiles(node):
            return super()._slid(node, op, region)
        return self._pooled(node, op, region)

    def _pooled(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        source, sliding = op.inputs[0], self._sliding(node, op, region)
        clean, largest = self.clean.rows(source), self.clean.rows(node)
        patch = in_memory(self.values[source].tensor)
        return sliding.pooled(sliding.empty(patch), patch, clean, largest).permute(0, 3, 1, 2)

    def _sliding(self, node: fx.Node, op: Op, region: Region) -> Sliding:
        found = self.group.memory.get(("sliding", node))
        if found is None:
            assert op.axes is not None
            source = op.inputs[0]
            made = (self.group.regions[source], op.axes, self.runner.shapes[source][1], op.channelwise)
            found = self.group.memory["sliding", node] = Sliding(self.kernels, region, *made)
        sliding: Sliding = found
        return sliding

    def _laid(self, user: fx.Node | None, node: fx.Node, region: Region) -> Tensor:
        value: Value = self.values[node]
        wanted = value.tensor.dtype if user is None else self.runner.precision(user)
        if value.region is None or {value.tensor.dtype, wanted} != {self.kernels.dtype}:
            return super()._laid(user, node, region)
        return value.tensor if same(value.region, region) else self._joined(("laid", user, node), region, [[node]])

    def _pointwise(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        if (op.scale is None and op.bounds is None) or not self._compiles(node):
            return super()._pointwise(node, op, region)
        source = op.inputs[0]
        if self.runner.left_scale(node) is not None:
            handed_on: Tensor = self.values[source].tensor
            return handed_on
        scale = op.scale if op.scale is not None else self.runner.left_scale(source)
        clipping = None if op.bounds is None else self.runner.clipping(node, self.clean)
        return self._joined(("pointwise", node), region, [[source]], scale, clipping)

    def _added(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        if not self._compiles(node):
            return super()._added(node, op, region)
        return self._joined(("added", node), region, [op.inputs])

    def _side_by_side(self, node: fx.Node, op: Op, region: Region) -> Tensor:
        if not self._compiles(node):
            return super()._side_by_side(node, op, region)
        return self._joined(("cat", node), region, [[n] for n in op.inputs])

    def _joined(
        self,
        key: Hashable,
        region: Region,
        pieces: Sequence[Sequence[fx.Node]],
        scale: Tensor | None = None,
        clipping: Clipping | None = None,
    ) -> Tensor:
        joining = self._joining(key, region, pieces, scale)
        patches = self._patches(pieces)
        return joining.into(joining.empty(patches[0][0]), patches, clipping).permute(0, 3, 1, 2)

    def _joining(
        self, key: Hashable, region: Region, pieces: Sequence[Sequence[fx.Node]], scale: Tensor | None = None
    ) -> Joining:
        """How a group's parts are put together of nodes' patches: of each piece those that are added."""
        found = self.group.memory.get(("joining", key))
        if found is None:
            lie = [(self.runner.shapes[nodes[0]][1], [self.group.regions[n] for n in nodes]) for nodes in pieces]
            found = self.group.memory["joining", key] = Joining(self.kernels, region, lie, scale)
        made: Joining = found
        return made

    def _patches(self, pieces: Sequence[Sequence[fx.Node]]) -> list[list[Tensor]]:
        return [[in_memory(self.values[n].tensor) for n in nodes] for nodes in pieces]

    def _compiles(self, node: fx.Node) -> bool:
        """Whether all that a node reads and makes is parts of maps, in the precision of the kernels."""
        op, digits = self.runner.ops[node], self.kernels.dtype
        if op.kind == "sweep" and op.linear is None and not _dense(op):
            return False
        if {self.runner.precision(node), self.runner.kept(node)} != {digits}:
            return False
        for value in map(self.values.get, op.inputs):
            if not isinstance(value, Value) or value.region is None:
                return False
            if not isinstance(value, Later) and value.tensor.dtype != digits:
                return False
        return True


def _some(value: Value, windows: range) -> Tensor:
    """[n, C, h, w]: what a value has of some windows."""
    return value.some(windows) if isinstance(value, Later) else value.tensor[windows.start : windows.stop]


def _dense(op: Op) -> bool:
    """Whether a kernel sees neighbours, without holes between them."""
    assert op.axes is not None
    return all(axis.dilation == 1 for axis in op.axes)
