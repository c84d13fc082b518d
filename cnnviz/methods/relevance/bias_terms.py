"""Where a network adds constants, and the constants: what is left of the score when the image's own share is taken out.

A network of linear layers and ReLUs is affine around each image. With x the image, y_l the places where layer l adds
its bias b_l, and z the score,

    z = x . dz/dx + sum over l of b_l . dz/dy_l

exactly (Srinivas & Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019, proposition
1). Batch normalisation adds beta - gamma mean / sqrt(var + eps). Any other function f of one tensor adds f(a) - J a,
by which it differs at a from its own derivative J there (section 3.2). Where f is homogeneous of degree d in all the
signals that it joins, J a = d f: a product of two signals a and b adds -a b, a quotient a / b.

The session is cut at these places, so the values are those of the one forward pass. A normalisation that is folded
into a convolution without a bias leaves that convolution a bias, which is the normalisation's constant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.engine.prepare.fold import attribute, batch_norm
from cnnviz.models.graph.operations import function_name
from cnnviz.models.graph.trace import ACTIVATION_NAMES, Graph, ancestors

_PRODUCTS = frozenset({operator.mul, operator.imul, operator.matmul, torch.mul, torch.matmul, torch.bmm, torch.einsum})
_PRODUCT_METHODS = frozenset({"mul", "matmul", "bmm"})
_QUOTIENTS = frozenset({operator.truediv, torch.div, torch.true_divide, "div", "true_divide"})
_SUMS = frozenset({operator.add, torch.add, "add"})
_DIFFERENCES = frozenset({operator.sub, torch.sub, "sub"})
# f(a) = J a for every a. Told by their names: what a batch happens to hold must not decide what is counted.
_STRAIGHT_NAMES = frozenset("relu relu_ leaky_relu leaky_relu_ prelu".split())
_STRAIGHT_TYPES = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
_WEIGHTED_NAMES = frozenset("linear conv1d conv2d conv3d conv_transpose2d".split())
_CLAMP_NAMES = frozenset("relu6 hardtanh hardtanh_ clamp clamp_".split())
_CURVED_NAMES = frozenset(
    "layer_norm group_norm instance_norm rms_norm local_response_norm normalize glu "
    "pow square sqrt rsqrt reciprocal exp expm1 log log1p sin cos erf log_softmax logsumexp var".split()
)
_CURVED_TYPES = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.GLU)

# How the values of a pass are looked up.
Look = Callable[[fx.Node], Tensor]


@dataclass(frozen=True, eq=False)
class Fixed:
    """What a layer adds whatever it is given: [C], to values [N, C, ...] if ``channels``, otherwise to [..., C]."""

    bias: Tensor
    channels: bool

    def shaped(self, dims: int) -> Tensor:
        """To be added to a value of so many dimensions."""
        return self.bias.reshape(-1, *[1] * (dims - 2)) if self.channels else self.bias


Constant = Fixed | Callable[[Look], Tensor]


def places_of(graph: Graph) -> list[fx.Node]:
    """Nodes of a trace at which a session is cut: every place, and what a place's constant is computed from."""
    depends_on_input = _signals(graph.input, lambda node: node in graph.shapes or node in graph.bundles)
    counting = {node for node in depends_on_input & ancestors([graph.logits]) if node in graph.shapes}
    found: list[fx.Node] = []
    for node in graph.module.graph.nodes:
        if node in counting and constant_of(graph.module, node, depends_on_input) is not None:
            found += [node.args[0]] if _is_curved(graph.module, node) else []
            found.append(node)
    return list(dict.fromkeys(found))


