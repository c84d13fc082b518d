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

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.prepare.fold import batch_norm
from cnnviz.errors import CnnvizError, first_line
from cnnviz.models.graph.operations import Operation, attribute, operation_of
from cnnviz.models.graph.trace import Graph, ancestors

# f(a) = J a for every a, beside clipping at zero. Told by their names: what a batch happens to hold must not decide
# what is counted.
_PIECEWISE_LINEAR = frozenset({"leaky_relu", "prelu"})
_CLIPPING = frozenset({"relu6", "hardtanh", "clamp"})
# Functions of one tensor that are no activations, and differ from their own derivative.
_CURVED_KINDS = frozenset({"normalisation", "scaling", "gated"})
_CURVED_NAMES = frozenset(
    "pow square sqrt rsqrt reciprocal exp expm1 log log1p sin cos erf log_softmax logsumexp var".split()
)
_PRODUCTS = frozenset("mul matmul mm bmm einsum".split())

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
        if node in depends_on_input:
            _check_accountable(graph, node)
        if node in counting and constant_of(graph.module, node, depends_on_input) is not None:
            found += [node.args[0]] if _is_curved(graph.operation(node), node) else []
            found.append(node)
    return list(dict.fromkeys(found))


def _check_accountable(graph: Graph, node: fx.Node) -> None:
    """Raises a CnnvizError for a module in one piece that is no function of one tensor with a derivative of its own."""
    operation = graph.operation(node)
    recurrent = operation.kind == "recurrent"
    if not operation.is_whole or (node in graph.shapes and len(node.all_input_nodes) == 1 and not recurrent):
        return
    raise CnnvizError(
        f"FullGrad does not know what {type(operation.module).__name__} ({node.target}) adds: it is kept in one piece.",
        "Use integrated_gradients, or gradcam.",
    )


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
    operation = operation_of(module, node)
    if _is_curved(operation, node):
        return partial(_curved, module, operation, node)
    norm = batch_norm(module, node)
    if norm is not None:
        with torch.no_grad():
            scale = (1.0 if norm.weight is None else norm.weight) / torch.sqrt(norm.var + norm.eps)
            return _fixed((0.0 if norm.bias is None else norm.bias) - scale * norm.mean, channels=True)
    if operation.is_convolution or operation.kind == "linear":
        bias = operation.arguments.get("bias", operation.tensor("bias"))
        return _fixed(_fixed_value(module, bias, depends_on_input), channels=operation.is_convolution)
    degree = _degree(operation, depends_on_input)
    if degree is not None:
        return None if degree == 1 else lambda value: (1 - degree) * value(node).detach()
    return _fixed(_added(module, operation, depends_on_input), channels=False)


def _degree(operation: Operation, depends_on_input: set[fx.Node]) -> int | None:
    """Degree of a product or quotient in the signals that it joins; None for everything else."""

    def signals(values: Iterable[Any]) -> int:
        return sum(isinstance(value, fx.Node) and value in depends_on_input for value in values)

    given = operation.arguments
    if operation.name in _PRODUCTS:
        return signals(given["operands"] if operation.name == "einsum" else given.values())
    if operation.kind == "division":
        return signals([given.get("input")]) - signals([given.get("other")])
    return None


def _added(module: fx.GraphModule, operation: Operation, depends_on_input: set[fx.Node]) -> Tensor | None:
    """What is added to a signal, or what a signal is taken from, where that is the same for every image."""
    given = operation.arguments
    if operation.name == "addcmul":
        return _fixed_value(module, given["input"], depends_on_input)
    if operation.kind not in {"addition", "subtraction"}:
        return None
    left, right = (_fixed_value(module, given.get(name), depends_on_input) for name in ("input", "other"))
    if left is not None or right is None:
        return left
    sign = -1 if operation.kind == "subtraction" else 1
    return right * given["alpha"] * sign if isinstance(given["alpha"], (int, float)) else None


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


def _is_curved(operation: Operation, node: fx.Node) -> bool:
    """Whether a node is a function of one tensor that can differ from its own derivative."""
    if not node.args or not isinstance(node.args[0], fx.Node) or len(node.all_input_nodes) != 1 + _weights(node):
        return False
    if operation.kind == "activation":
        return not _is_piecewise_linear(operation)
    curved = operation.kind in _CURVED_KINDS and operation.name != "batch_norm"
    return curved or operation.is_whole or _is_symmetric(operation) or operation.name in _CURVED_NAMES


def _is_symmetric(operation: Operation) -> bool:
    """Whether a node is an elementwise function or a softmax, whose derivative is a symmetric matrix."""
    return operation.kind == "activation" or operation.name in {"softmax", "softmin"}


def _is_piecewise_linear(operation: Operation) -> bool:
    limits = operation.bounds
    clipped = limits is not None and all(limit == 0 or math.isinf(limit) for limit in limits)
    return clipped or operation.name in _PIECEWISE_LINEAR


def _weights(node: fx.Node) -> int:
    return sum(source.op == "get_attr" for source in node.all_input_nodes)


def _curved(module: fx.GraphModule, operation: Operation, node: fx.Node, value: Look) -> Tensor:
    """f(a) - J a."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if operation.name in _CLIPPING:
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
        try:
            return y.detach() - _along(y, a, symmetric=_is_symmetric(operation))
        except RuntimeError as error:
            if rt.is_out_of_memory(error):
                raise
            raise CnnvizError(
                f"FullGrad cannot differentiate {node.target} twice: {first_line(error)}", "Use integrated_gradients."
            ) from error


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
        operation = operation_of(head, node)
        if operation.kind == "permutation":
            order = operation.arguments.get("dims")
            channels_last = order == (0, 2, 3, 1) or (channels_last and order != (0, 3, 1, 2))
        if channels_last:
            found.add(node)
    return found


__all__ = ["BiasTerms", "places_of"]
