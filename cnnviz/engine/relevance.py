"""Relevance by one modified forward pass over the traced head, and one ordinary backward pass.

A relevance method splits what arrives at a neuron's output among its inputs, R_j = sum_k s_jk R_k. With
c = R / value at each tensor that is a gradient: when a layer y = f(a) is replaced by a function q(a) with q = y and
a_j dq_k/da_j = s_jk y_k, then automatic differentiation carries c, and R = a * c. So only layers whose split is not
already that of their gradient need a rule (Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019,
section 10.3); sums, concatenations, reshaping and average pooling split in proportion, maximum pooling gives all to
the winner.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import Pass, Session, two_dim
from cnnviz.engine.split import Split, cut
from cnnviz.errors import CnnvizError
from cnnviz.models.graph import ACTIVATION_NAMES, Graph, function_name

_ADDITIONS = frozenset({operator.add, operator.iadd, torch.add, "add"})
_PRODUCTS = frozenset({operator.mul, operator.imul, torch.mul, "mul"})
_GATES = frozenset("sigmoid sigmoid_ hardsigmoid hard_sigmoid softmax tanh".split())
_GATE_TYPES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Tanh)
_SHAPERS = frozenset("view reshape expand expand_as unsqueeze flatten permute transpose contiguous".split())
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Weighted:
    """A convolution or a linear layer: ``apply(x, weight, bias)`` computes it with other weights."""

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    convolution: bool
    reads_image: bool
    last: bool


@dataclass(frozen=True, eq=False)
class Rules:
    """How layers are replaced.

    Attributes:
        weighted: (layer, input, output, propagation) -> q, and the rule's name.
        excitatory: Whether only positive parts take part in sums and averages, and affine layers pass all on.
    """

    weighted: Callable[[Weighted, Tensor, Tensor, Propagation], tuple[Tensor, str]]
    excitatory: bool = False


@dataclass(eq=False)
class Propagation:
    """One modified pass.

    Attributes:
        logits: [N, K], the network's own, connected to the leaves.
        at: The tensor that relevance is asked of; a leaf.
        extra: Further leaves (ones in the place of the image) whose relevance is added to that of ``at``.
        used: How often each rule was used.
    """

    at: Tensor
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    extra: list[Tensor] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)

    def relevance(self, scores: Tensor) -> Tensor:
        """R at ``at`` for scores [N]: value times c, in the score's units."""
        leaves = [self.at, *self.extra]
        found = torch.autograd.grad(scores.sum(), leaves, retain_graph=True, materialize_grads=True)
        return torch.stack([leaf.detach() * c for leaf, c in zip(leaves, found, strict=True)]).sum(0)


def propagate(run: Pass, rules: Rules, name: str) -> Propagation:
    """Run the head of a pass with modified layers.

    Args:
        run: A pass that starts at the image, or at one layer.
        rules: How layers are replaced.
        name: What to call the method in messages.

    Raises:
        CnnvizError: The network cannot be traced, computes self-attention, or has weights in a form without a rule.
    """
    session = run.session
    split = session.remember("relevance split", lambda: _canonical(session, name))
    head = split.head
    assert isinstance(head, fx.GraphModule)
    inputs = sum(node.op == "placeholder" for node in head.graph.nodes)
    values: Sequence[Any] = (run.activations[0],)
    if inputs > 1:  # what bypasses the layer is no part of the pass
        with torch.no_grad():
            values = split.trunk(run.pixels.to(split.trunk_dtype))
    at = values[0].detach().float().requires_grad_()
    others = [v.detach().float() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values[1:]]
    propagation = Propagation(at)
    logits = _Interpreter(head, rules, propagation, name).run(at, *others)[0]
    propagation.logits = two_dim(logits)
    return propagation


def _canonical(session: Session, name: str) -> Split:
    """The network cut where the session is, in float32, with batch normalisations folded into convolutions."""
    graph, split = readable(session, name)
    if split.preparation in {"packed", "folded"} and split.head_dtype == torch.float32:
        return split
    return cut(graph, session.nodes, rt.Runtime(session.device, "fp32"), "folded")


def readable(session: Session, name: str) -> tuple[Graph, Split]:
    """The trace of a network whose every operation can be read.

    Raises:
        CnnvizError: It cannot be traced, or computes self-attention.
    """
    graph, split = session.graph, session.split
    if graph is None or split is None:
        raise CnnvizError(
            f"{name} follows the data through the layers; {session.name} cannot be traced.",
            "Use integrated_gradients.",
        )
    if graph.attention:
        raise CnnvizError(f"{name} has no rule for self-attention, which {session.name} computes.", "Use gradcam.")
    return graph, split