class BiasTerms:
    """The constants of a session that was cut at :func:`places_of`.

    Args:
        head: The graph that a pass runs; normalisations may have been folded since.
        order: For each activation of a pass its place among the head's inputs and inner results.
    """

    def __init__(self, head: fx.GraphModule, order: Sequence[int]) -> None:
        inputs = [node for node in head.graph.nodes if node.op == "placeholder"]
        results = next(node for node in head.graph.nodes if node.op == "output").args[0]
        every = [*inputs, *results[1:]]
        nodes = [every[i] for i in order]
        depends_on_input, channels_last = _signals(inputs[0], _holds_tensors), _channels_last(head)
        self._where = {node: at for at, node in enumerate(nodes)}
        found = {
            at: (constant_of(head, node, depends_on_input), node in channels_last) for node, at in self._where.items()
        }
        self._constants = {at: (c, last) for at, (c, last) in found.items() if c is not None and not _is_zero(c)}

    def constant(self, at: int, activations: Sequence[Tensor]) -> tuple[Tensor, bool] | None:
        """What is added at a pass's activation ``at``, and whether that is [N, h, w, C]; None when nothing is.

        The first activation is the image, of which everything is the image's own.
        """
        if at == 0:
            return activations[0].detach(), False
        if at not in self._constants:
            return None
        constant, last = self._constants[at]
        if isinstance(constant, Fixed):
            return constant.shaped(activations[at].dim()), last
        return constant(lambda node: activations[self._where[node]]), last


