"""Stretches of a head in one piece: convolutions, and the additions and rectifiers between them, with their gradient.

Above the target layer everything is differentiated, and autograd does that operation by operation: a convolution has
its weight ordered anew forward and backward, a rectifier and an addition are passes over memory of their own, and what
each step of the way back makes is another tensor. Here consecutive operations are one step for autograd. Forward it
runs the packed, fused convolutions of a trunk and keeps what rectifiers gave; of that they are differentiated:

    y = max(x, 0):  dz/dx = dz/dy [y > 0],    y = min(max(x, 0), c):  dz/dx = dz/dy [0 < y < c].

Backward it goes through the steps in reverse order, with packed transposed convolutions, which add to the gradient
that is there, and with rectifiers that overwrite it. A second derivative is taken of the plain modules, run again.
"""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.engine.prepare import pack
from cnnviz.engine.prepare.fold import add_submodule, foldable_convolution
from cnnviz.engine.prepare.parts import nodes_of, sub_graph
from cnnviz.engine.prepare.transposed import TransposedConv
from cnnviz.models.graph.operations import operation_of

_CLIPPING = frozenset({"relu", "relu6", "hardtanh"})
# A step of its own costs some tens of microseconds, and so does oneDNN's look at the order of each packed weight:
# more than they spare up to so many convolutions with less weights (networks such as ShuffleNet, at one image).
_FEW, _MANY = 3, 1 << 16


@dataclass(frozen=True, eq=False)
class _Step:
    """``value = min(max(conv(x) + other, 0), limit)``, or a part of that.

    Attributes:
        value, x, other: Places among the values of a run; ``other`` is None where nothing is added.
        conv: The packed convolution, which does all that it can; None for what has none.
        plain: The convolution as the network has it.
        limit: What the rectifier clips at; None where there is none.
        last: Values that nobody reads after this step.
    """

    value: int
    x: int
    other: int | None
    conv: pack.PackedConv | None
    plain: nn.Conv2d | None
    limit: float | None
    last: tuple[int, ...] = ()

    def run(self, values: dict[int, Any]) -> Tensor:
        x, other = values[self.x], None if self.other is None else values[self.other]
        if self.conv is not None:
            found: Tensor = self.conv(x, other)
            if self.limit is None or self.conv.activation[0] != "none":
                return found
            return found.clamp_(0, self.limit)
        if other is not None:
            summed: Tensor = x + other
            return summed if self.limit is None else summed.clamp_(0, self.limit)
        return torch.clamp(x, 0, self.limit)

    def rectified(self, gradient: Tensor, y: Tensor, rule: str, owned: bool) -> Tensor:
        """What the rectifier sends back, by a rule of :mod:`cnnviz.engine.relu_rules`."""
        assert self.limit is not None
        found = gradient if owned else torch.empty_like(y)
        if rule != "backprop":
            gradient = torch.clamp(gradient, 0, out=found)
        if rule == "deconvnet":
            return found
        if self.limit == math.inf:
            torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=found)
        else:
            torch.ops.aten.hardtanh_backward.grad_input(gradient, y, 0, self.limit, grad_input=found)
        return found


