"""The network as trunk and head, cut at the target layers.

The trunk computes the activations A of the target layers without gradients; the head computes the logits from A and
is the only part that autograd sees. The gradient dz/dA of the cut network equals that of the whole network, because
nothing below A takes part in it. Values that bypass A (a residual branch around a named layer) cross the cut as
constants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from cnnviz.engine.prepare import fold, pack
from cnnviz.engine.prepare.parts import nodes_of, sub_graph
from cnnviz.engine.prepare.portions import in_portions, widest
from cnnviz.engine.prepare.stretch import join_stretches, joinable
from cnnviz.engine.runtime import Runtime, packable
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.operations import Operation, operation_of_module
from cnnviz.models.graph.trace import Graph, ancestors, descendants

# How far a private copy is rewritten, fastest first; the first that reproduces the module's own values is used.
PREPARATIONS = ("packed", "folded", "plain")


@dataclass(eq=False)
class Split:
    """Trunk and head.

    Attributes:
        trunk: pixels [N, C, H, W] -> every value that crosses the cut, target layers first.
        head: those values -> (logits [N, K], activations of target layers above the first ones ...), and last, where
            ``everything`` is read, all that the network returns.
        order: For each target layer, in the asked order, its place in (crossing values + inner activations).
        crossing: How many of the trunk's values are target layers.
        preparation: ``packed``, ``folded``, ``plain`` or ``shared`` (the user's own modules).
        trunk_dtype, head_dtype: What the two compute in.
        readable: The head operation by operation, for who looks into it: the same weights, not joined.
        gradient_dtype: What the head's gradients are convolved in, where that is another type than the head's.
        everything: Whether the head hands on all that the network returns.
        kinds: How the crossing values depend on the number of images, by the size of these; found when it is needed.
        widest: Bytes of the trunk's largest tensor for each number of the image; 0 where a batch is not divided.
    """

    trunk: Callable[[Tensor], tuple[Any, ...]]
    head: Callable[..., tuple[Tensor, ...]]
    order: tuple[int, ...]
    crossing: int
    preparation: str
    trunk_dtype: torch.dtype
    head_dtype: torch.dtype
    readable: Callable[..., tuple[Tensor, ...]]
    gradient_dtype: torch.dtype | None = None
    everything: bool = False
    kinds: dict[tuple[int, ...], Sequence[tuple[Any, Any]]] = field(default_factory=dict)
    widest: float = 0.0

    @property
    def by_tiles(self) -> bool:
        """Whether compiled functions computed convolutions of it with fewer products, in passes that were made."""
        return any(any_by_tiles(part) for part in (self.trunk, self.head) if isinstance(part, nn.Module))

    def read(self, results: tuple[Any, ...]) -> Any:
        """What targets read of the head's results: the logits, or all that the network returns."""
        return results[-1] if self.everything else results[0]


def any_by_tiles(part: nn.Module) -> bool:
    """Whether compiled functions computed convolutions of a trunk or a head, in passes that were made."""
    return any(getattr(module, "by_tiles", False) for module in part.modules())


def cut(graph: Graph, targets: Sequence[fx.Node], runtime: Runtime, preparation: str) -> Split:
    """Cut a traced network at ``targets``.

    Args:
        graph: The trace; left as it is.
        targets: Nodes to explain; ``graph.input`` cuts at the image (everything is head).
        runtime: Device and precision.
        preparation: One of :data:`PREPARATIONS` for a private copy, ``shared`` to use the user's modules as they are.
    """
    root, whole = graph.module, _with_outputs(graph, targets)
    if preparation != "shared":
        root = copy.deepcopy(fx.GraphModule(root, whole))
        whole = root.graph
        for parameter in root.parameters():
            parameter.requires_grad_(False)
    if preparation in {"packed", "folded"}:
        (_, *kept), end = _output(whole)
        fold.fold_batch_norm(root, [*kept, *nodes_of(end)])
    trunk, head, order, crossing = _separate(root, whole)
    exact = torch.float32
    split = Split(trunk, head, order, crossing, preparation, exact, exact, head, everything=graph.end is not None)
    if preparation != "shared":
        _finish(split, runtime)
    return split


def _with_outputs(graph: Graph, targets: Sequence[fx.Node]) -> fx.Graph:
    """A graph of the same modules that returns ((logits, *targets), end) and has nothing else.

    Modules that pass their input on (identity, dropout in evaluation) are left out: they would stand between a
    convolution and what can be folded or fused into it.
    """
    wanted = ancestors([graph.logits, *targets, *nodes_of(graph.end)])
    # What parameters alone give has one row in every batch, which no shape of a probe of one image tells.
    of_image = {graph.input, *descendants([graph.input])}
    fresh = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in graph.module.graph.nodes:
        if node in wanted and node not in targets and _is_idle(graph.operation(node)):
            env[node] = env[node.all_input_nodes[0]]
        elif node in wanted or node.op == "placeholder":
            env[node] = fresh.node_copy(node, lambda n: env[n])
            env[node].meta["shape"] = graph.shapes.get(node) if node in of_image else None
            env[node].meta["bundle"] = node in graph.bundles
    fresh.output(((env[graph.logits], *(env[t] for t in targets)), map_arg(graph.end, lambda n: env[n])))
    return fresh


def _is_idle(operation: Operation) -> bool:
    """Whether it is one of torch's modules that pass their input on."""
    return operation.kind == "identity" and operation.module is not None and not operation.subclassed


def _output(graph: fx.Graph) -> Any:
    return next(n for n in graph.nodes if n.op == "output").args[0]


def _separate(root: nn.Module, whole: fx.Graph) -> tuple[fx.GraphModule, fx.GraphModule, tuple[int, ...], int]:
    (logits, *targets), end = _output(whole)
    ends = nodes_of(end)
    above = descendants(targets)
    in_head = above & ancestors([logits, *targets, *ends])
    if not {logits, *ends} & {*in_head, *targets}:
        raise CnnvizError(
            "The chosen layer does not influence the explained output.",
            "Name another layer with --layer, or another output with --logits-key.",
        )
    outer = list(dict.fromkeys(t for t in targets if t not in above))
    inner = list(dict.fromkeys(t for t in targets if t in above))
    if logits in outer and not ends:  # nothing below the logits is asked for: all is trunk
        in_head = set()
    used = [n for node in whole.nodes if node in in_head for n in node.all_input_nodes if n not in in_head]
    used += [n for n in (logits, *ends) if n not in in_head]
    image = [node for node in whole.nodes if node.op == "placeholder"]
    bound = descendants(image) | set(image)
    others = [n for n in dict.fromkeys(used) if n not in outer and n in bound]
    # Parameters, and what is computed from them alone, are the head's own.
    fixed = ancestors([n for n in used if n not in bound])
    crossing = [*outer, *others]
    trunk = sub_graph(root, whole, [], ancestors(crossing), crossing)
    head = sub_graph(root, whole, crossing, in_head | fixed, [logits, *inner, *([] if end is None else [end])])
    order = tuple(outer.index(t) if t in outer else len(crossing) + inner.index(t) for t in targets)
    return trunk, head, order, len(outer)


def _finish(split: Split, runtime: Runtime) -> None:
    """Move to the device, set memory format and precision, pack the trunk."""
    trunk, head = split.trunk, split.head
    assert isinstance(trunk, fx.GraphModule)
    assert isinstance(head, fx.GraphModule)
    # A head of pooling and linear layers costs nothing: it stays exact. One with convolutions is most of the
    # network, and its user asked for that precision.
    split.trunk_dtype = runtime.dtype
    split.head_dtype = runtime.head_dtype if _has_convolution(head) else torch.float32
    joins = split.preparation == "packed" and joinable(head)
    if joins and split.head_dtype != torch.float32:
        # Rounded activations put rectifiers on the other side of zero, which spoils gradients; rounded gradients do
        # not (0.89 to 0.95 and 0.9999 correlation with float32 on the bundled network).
        split.head_dtype, split.gradient_dtype = torch.float32, split.head_dtype
        if not computes(trunk):
            split.trunk_dtype = torch.float32  # the image crosses as it is
    kept = set(_output(trunk.graph))
    if split.preparation == "packed":
        weights = sum(parameter.numel() for parameter in trunk.parameters())
        pack.pack(trunk, kept, runtime.dtype)
        split.widest = widest(trunk, weights, runtime.dtype)
    elif split.preparation == "folded":
        fold.in_place_where_safe(trunk, kept)
    for part, dtype in ((trunk, split.trunk_dtype), (head, split.head_dtype)):
        part.delete_all_unused_submodules()
        part.to(device=runtime.device, dtype=dtype)
        if split.preparation != "plain":
            part._apply(_channels_last)
    if joins:
        split.head = join_stretches(head, split.gradient_dtype or torch.float32)


def _channels_last(tensor: Tensor) -> Tensor:
    """In the order that convolutions want; what has not four dimensions as it is (``Module.to`` fails at five)."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def quietly(part: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A part of the network to call: errors of a GraphModule's own call are printed before they are raised."""
    return part.forward if isinstance(part, fx.GraphModule) else part


def computes(part: Callable[..., Any]) -> bool:
    """Whether a part of the network does anything but hand on what it is given."""
    if not isinstance(part, fx.GraphModule):
        return True
    return any(node.op not in {"placeholder", "output"} for node in part.graph.nodes)


def crossing(split: Split, pixels: Tensor) -> tuple[Any, ...]:
    """What the trunk computes of a batch on its device, without gradients."""
    source = pixels.to(split.trunk_dtype)
    if split.preparation not in {"plain", "shared"}:
        source = source.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return in_portions(quietly(split.trunk), source, split.widest)


def to_head(value: Any, split: Split, explained: bool) -> Any:
    """A crossing value as the head takes it: a constant, or a leaf that is explained."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.is_floating_point():
        value = value.to(split.head_dtype)
        if explained:
            value.requires_grad_()
    return value


def _has_convolution(module: nn.Module) -> bool:
    return any(operation_of_module(part).is_convolution for part in module.modules())


def usable_preparations(runtime: Runtime) -> tuple[str, ...]:
    """The preparations to try here, fastest first."""
    return PREPARATIONS if packable(runtime.device) and runtime.precision != "fp16" else PREPARATIONS[1:]
