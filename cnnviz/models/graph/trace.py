"""The network as a graph of tensors, found by running it once symbolically.

Names in ``named_modules`` say what a network owns, not what it does: modules are listed in the order in which
they were registered, one module may run several times, and functional calls have no name at all. Everything that
asks "which tensor?" (default layer, split into trunk and head, CAM's head, receptive fields) asks this graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.models.graph.attention import AttentionWatch
from cnnviz.models.graph.attributes import left_as_found
from cnnviz.models.graph.functionalize import without_in_place, without_strides
from cnnviz.models.graph.operations import Operation, operation_of
from cnnviz.models.graph.rectifiers import spelled_as_rectifiers
from cnnviz.models.graph.tracer import TURN, Tracer
from cnnviz.models.graph.without_values import without_values

_MAX_RETRIES = 64


@dataclass(eq=False)
class Graph:
    """A traced network.

    Attributes:
        module: The traced module; its submodules are the user's own, shared. Its graph is what counts and is run node
            by node: its code is not written anew after the graph was rewritten, since nobody calls it.
        calls: Module path to the nodes that its calls returned, in execution order.
        shapes: Shape of each node whose value is a tensor, at the probe's input size.
        bundles: Nodes whose value is a tuple or list of tensors.
        logits: The node that is explained: the chosen output, before a final softmax or sigmoid.
        final_activation: ``"softmax"``, ``"sigmoid"`` or None: what the network applies to its logits.
        attention: Whether self-attention ran.
        probe: The input that it was traced with; None where nothing was computed.
        returned: Everything that the network returns: a structure of nodes.
        end: What the head hands on beside the logits, a structure of nodes; None for nothing.
        units: The node whose units the logits are, where a layer is read in the place of the class scores.
        boxes: Whether the logits are a detector's candidates for boxes.
        vector: Whether they are a vector that stands for the image, and no scores.
        places: What :mod:`cnnviz.models.graph.places` found, once; None before.
        views: For tensors that are explained as maps, but are none as they lie: the nodes that are these maps.
        remembered: What was found of it by running it, by what was asked.
    """

    module: fx.GraphModule
    calls: dict[str, list[fx.Node]]
    shapes: dict[fx.Node, tuple[int, ...]]
    bundles: set[fx.Node]
    logits: fx.Node
    final_activation: str | None
    attention: bool
    probe: Tensor | None = field(default=None, repr=False)
    _chain: list[fx.Node] | None = field(default=None, repr=False)
    axes: Any = field(default=None, repr=False)  # what cnnviz.models.graph.axes found, once
    returned: Any = field(default=None, repr=False)
    end: Any = field(default=None, repr=False)
    units: fx.Node | None = None
    boxes: bool = False
    vector: bool = False
    places: Any = field(default=None, repr=False)
    views: dict[fx.Node, fx.Node] = field(default_factory=dict, repr=False)
    remembered: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def input(self) -> fx.Node:
        found: fx.Node = next(node for node in self.module.graph.nodes if node.op == "placeholder")
        return found

    def operation(self, node: fx.Node) -> Operation:
        """What a node computes."""
        return operation_of(self.module, node, self.shapes)

    def submodule(self, node: fx.Node) -> nn.Module | None:
        """The module that this node calls, if it is a module call."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def inputs_of(self, node: fx.Node) -> list[fx.Node]:
        """The tensor-valued inputs of a node, seen through tuples of tensors (``chunk``, ``split``)."""
        found: list[fx.Node] = []
        for source in node.all_input_nodes:
            if source in self.shapes:
                found.append(source)
            elif source in self.bundles:
                found.extend(self.inputs_of(source))
        return found

    def chain(self) -> list[fx.Node]:
        """The nodes that every path from the image to the logits passes through, in order.

        A node lies on every path when (paths into it) x (paths out of it) = all paths; Python's integers count
        them exactly, however many a dense network has.
        """
        if self._chain is None:
            order = [n for n in self.module.graph.nodes if n in self.shapes]
            into = dict.fromkeys(order, 0)
            into[self.input] = 1
            for node in order:
                for source in self.inputs_of(node):
                    into[node] += into[source]
            out = dict.fromkeys(order, 0)
            out[self.logits] = 1
            for node in reversed(order):
                for source in self.inputs_of(node):
                    out[source] += out[node]
            total = into[self.logits]
            self._chain = [n for n in order if into[n] and out[n] and into[n] * out[n] == total]
        return self._chain

    def is_spatial(self, node: fx.Node) -> bool:
        return len(self.shapes.get(node, ())) == 4

    def is_activation(self, node: fx.Node) -> bool:
        return self.operation(node).is_activation

    def is_pool(self, node: fx.Node) -> bool:
        return self.operation(node).kind == "pooling" or self.is_spatial_mean(node)

    def is_passive(self, node: fx.Node) -> bool:
        """Dropout, identity and the like: in evaluation the value passes through unchanged."""
        return self.operation(node).kind == "identity"

    def is_spatial_mean(self, node: fx.Node) -> bool:
        """``x.mean((2, 3))`` in any spelling, on a 4-D tensor."""
        operation = self.operation(node)
        if operation.name != "mean":
            return False
        source, dims = operation.arguments.get("input"), operation.arguments["dim"]
        if not isinstance(source, fx.Node) or not isinstance(dims, tuple):
            return False
        return self.is_spatial(source) and set(dims) == {2, 3}

    def is_global_pool(self, node: fx.Node) -> bool:
        """Whether the node collapses all positions of a 4-D map into one."""
        source = next(iter(self.inputs_of(node)), None)
        if source is None or not self.is_spatial(source):
            return False
        if self.is_spatial_mean(node):
            return True
        operation = self.operation(node)
        if operation.kind != "pooling":
            return False
        size = operation.arguments.get("output_size")
        if size is not None:
            return bool(size == (1, 1))
        out, into = self.shapes[node], self.shapes[source]
        return out[2:] == (1, 1) and into[2:] != (1, 1)


