"""Relevance by one modified forward pass over the traced head, and one ordinary backward pass.

A relevance method splits what arrives at a neuron's output among its inputs, R_j = sum_k s_jk R_k. With
c = R / value at each tensor that is a gradient: when a layer y = f(a) is replaced by a function q(a) with q = y and
a_j dq_k/da_j = s_jk y_k, then automatic differentiation carries c, and R = a * c. So only layers whose split is not
already that of their gradient need a rule (Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019,
section 10.3); sums, concatenations, reshaping and average pooling split in proportion, maximum pooling gives all to
the winner. What a signal is divided by is taken for a constant, as the deviation in normalisations is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cnnviz.engine import runtime as rt
from cnnviz.engine.prepare.fold import batch_norm
from cnnviz.engine.prepare.split import Split, cut
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import CnnvizError
from cnnviz.methods.relevance.weights import in_use, with_weights
from cnnviz.models.graph.attention_matrices import written_out
from cnnviz.models.graph.operations import Operation, operation_of
from cnnviz.models.graph.outputs import as_rows
from cnnviz.models.graph.trace import Graph

# Activations whose values weigh another signal.
_GATES = frozenset("sigmoid hardsigmoid softmax tanh".split())
# What hands a gate's values on, in another shape.
_SHAPING = frozenset({"reshaping", "expansion", "permutation", "identity"})
# What has no kind and moves values alone, or adds what is no signal.
_MOVING = frozenset("roll flip unfold fold masked index_select gather take_along_dim".split())
_TINY = 1e-30
# Largest share of its values by which a normalisation may differ from the one that its rule is for.
_SAME_NORM = 1e-2


@dataclass(frozen=True, eq=False)
class Weighted:
    """A convolution or a linear layer: ``apply(x, weight, bias)`` computes it with other weights.

    ``from_image`` makes the layer's input of something of the image's shape, where that is the image itself, padded at
    most; otherwise it is None.
    """

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    convolution: bool
    from_image: Callable[[Tensor], Tensor] | None
    last: bool


@dataclass(frozen=True, eq=False)
class Rules:
    """How layers are replaced.

    Attributes:
        weighted: (layer, input, output, propagation) -> q, and the rule's name.
        excitatory: Whether only positive parts take part in sums and averages, and normalisations pass all on.
        attention: Whether they are made for attention too: it is written out, and what has no rule is refused.
    """

    weighted: Callable[[Weighted, Tensor, Tensor, Propagation], tuple[Tensor, str]]
    excitatory: bool = False
    attention: bool = False


@dataclass(eq=False)
class Propagation:
    """One modified pass.

    Attributes:
        output: What targets read, the network's own, connected to the leaves.
        at: The tensor that relevance is asked of; a leaf.
        extra: Further leaves (ones in the place of the image) whose relevance is added to that of ``at``.
        used: How often each rule was used.
        layer: The tensor of a layer that the session looks at beside the image.
    """

    at: Tensor
    output: Any = None
    extra: list[Tensor] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    layer: Tensor | None = None

    def relevance(self, above: Tensor, c: Tensor | None = None) -> Tensor:
        """R at ``at``, value times c, of scores [N], in their units; or of a tensor on the way with this c there."""
        leaves = [self.at, *self.extra]
        start = above.sum() if c is None else above
        found = torch.autograd.grad(start, leaves, c, retain_graph=True, materialize_grads=True)
        return torch.stack([leaf.detach() * c for leaf, c in zip(leaves, found, strict=True)]).sum(0)


def propagate(run: ForwardPass, rules: Rules, name: str) -> Propagation:
    """Run the head of a pass with modified layers.

    Args:
        run: A pass that starts at the image, or at one layer.
        rules: How layers are replaced.
        name: What to call the method in messages.

    Raises:
        CnnvizError: The network cannot be traced, computes self-attention, or has weights in a form without a rule.
    """
    session = run.session
    key = f"relevance split, {rules.attention}"
    split = session.remember(
        key, lambda: _with_attention(session, name) if rules.attention else canonical(session, name)
    )
    head = split.readable
    assert isinstance(head, fx.GraphModule)
    inputs = sum(node.op == "placeholder" for node in head.graph.nodes)
    values: Sequence[Any] = (run.activations[0],)
    if inputs > 1:  # what bypasses the layer is no part of the pass
        with torch.no_grad():
            values = split.trunk(run.pixels.to(split.trunk_dtype))
    at = values[0].detach().float().requires_grad_()
    others = [v.detach().float() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values[1:]]
    propagation = Propagation(at)
    results = _Interpreter(head, rules, propagation, name).run(at, *others)
    read = run.session.marked(split.read(results))
    propagation.output = read if split.everything else as_rows(read)
    if len(split.order) > 1:
        propagation.layer = (*values, *results[1:])[split.order[1]]
    return propagation


def canonical(session: Session, name: str) -> Split:
    """The network cut where the session is, in float32, with batch normalisations folded into convolutions."""
    graph, split = readable(session, name)
    exact = split.head_dtype == torch.float32 and split.gradient_dtype is None
    if split.preparation in {"packed", "folded"} and exact:
        return split
    return cut(graph, session.nodes, rt.Runtime(session.device, "fp32"), "folded")


def _with_attention(session: Session, name: str) -> Split:
    """As :func:`canonical`, with attention by operations of which each has a rule."""
    graph = session.graph
    if graph is None or not graph.attention:
        return canonical(session, name)
    written_out(graph)
    return cut(graph, session.nodes, rt.Runtime(session.device, "fp32"), "folded")


def readable(session: Session, name: str) -> tuple[Graph, Split]:
    """The trace of a network whose every operation can be read.

    Raises:
        CnnvizError: It cannot be traced, or computes self-attention.
    """
    graph, split = session.graph, session.split
    if graph is None or split is None:
        raise CnnvizError(
            f"{name} follows the data through the layers; {session.name} {session.untraced}.",
            "Use integrated_gradients.",
        )
    if graph.attention:
        hint = "Use --rule attnlrp, which has." if name == "LRP" else "Use gradcam, or lrp --rule attnlrp."
        raise CnnvizError(f"{name} has no rule for self-attention, which {session.name} computes.", hint)
    return graph, split


class _Interpreter(fx.Interpreter):
    """Runs a head with layers replaced. The values stay those of the network."""

    def __init__(self, head: fx.GraphModule, rules: Rules, propagation: Propagation, name: str) -> None:
        super().__init__(head)
        self.rules, self.propagation, self.name = rules, propagation, name
        nodes = list(head.graph.nodes)
        self._from_image: dict[Any, Callable[[Tensor], Tensor]] = {nodes[0]: lambda image: image}
        self._head, self._merged = head, dict[fx.Node, Tensor]()
        self._operations = {node: operation_of(head, node) for node in nodes}
        self._last = next((node for node in reversed(nodes) if _has_weights(self._operations[node])), None)

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = _in_order(*self.fetch_args_kwargs_from_env(n))
        if n.op in {"call_module", "call_function", "call_method"} and args and isinstance(args[0], Tensor):
            self._follow_padding(n, args, kwargs)
            replaced = self._replaced(n, args, kwargs)
            if replaced is not None:
                return replaced
        return getattr(self, n.op)(n.target, args, kwargs)

    def _follow_padding(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before = self._from_image.get(node.args[0])
        if before is None or self._operations[node].kind != "padding":
            return
        call = partial(getattr(self, node.op), node.target)
        # What it makes of zeros tells whether it adds a value of its own.
        if not bool(call((torch.zeros_like(args[0]), *args[1:]), kwargs).any()):
            self._from_image[node] = lambda image: call((before(image), *args[1:]), kwargs)

    def _replaced(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The value of a node with a rule; None for nodes that split as their gradient does."""
        x, operation = args[0], self._operations[node]
        if node in self._merged:
            return self._merged.pop(node)
        if _has_weights(operation):
            layer = self._weighted(node, operation, args, kwargs)
            y: Tensor = getattr(self, node.op)(node.target, args, kwargs)
            if operation.kind == "convolution" and self._merge(node, layer, x):
                return y.detach()
            q, used = self.rules.weighted(layer, x, y, self.propagation)
            self.propagation.used[used] += 1
            return keeping(y, q)
        if operation.is_whole:
            what = f"{type(operation.module).__name__} ({node.target}), which cannot be looked into"
            raise CnnvizError(f"{self.name} has no rule for {what}.", "Use integrated_gradients.")
        # With the factor of a scaling as a constant it passes all on, as elementwise functions do.
        passes_on = operation.kind in {"activation", "scaling"}
        if passes_on or (self.rules.excitatory and _normalises(operation)):
            return passing(x, getattr(self, node.op)(node.target, args, kwargs))
        if _normalises(operation):
            return self._normalised(node, operation, args, kwargs)
        if self.rules.excitatory and _is_average(operation):
            y, above = (getattr(self, node.op)(node.target, (part, *args[1:]), kwargs) for part in (x, x.clamp_min(0)))
            return keeping(y, scaled(above, y))
        if self.rules.attention and operation.kind in {"other", "attention"}:
            return self._known(node, operation, args, kwargs)
        others = [arg for arg in args[1:2] if isinstance(arg, Tensor)]
        if not others:
            return None
        if operation.kind == "matrix_product" and x.requires_grad and others[0].requires_grad and not args[2:]:
            return self._halves(node, x, others[0])
        if operation.kind == "addition" and self.rules.excitatory and not kwargs:
            y = x + others[0]
            return keeping(y, scaled(x.clamp_min(0) + others[0].clamp_min(0), y))
        if operation.kind == "division" and others[0].requires_grad and not kwargs:
            return torch.div(x, others[0].detach())
        if operation.kind == "product" and x.requires_grad and others[0].requires_grad:
            return self._product(node, x, others[0])
        return None

    def _known(
        self, node: fx.Node, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """The value of an operation that only moves values; others between the image and the score have no rule."""
        value: Tensor | None = getattr(self, node.op)(node.target, args, kwargs)
        if isinstance(value, Tensor) and value.requires_grad and operation.name not in _MOVING:
            raise CnnvizError(f"{self.name} has no rule for {operation.label or node.target}.", "Use gradcam.")
        return value

    def _halves(self, node: fx.Node, a: Tensor, b: Tensor) -> Tensor:
        """A matrix product of two signals: each takes a half (Achtibat et al. 2024, equation 15)."""
        call = partial(getattr(self, node.op), node.target)
        self.propagation.used["halves"] += 1
        y: Tensor = call((a, b), {})
        return keeping(y, 0.5 * (call((a, b.detach()), {}) + call((a.detach(), b), {})))

    def _merge(self, node: fx.Node, layer: Weighted, x: Tensor) -> bool:
        """Merge the batch normalisation that alone reads a convolution into it, where folding left the two apart."""
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        norm = None if reader is None or reader.args[:1] != (node,) else batch_norm(self._head, reader)
        if reader is None or norm is None:
            return False
        weight, bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, norm.mean, norm.var, norm.eps, norm.weight, norm.bias
        )
        merged = replace(layer, weight=weight.detach(), bias=bias.detach())
        y = merged.apply(x, merged.weight, merged.bias)
        q, used = self.rules.weighted(merged, x, y, self.propagation)
        self.propagation.used[used] += 1
        self._merged[reader] = keeping(y, q)
        return True

    def _normalised(
        self, node: fx.Node, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Layer and group normalisation; None for batch normalisation, which is linear as it is."""
        given, x = operation.arguments, args[0]
        rest = (x, self._tensor(operation, "weight"), self._tensor(operation, "bias"), given["eps"])
        if operation.name == "group_norm":
            q = _group_norm(*rest, given["num_groups"])
        elif operation.name == "layer_norm":
            of_maps = operation.subclassed and x.dim() == 4 and "2d" in operation.label.lower()
            q = _layer_norm(*rest, (1,) if of_maps else tuple(range(-len(given["normalized_shape"]), 0)))
        elif operation.name == "batch_norm":
            return None
        else:
            raise CnnvizError(f"{self.name} has no rule for {operation.label}.", "Use integrated_gradients.")
        y: Tensor = getattr(self, node.op)(node.target, args, kwargs)
        if bool((q - y).abs().max() > _SAME_NORM * y.abs().max()):
            # A subclass may do more than its name says, such as an activation.
            raise CnnvizError(f"{self.name} has no rule for {operation.label}.", "Use integrated_gradients.")
        return keeping(y, q)

    def _tensor(self, operation: Operation, name: str) -> Tensor | None:
        """The value of an argument, which the network holds or has computed."""
        value = operation.arguments.get(name)
        found: Tensor | None = self.env[value] if isinstance(value, fx.Node) else operation.tensor(name)
        return found

    def _product(self, node: fx.Node, a: Tensor, b: Tensor) -> Tensor:
        """A gate takes nothing (Arras et al. 2017); factors that are both signals take a half each."""
        if self._is_gate(self._operations[node].arguments["input"]):
            return a.detach() * b
        if self._is_gate(self._operations[node].arguments["other"]):
            return a * b.detach()
        return keeping(a * b, 0.5 * (a * b.detach() + a.detach() * b))

    def _is_gate(self, node: Any) -> bool:
        while isinstance(node, fx.Node) and self._operations[node].kind in _SHAPING:
            node = node.args[0] if node.args else None
        return isinstance(node, fx.Node) and self._operations[node].name in _GATES

    def _weighted(self, node: fx.Node, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Weighted:
        module = operation.module
        places = (self._from_image.get(node.all_input_nodes[0]), node is self._last)
        if module is not None:
            found = in_use(module, args[0])
            if found is None:
                raise CnnvizError(
                    f"{self.name} has no rule for {operation.label} ({node.target}), which computes more than "
                    f"one {'convolution' if operation.is_convolution else 'linear layer'}.",
                    "Use integrated_gradients.",
                )
            return Weighted(partial(with_weights, module), *found, operation.is_convolution, *places)
        function: Callable[..., Tensor] = node.target  # type: ignore[assignment]
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        rest = args[3:]

        def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            named = {k: v for k, v in kwargs.items() if k not in {"weight", "bias"}}
            return function(x, weight, bias, *rest, **named)

        return Weighted(apply, given["weight"], given.get("bias"), operation.is_convolution, *places)


def keeping(y: Tensor, q: Tensor) -> Tensor:
    """The value of ``y`` with the gradient of ``q``."""
    return y.detach() + (q - q.detach())


def scaled(part: Tensor, y: Tensor) -> Tensor:
    """``part`` times the constant y / part, so that its share of the relevance is all of it; 0 where ``part`` is 0."""
    some = part.abs() > _TINY
    ratio = torch.where(some, y / torch.where(some, part, torch.ones_like(part)), torch.zeros_like(part))
    return part * ratio.detach()


def passing(x: Tensor, y: Tensor) -> Tensor:
    """An elementwise function: its input gets what its output had."""
    return keeping(y, scaled(x, y))


def _in_order(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with a second signal that is given by its name behind the first."""
    if len(args) == 1 and kwargs and kwargs.keys() <= {"other", "mat2"}:
        return (*args, *kwargs.values()), {}
    return args, kwargs


def _has_weights(operation: Operation) -> bool:
    """Whether it is a convolution or a linear layer."""
    return operation.is_convolution or operation.kind == "linear"


def _is_average(operation: Operation) -> bool:
    return operation.name == "mean" or operation.name.startswith(("avg_pool", "adaptive_avg_pool"))


def _normalises(operation: Operation) -> bool:
    """Whether it takes a mean away and divides by a deviation."""
    return operation.kind == "normalisation" and operation.name != "local_response_norm"


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dims: tuple[int, ...]) -> Tensor:
    """Layer normalisation with the deviation as a constant: then it is linear (Ali et al. 2022)."""
    # Over the channels of a map, or over the last dimensions.
    shape = (-1, 1, 1) if dims == (1,) and x.dim() == 4 else x.shape[dims[0] :]
    return _affine(_centred(x, dims, eps), weight, bias, shape)


def _group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int) -> Tensor:
    normal = _centred(x.reshape(len(x), groups, -1), (2,), eps).reshape(x.shape)
    return _affine(normal, weight, bias, (-1, *[1] * (x.dim() - 2)))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    y = x if weight is None else x * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _centred(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt().detach()