class Stretch(nn.Module):
    """Consecutive convolutions, additions and rectifiers.

    Args:
        plain: Computes the results from the inputs by the plain, folded modules.
        dtype: What gradients are convolved in.
    """

    def __init__(self, plain: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__()
        self.plain, self.dtype = plain, dtype
        self.steps, self.inputs, self.results = _program(plain)
        self._transposed: dict[int, TransposedConv] = {}
        self.rectifiers = Counter(
            {math.inf: "relu", 6.0: "relu6"}.get(step.limit, "clipped_relu")
            for step in self.steps
            if step.limit is not None
        )

    def forward(self, *inputs: Tensor) -> Any:
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            found = _Swept.apply(self, *inputs)
        else:
            values = self.run(inputs, keep=False)
            found = tuple(values[place] for place in self.results)
        return found[0] if len(self.results) == 1 else found

    def run(self, inputs: Sequence[Tensor], *, keep: bool) -> dict[int, Any]:
        """The values of all steps; without ``keep`` only those that are results."""
        values: dict[int, Any] = dict(enumerate(inputs))
        kept = {step.value for step in self.steps if step.limit is not None} if keep else set()
        kept.update(self.results)
        for step in self.steps:
            values[step.value] = step.run(values)
            for place in step.last:
                if place not in kept:
                    values[place] = tuple(values[place].shape[2:]) if keep else None
        return values

    @property
    def by_tiles(self) -> bool:
        """Whether one of its convolutions was, forward or backward, as of a packed convolution."""
        forward = any(step.conv is not None and step.conv.by_tiles for step in self.steps)
        return forward or any(each.by_tiles for each in list(self._transposed.values()))

    def transposed(self, step: _Step, gradient: Tensor, size: tuple[int, int], into: Tensor | None) -> Tensor:
        """The gradient at the input of a step's convolution."""
        found = self._transposed.get(step.value)
        if found is None:
            assert step.plain is not None
            assert step.conv is not None
            found = TransposedConv(step.plain, step.conv, self.dtype, tuple(gradient.shape))
            self._transposed[step.value] = found
        return found(gradient, size, into)


class _Swept(torch.autograd.Function):
    """A stretch, as one step for autograd.

    Its node in the graph has ``rectifiers`` (how many of each name) and ``rule``, what they send back.
    """

    @staticmethod
    def forward(ctx: Any, stretch: Stretch, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = stretch.run([x.detach() for x in inputs], keep=True)
        results = tuple(values[place] for place in stretch.results)
        ctx.set_materialize_grads(False)
        ctx.stretch, ctx.rule, ctx.rectifiers = stretch, "backprop", stretch.rectifiers
        places = [step.value for step in stretch.steps if step.limit is not None]
        ctx.places = places
        ctx.sizes = {
            place: value if isinstance(value, tuple) else tuple(value.shape[2:]) for place, value in values.items()
        }
        ctx.save_for_backward(*inputs, *(values[place] for place in places))
        return results

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> Any:
        stretch, saved = ctx.stretch, ctx.saved_tensors
        inputs, kept = saved[: stretch.inputs], dict(zip(ctx.places, saved[stretch.inputs :], strict=True))
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            assert ctx.rule == "backprop", "rules are for first derivatives"
            return None, *_plainly(stretch, inputs, wanted, arriving)
        sweep = _Sweep(stretch, kept, ctx.sizes, ctx.rule)
        return None, *sweep.run(wanted, arriving)


class _Sweep:
    """One way back.

    ``found`` has the gradients that have arrived; those whose places are in ``own`` nobody else holds.
    """

    def __init__(self, stretch: Stretch, kept: dict[int, Tensor], sizes: dict[int, tuple[int, int]], rule: str) -> None:
        self.stretch, self.kept, self.sizes, self.rule = stretch, kept, sizes, rule
        self.found: dict[int, Tensor] = {}
        self.own: set[int] = set()

    def run(self, wanted: Sequence[bool], arriving: Sequence[Tensor | None]) -> list[Tensor | None]:
        leading = {place for place, needed in enumerate(wanted) if needed}
        for step in self.stretch.steps:
            if {step.x, step.other} & leading:
                leading.add(step.value)
        for place, gradient in zip(self.stretch.results, arriving, strict=True):
            if gradient is not None:
                self._add(place, gradient, owned=False)
        for step in reversed(self.stretch.steps):
            gradient = self.found.pop(step.value, None)
            if gradient is not None and step.value in leading:
                self._back(step, gradient, step.value in self.own, leading)
        return [self.found.get(place) if needed else None for place, needed in enumerate(wanted)]

    def _back(self, step: _Step, gradient: Tensor, owned: bool, leading: Collection[int]) -> None:
        if step.limit is not None:
            gradient, owned = step.rectified(gradient, self.kept[step.value], self.rule, owned), True
        if step.conv is not None and step.x in leading:
            # An expanded gradient (of a mean) has no memory of its own.
            there = self.found.get(step.x) if step.x in self.own else None
            dense = gradient.contiguous(memory_format=torch.channels_last)
            made = self.stretch.transposed(step, dense, self.sizes[step.x], there)
            if there is None:
                self._add(step.x, made, owned=True)
            else:
                self.found[step.x] = made
        sources = [step.other] if step.conv is not None else [step.x, step.other]
        sources = [place for place in sources if place in leading]
        for place in sources:
            assert place is not None
            self._add(place, gradient, owned=owned and len(sources) == 1)

    def _add(self, place: int, gradient: Tensor, *, owned: bool) -> None:
        before = self.found.get(place)
        if before is None:
            self.found[place] = gradient
            self.own.discard(place)
            if owned:
                self.own.add(place)
        elif place in self.own:
            before.add_(gradient)
        else:
            self.found[place] = gradient.add_(before) if owned else gradient + before
            self.own.add(place)


def _plainly(
    stretch: Stretch, inputs: Sequence[Tensor], wanted: Sequence[bool], arriving: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradient as a function of inputs and what arrives, which can be differentiated again."""
    # Views of their own: what lies below an input is no part of it.
    leaves = [x.view_as(x) if needed else x for x, needed in zip(inputs, wanted, strict=True)]
    results = stretch.plain(*leaves)
    pairs = [(y, g) for y, g in zip(results, arriving, strict=True) if g is not None and y.requires_grad]
    sources = [leaf for leaf, needed in zip(leaves, wanted, strict=True) if needed]
    found = torch.autograd.grad(
        [y for y, _ in pairs], sources, [g for _, g in pairs], create_graph=True, allow_unused=True
    )
    each = iter(found)
    return [next(each) if needed else None for needed in wanted]


def _program(plain: fx.GraphModule) -> tuple[list[_Step], int, tuple[int, ...]]:
    """Steps, the number of inputs, and the places of the results among the values of a run."""
    packed = fx.GraphModule(plain, copy.deepcopy(plain.graph))
    results = _results(packed)
    made = dict(pack.pack(packed, set(results), torch.float32))
    results = _results(packed)
    inputs = [node for node in packed.graph.nodes if node.op == "placeholder"]
    places = {node: place for place, node in enumerate(inputs)}
    steps: list[_Step] = []
    for node in packed.graph.nodes:
        if node.op in {"placeholder", "output"}:
            continue
        places[node] = len(places)
        steps.append(_step(packed, node, places, made))
    wanted = tuple(places[node] for node in results)
    read: dict[int, int] = {}
    for number, step in enumerate(steps):
        read.update(dict.fromkeys((step.x, step.value, *(() if step.other is None else (step.other,))), number))
    last = [tuple(place for place, reader in read.items() if reader == number) for number in range(len(steps))]
    steps = [replace(step, last=ended) for step, ended in zip(steps, last, strict=True)]
    for step in steps:
        if step.conv is not None and step.other in {s.value for s in steps if s.limit is not None}:
            step.conv.in_place = False  # what a rectifier gave is still needed on the way back
    return steps, len(inputs), wanted


def _step(
    packed: fx.GraphModule, node: fx.Node, places: dict[fx.Node, int], made: dict[pack.PackedConv, nn.Conv2d]
) -> _Step:
    sources = [places[source] for source in _signals(node)]
    other = sources[1] if len(sources) > 1 else None
    module = packed.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, pack.PackedConv):
        name, limits, _ = module.activation
        limit = {"relu": math.inf, "hardtanh": limits[-1] if limits else None}.get(name)
        return _Step(places[node], sources[0], other, module, made[module], limit)
    bounds = operation_of(packed, node).bounds
    return _Step(places[node], sources[0], other, None, None, None if bounds is None else bounds[1])


def _signals(node: fx.Node) -> list[fx.Node]:
    """What a node reads, as often as it reads it."""
    return [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, fx.Node)]


def _results(module: fx.GraphModule) -> list[fx.Node]:
    found: Any = next(node for node in module.graph.nodes if node.op == "output").args[0]
    return list(found)


def join_stretches(head: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """The head with every stretch that has a convolution in one piece; it shares the other modules.

    Args:
        head: A private, folded copy in float32; left as it is. Rectifiers whose values it returns stay nodes of their
            own, which others look for behind an explained layer.
        dtype: What gradients are convolved in.
    """
    joined = fx.GraphModule(head, copy.deepcopy(head.graph))
    kept = set(nodes_of(_results(joined)))
    for number, run in enumerate(_runs(joined, kept)):
        _join(joined, run, f"stretch_{number}", dtype)
    joined.delete_all_unused_submodules()
    joined.graph.lint()
    joined.recompile()
    return joined


def joinable(head: fx.GraphModule) -> bool:
    """Whether there is any stretch that pays."""
    return bool(_runs(head, set(nodes_of(_results(head)))))


def _join(joined: fx.GraphModule, run: list[fx.Node], name: str, dtype: torch.dtype) -> None:
    inside = set(run)
    inputs = list(dict.fromkeys(source for node in run for source in _signals(node) if source not in inside))
    results = [node for node in run if any(reader not in inside for reader in node.users)]
    stretch = Stretch(sub_graph(joined, joined.graph, inputs, run, results), dtype)
    target = add_submodule(joined, name, stretch)
    with joined.graph.inserting_after(run[-1]):
        whole = joined.graph.call_module(target, tuple(inputs))
    values = [whole]
    if len(results) > 1:
        with joined.graph.inserting_after(whole):
            values = [joined.graph.call_function(operator.getitem, (whole, place)) for place in range(len(results))]
    for node, value in zip(results, values, strict=True):
        value.meta = dict(node.meta)
        node.replace_all_uses_with(value)
    for node in reversed(run):
        joined.graph.erase_node(node)


def _runs(head: fx.GraphModule, kept: Collection[fx.Node]) -> list[list[fx.Node]]:
    """Consecutive nodes that can be joined, where that pays. A kept value ends its run."""
    found: list[list[fx.Node]] = [[]]
    for node in head.graph.nodes:
        if not _fits(head, node, kept):
            found.append([])
            continue
        found[-1].append(node)
        if node in kept:
            found.append([])
    return [run for run in found if _pays(head, run)]


def _pays(head: fx.GraphModule, run: Sequence[fx.Node]) -> bool:
    """Whether it has many convolutions, or one with so many weights that ordering them takes time."""
    found = [conv for node in run if (conv := foldable_convolution(head, node)) is not None]
    return len(found) > _FEW or any(conv.weight.numel() >= _MANY for conv in found)


def _fits(head: fx.GraphModule, node: fx.Node, kept: Collection[fx.Node]) -> bool:
    conv = foldable_convolution(head, node)
    if conv is not None:
        return pack.packable(conv) and len(node.meta.get("shape") or ()) == 4
    operation = operation_of(head, node)
    bounds = operation.bounds
    if bounds is not None:
        return operation.name in _CLIPPING and bounds[0] == 0 < bounds[1] and node not in kept
    if operation.kind != "addition" or operation.arguments["alpha"] != 1:
        return False
    summands = [operation.arguments[name] for name in ("input", "other")]
    if not all(isinstance(summand, fx.Node) for summand in summands):  # what the network holds may be broadcast
        return False
    first, second = (summand.meta.get("shape") for summand in summands)
    return first is not None and len(first) == 4 and first == second