class Prober(fx.Interpreter):
    """Runs the graph once and keeps the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.bundles: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            self.shapes[n] = tuple(value.shape)
        elif isinstance(value, (tuple, list)) and any(isinstance(item, Tensor) for item in value):
            self.bundles.add(n)
        return value


def trace(module: nn.Module, probe: Tensor, select: Callable[[Any], Any]) -> Graph | None:
    """Trace ``module`` (in evaluation mode) and check the trace against the module itself.

    Args:
        module: The network. It is not changed; the graph shares its submodules.
        probe: An input [N, C, H, W] that the network accepts; shapes are recorded for it.
        select: Picks the logits from whatever the network returns (applied to graph nodes here).

    Returns:
        The graph, free of in-place operations, or None when the network cannot be traced or its trace computes
        something else.
    """
    traced = _trace_adaptively(module)
    if traced is None:
        return None
    graph_module, calls, opaque = traced
    without_in_place(graph_module)
    without_strides(graph_module, opaque)
    spelled_as_rectifiers(graph_module)
    output = next(n for n in graph_module.graph.nodes if n.op == "output")
    try:
        chosen = select(_unpacked(output.args[0]))
    except Exception:
        return None
    if not isinstance(chosen, fx.Node):
        return None
    prober, watch = Prober(graph_module), AttentionWatch()
    try:
        with torch.no_grad():
            with watch:
                value = prober.run(probe)
            expected = select(module(probe))
        same = torch.allclose(select(value), expected, rtol=1e-3, atol=1e-5, equal_nan=True)
    except Exception:
        return None
    if not same:
        return None
    graph = Graph(graph_module, calls, prober.shapes, prober.bundles, chosen, None, watch.seen, probe)
    graph.returned = output.args[0]
    return _before_final_activation(graph)


def of_boxes(graph: Graph, select: Callable[[Any], Any]) -> Graph:
    """The graph of a detector: its end is the chosen output itself, also where that is a softmax or a sigmoid."""
    return replace(graph, logits=select(_unpacked(graph.returned)), final_activation=None, _chain=None, boxes=True)


def up_to(module: nn.Module, layer: str) -> fx.GraphModule:
    """The part of a network that computes what one of its modules returns.

    Only what holds that module is opened; whatever stands beside it stays the module that it was, with its own code, so
    that it knows training from evaluation, and names of modules and weights stay what they were.

    Args:
        module: The network, in evaluation mode. Its submodules are shared.
        layer: Path of a module, or ``path:k`` for call k.

    Raises:
        ValueError: The network cannot be traced, or has no such layer.
    """
    path, _, call = layer.partition(":")
    opened = {".".join(path.split(".")[:depth]) for depth in range(path.count(".") + 1)} - {path}
    tracer = Tracer(frozenset(name for name, _ in module.named_modules() if name and name not in opened))
    try:
        with TURN:
            graph = tracer.trace(module)
        node = tracer.calls[path][int(call or 0)]
    except Exception as error:  # control flow on values, or a name that is not there: each has its own
        raise ValueError(f"{type(error).__name__}: {error}") from error
    needed = ancestors([node])
    for other in reversed(graph.nodes):
        if other.op == "output":
            other.args = (node,)
        elif other not in needed and other.op != "placeholder":
            graph.erase_node(other)
    return fx.GraphModule(module, graph)


def at_size(graph: Graph, size: tuple[int, int]) -> Graph:
    """The same graph with the shapes of its tensors at another input size (height, width)."""
    shapes, bundles = probed(graph, (1, graph.shapes[graph.input][1], *size))
    return replace(graph, shapes=shapes, bundles=bundles, probe=None, axes=None, places=None, remembered={})


def probed(graph: Graph, shape: tuple[int, ...] | None = None) -> tuple[dict[fx.Node, tuple[int, ...]], set[fx.Node]]:
    """Shapes and bundles for an input of this shape (None: that of the probe), computed only where a part asks."""
    shape = shape or graph.shapes[graph.input]
    like = next((p for p in graph.module.parameters() if p.is_floating_point()), torch.zeros(0))
    try:
        with torch.no_grad(), without_values():
            (prober := Prober(graph.module)).run(torch.empty(shape).to(like))
    except Exception:  # of the user's network
        with torch.no_grad(), torch.random.fork_rng():
            (prober := Prober(graph.module)).run(torch.ones(shape).to(like))
    return prober.shapes, prober.bundles


def _unpacked(value: Any) -> Any:
    """What a network returns, as nodes: a dataclass that it makes is a node itself, its fields are what counts."""
    if isinstance(value, fx.Node) and value.op == "call_function" and is_dataclass(value.target):
        return SimpleNamespace(**{name: _unpacked(item) for name, item in value.kwargs.items()})
    if isinstance(value, dict):
        return {name: _unpacked(item) for name, item in value.items()}
    named = hasattr(value, "_fields")
    return [_unpacked(item) for item in value] if isinstance(value, (list, tuple)) and not named else value


def _trace_adaptively(module: nn.Module) -> tuple[fx.GraphModule, dict[str, list[fx.Node]], frozenset[str]] | None:
    """Trace; where a submodule resists (control flow on values), keep it as one opaque node and try again."""
    if any(hasattr(fx.GraphModule, name) for name, _ in module.named_children()):
        return None  # a part called ``graph`` or ``code``, which a graph module has of its own
    opaque: frozenset[str] = frozenset()
    unhooked: frozenset[str] = frozenset()
    for _ in range(_MAX_RETRIES):
        tracer = Tracer(opaque, unhooked)
        try:
            with TURN, left_as_found(module):
                return fx.GraphModule(module, tracer.trace(module)), tracer.calls, opaque
        except Exception:
            failed = tracer.failed
            if failed is None or failed in opaque:
                return None
            resisting = module.get_submodule(failed)
            if resisting._forward_hooks and not resisting._forward_pre_hooks and failed not in unhooked:
                # What looks at tensors cannot look at what stands for them. Another tool's hook leaves the values
                # alone; one that does not is noticed when the trace is compared with the network itself.
                unhooked |= {failed}
                continue
            # Siblings of the same class resist for the same reason.
            kind = type(resisting)
            opaque |= {name for name, m in module.named_modules() if name and type(m) is kind} | {failed}
    return None


def _before_final_activation(graph: Graph) -> Graph:
    node = _behind_reshapes(graph, graph.logits)
    kind = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}.get(graph.operation(node).name)
    if kind is None:
        return graph
    graph.logits = graph.inputs_of(node)[0]
    graph.final_activation = kind
    return graph


def _behind_reshapes(graph: Graph, node: fx.Node) -> fx.Node:
    """Back over reshapes that keep every class score, as in ``sigmoid(z).squeeze(1)``."""
    while graph.operation(node).kind == "reshaping":
        source = graph.inputs_of(node)
        if len(source) != 1 or math.prod(graph.shapes[source[0]]) != math.prod(graph.shapes[node]):
            break
        node = source[0]
    return node


def descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes that use a value of ``nodes``, directly or not (without ``nodes`` unless one uses another)."""
    return _reached((user for node in nodes for user in node.users), lambda node: node.users)


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """``nodes`` and everything that they are computed from."""
    return _reached(nodes, lambda node: node.all_input_nodes)


def _reached(start: Iterable[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """The nodes to start with, and all that can be reached from them."""
    seen: set[fx.Node] = set()
    stack = list(start)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(neighbours(node))
    return seen