class _Interpreter(fx.Interpreter):
    """Runs a head with layers replaced. The values stay those of the network."""

    def __init__(self, head: fx.GraphModule, rules: Rules, propagation: Propagation, name: str) -> None:
        super().__init__(head)
        self.rules, self.propagation, self.name = rules, propagation, name
        nodes = list(head.graph.nodes)
        self._first = nodes[0]
        self._last = next((node for node in reversed(nodes) if self._weights(node) is not None), None)

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op in {"call_module", "call_function", "call_method"} and args and isinstance(args[0], Tensor):
            replaced = self._replaced(n, args, kwargs)
            if replaced is not None:
                return replaced
        return getattr(self, n.op)(n.target, args, kwargs)

    def _replaced(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The value of a node with a rule; None for nodes that split as their gradient does."""
        x = args[0]
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        layer = self._weighted(node, module, args, kwargs)
        if layer is not None:
            y = getattr(self, node.op)(node.target, args, kwargs)
            q, used = self.rules.weighted(layer, x, y, self.propagation)
            self.propagation.used[used] += 1
            return keeping(y, q)
        if _is_activation(node, module) or (self.rules.excitatory and isinstance(module, nn.BatchNorm2d)):
            return passing(x, getattr(self, node.op)(node.target, args, kwargs))
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return _normalised(module, x)
        if isinstance(module, nn.modules.instancenorm._InstanceNorm):
            raise CnnvizError(f"{self.name} has no rule for {type(module).__name__}.", "Use integrated_gradients.")
        if self.rules.excitatory and _is_average(node, module):
            y, above = (
                getattr(self, node.op)(node.target, (part, *args[1:]), kwargs) for part in (x, x.clamp_min(0))
            )
            return keeping(y, scaled(above, y))
        others = [arg for arg in args[1:2] if isinstance(arg, Tensor)]
        if not others:
            return None
        if node.target in _ADDITIONS and self.rules.excitatory and not kwargs:
            y = x + others[0]
            return keeping(y, scaled(x.clamp_min(0) + others[0].clamp_min(0), y))
        if node.target in _PRODUCTS and x.requires_grad and others[0].requires_grad:
            return self._product(node, x, others[0])
        return None

    def _product(self, node: fx.Node, a: Tensor, b: Tensor) -> Tensor:
        """A gate takes nothing (Arras et al. 2017); factors that are both signals take a half each."""
        if self._is_gate(node.args[0]):
            return a.detach() * b
        if self._is_gate(node.args[1]):
            return a * b.detach()
        return keeping(a * b, 0.5 * (a * b.detach() + a.detach() * b))

    def _is_gate(self, node: Any) -> bool:
        while isinstance(node, fx.Node) and node.op == "call_method" and node.target in _SHAPERS:
            node = node.args[0]
        if not isinstance(node, fx.Node):
            return False
        if node.op == "call_module":
            return isinstance(self.fetch_attr(str(node.target)), _GATE_TYPES)
        return function_name(node) in _GATES

    def _weights(self, node: fx.Node) -> nn.Module | str | None:
        """What makes a node a weighted layer: its module, or the name of its function."""
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            return module if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) else None
        name = function_name(node)
        return name if node.op == "call_function" and name in {"linear", "conv2d"} else None

    def _weighted(
        self, node: fx.Node, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Weighted | None:
        what = self._weights(node)
        if what is None:
            return None
        places = (node.all_input_nodes[0] is self._first, node is self._last)
        if module is not None:
            if not _plain(module):
                raise CnnvizError(
                    f"{self.name} has no rule for {type(module).__name__}, which makes its weights anew at each call.",
                    "Use integrated_gradients.",
                )
            weight, bias = module.weight, module.bias
            assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))  # noqa: PT018
            convolved = not isinstance(module, nn.Linear)
            return Weighted(_with_weights(module), weight.detach(), bias, convolved, *places)
        function: Callable[..., Tensor] = node.target  # type: ignore[assignment]
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        rest = args[3:]

        def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            named = {k: v for k, v in kwargs.items() if k not in {"weight", "bias"}}
            return function(x, weight, bias, *rest, **named)

        return Weighted(apply, given["weight"], given.get("bias"), what == "conv2d", *places)


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


def _is_activation(node: fx.Node, module: nn.Module | None) -> bool:
    if module is None:
        return function_name(node) in ACTIVATION_NAMES
    inside = type(module).__module__ == "torch.nn.modules.activation"
    return inside and not isinstance(module, (nn.Softmax, nn.MultiheadAttention, nn.GLU))


def _is_average(node: fx.Node, module: nn.Module | None) -> bool:
    if module is None:
        return function_name(node) in {"mean", "avg_pool2d", "adaptive_avg_pool2d"}
    return isinstance(module, (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd))


def _plain(module: nn.Module) -> bool:
    """Whether the layer computes with its own weight (no weight standardisation, no parametrisation)."""
    kind = type(module)
    if isinstance(module, nn.Linear):
        plain = kind.forward is nn.Linear.forward
    else:
        plain = kind.forward in {nn.Conv2d.forward, nn.ConvTranspose2d.forward} or kind.__name__ == "Conv2dSame"
    # Where hooks compute the weight (weight_norm), it is no parameter.
    return plain and not hasattr(module, "parametrizations") and "weight" in module._parameters


def _with_weights(module: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    # A copy of the shell: other threads may run the layer itself at this moment, with its own weights.
    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        twin = module.__new__(type(module))
        given = torch.zeros_like(module.bias) if bias is None and isinstance(module.bias, Tensor) else bias
        twin.__dict__ = {**module.__dict__, "_parameters": {"weight": weight, "bias": given}}
        result: Tensor = twin(x)
        return result

    return apply


def _normalised(module: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
    """Layer and group normalisation with the deviation as a constant: then they are linear (Ali et al. 2022)."""
    if isinstance(module, nn.GroupNorm):
        flat = x.reshape(len(x), module.num_groups, -1)
        normal = _centred(flat, (2,), module.eps).reshape(x.shape)
        channels_first = True
    else:
        channels_first = x.dim() == 4 and "2d" in type(module).__name__.lower()
        dims = (1,) if channels_first else tuple(range(-len(module.normalized_shape), 0))
        normal = _centred(x, dims, module.eps)
    if module.weight is None:
        return normal
    shape = (-1, *[1] * (x.dim() - 2)) if channels_first else module.weight.shape
    scaled_ = normal * module.weight.reshape(shape)
    return scaled_ if module.bias is None else scaled_ + module.bias.reshape(shape)


def _centred(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt().detach()