def _signals(image: fx.Node, holds_tensors: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """The nodes whose values depend on the image's: what only its size decides (``x.shape[2] - 1``) is a constant."""
    found, stack = {image}, [image]
    while stack:
        fresh = [user for user in stack.pop().users if user not in found and holds_tensors(user)]
        found.update(fresh)
        stack.extend(fresh)
    return found


def _holds_tensors(node: fx.Node) -> bool:
    return node.meta.get("shape") is not None or bool(node.meta.get("bundle"))


def _is_zero(constant: Constant) -> bool:
    return isinstance(constant, Fixed) and not bool(constant.bias.any())


def constant_of(module: fx.GraphModule, node: fx.Node, depends_on_input: set[fx.Node]) -> Constant | None:
    """How to compute what a node adds to a linear function of its input; None when it adds nothing.

    Args:
        module: The graph that the node is of.
        node: The node.
        depends_on_input: The nodes that depend on the image.
    """
    if _is_curved(module, node):
        return partial(_curved, module, node)
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    name = function_name(node)
    norm = batch_norm(module, node)
    if norm is not None:
        with torch.no_grad():
            scale = (1.0 if norm.weight is None else norm.weight) / torch.sqrt(norm.var + norm.eps)
            return _fixed((0.0 if norm.bias is None else norm.bias) - scale * norm.mean, channels=True)
    if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        return _fixed(layer.bias, channels=not isinstance(layer, nn.Linear))
    if node.op == "call_function" and name in _WEIGHTED_NAMES:
        bias = node.kwargs.get("bias", node.args[2] if len(node.args) > 2 else None)
        return _fixed(_fixed_value(module, bias, depends_on_input), channels=name != "linear")
    if node.op == "call_module":
        return None
    degree = _degree(node, depends_on_input)
    if degree is not None:
        return None if degree == 1 else lambda value: (1 - degree) * value(node).detach()
    return _fixed(_added(module, node, depends_on_input), channels=False)


def _degree(node: fx.Node, depends_on_input: set[fx.Node]) -> int | None:
    """Degree of a product or quotient in the signals that it joins; None for everything else."""

    def signals(values: Sequence[Any]) -> int:
        return sum(isinstance(value, fx.Node) and value in depends_on_input for value in values)

    if node.target in (_PRODUCT_METHODS if node.op == "call_method" else _PRODUCTS):
        factors: Any = node.args[1] if isinstance(node.args[-1], (list, tuple)) else node.args
        return signals(factors)
    if node.target in _QUOTIENTS and len(node.args) > 1:
        return signals(node.args[:1]) - signals(node.args[1:2])
    return None


def _added(module: fx.GraphModule, node: fx.Node, depends_on_input: set[fx.Node]) -> Tensor | None:
    """What is added to a signal, or what a signal is taken from, where that is the same for every image."""
    if function_name(node) == "addcmul":
        return _fixed_value(module, node.args[0], depends_on_input)
    if node.target not in _SUMS | _DIFFERENCES or len(node.args) < 2:
        return None
    left = _fixed_value(module, node.args[0], depends_on_input)
    right = _fixed_value(module, node.args[1], depends_on_input)
    if left is not None or right is None:
        return left
    alpha = node.kwargs.get("alpha", 1)
    sign = -1 if node.target in _DIFFERENCES else 1
    return right * alpha * sign if isinstance(alpha, (int, float)) else None


def _fixed_value(module: fx.GraphModule, what: Any, depends_on_input: set[fx.Node]) -> Tensor | None:
    """A number, a parameter or what is computed from parameters alone; None for signals and all else."""

    def value(node: fx.Node) -> Any:
        if node in depends_on_input or node.op == "placeholder":
            raise LookupError
        if node.op == "get_attr":
            return attribute(module, str(node.target))
        args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
        if node.op == "call_module":
            return module.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    try:
        with torch.no_grad():
            found = value(what) if isinstance(what, fx.Node) else what
    except LookupError:
        return None
    if isinstance(found, (int, float)):
        return torch.tensor(float(found))
    return found if isinstance(found, Tensor) else None


def _fixed(bias: Any, channels: bool) -> Fixed | None:
    return Fixed(bias.detach(), channels) if isinstance(bias, Tensor) else None


def _is_curved(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a function of one tensor that can differ from its own derivative."""
    if not node.args or not isinstance(node.args[0], fx.Node) or len(node.all_input_nodes) != 1 + _weights(node):
        return False
    if _is_activation(module, node):
        return not _is_straight(module, node)
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _CURVED_TYPES)
    return function_name(node) in _CURVED_NAMES


def _is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is an elementwise function or a softmax, whose derivative is a symmetric matrix."""
    if node.op != "call_module":
        return function_name(node) in ACTIVATION_NAMES or function_name(node) == "softmax"
    layer = module.get_submodule(str(node.target))
    inside = type(layer).__module__ == "torch.nn.modules.activation"
    return inside and not isinstance(layer, (nn.MultiheadAttention, nn.GLU))


def _is_straight(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _STRAIGHT_TYPES)
    limits = (*node.args[1:], *node.kwargs.values())
    name = function_name(node)
    clamped = name in {"clamp", "clamp_"} and all(value is None or value == 0 for value in limits)
    return name in _STRAIGHT_NAMES or clamped


def _is_clamp(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.Hardtanh)
    return function_name(node) in _CLAMP_NAMES


def _weights(node: fx.Node) -> int:
    return sum(source.op == "get_attr" for source in node.all_input_nodes)


def _curved(module: fx.GraphModule, node: fx.Node, value: Look) -> Tensor:
    """f(a) - J a."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if _is_clamp(module, node):
        # Where it passes its input on it adds nothing, elsewhere all that it returns.
        passed_on, clamped = value(source).detach(), value(node).detach()
        return torch.where(passed_on == clamped, 0.0, clamped)
    a = value(source).detach().requires_grad_()

    def fixed(argument: fx.Node) -> Any:
        return attribute(module, str(argument.target))

    args = fx.map_arg(node.args[1:], fixed)
    kwargs = fx.map_arg(node.kwargs, fixed)

    def function(x: Tensor) -> Any:
        if node.op == "call_module":
            return module.get_submodule(str(node.target))(x, *args, **kwargs)
        if node.op == "call_method":
            return getattr(x, str(node.target))(*args, **kwargs)
        assert callable(node.target)
        return node.target(x, *args, **kwargs)

    with torch.enable_grad():
        y: Tensor = function(a)
        return y.detach() - _along(y, a, symmetric=_is_activation(module, node))


def _along(y: Tensor, a: Tensor, symmetric: bool) -> Tensor:
    """J a of y = f(a). PyTorch's forward differentiation is one for all threads; the backward passes give it too."""
    if symmetric:
        return torch.autograd.grad(y, a, a.detach())[0]
    # J^T u is linear in u: the derivative of its product with a, by u, is J a.
    u = torch.zeros_like(y, requires_grad=True)
    [back] = torch.autograd.grad(y, a, u, create_graph=True)
    return torch.autograd.grad(back, u, a.detach())[0]


def _channels_last(head: fx.GraphModule) -> set[fx.Node]:
    """The nodes whose values are [N, h, w, C] because the network turned them."""
    found: set[fx.Node] = set()
    for node in head.graph.nodes:
        channels_last = any(source in found for source in node.all_input_nodes)
        if function_name(node) == "permute":
            dims = node.args[1] if isinstance(node.args[1], (list, tuple)) else node.args[1:]
            order = [int(d) % len(dims) for d in dims if isinstance(d, int)]
            channels_last = order == [0, 2, 3, 1] or (channels_last and order != [0, 3, 1, 2])
        if channels_last:
            found.add(node)
    return found


__all__ = ["BiasTerms", "places_of"]
