"""Where a network adds constants, and the constants: what is left of the score when the image's own share is taken out.

A network of linear layers and ReLUs is affine around each image. With x the image, y_l the places where layer l adds
its bias b_l, and z the score,

    z = x . dz/dx + sum over l of b_l . dz/dy_l

exactly (Srinivas & Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019, proposition
1). Batch normalisation adds beta - gamma mean / sqrt(var + eps). Another activation f adds f(a) - a f'(a), by which it
differs at a from its own slope (section 3.2); a product of two signals a and b adds -a b.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.relevance import readable
from cnnviz.engine.session import Pass, Session, two_dim
from cnnviz.engine.split import Split, cut
from cnnviz.models.graph import ACTIVATION_NAMES, function_name

_PRODUCTS = frozenset({operator.mul, operator.imul, torch.mul, "mul"})
# f(a) = a f'(a) for every a. Told by their names: what a batch happens to hold must not decide what is counted.
_STRAIGHT_NAMES = frozenset("relu relu_ leaky_relu leaky_relu_ prelu".split())
_STRAIGHT_TYPES = (nn.ReLU, nn.LeakyReLU, nn.PReLU)


@dataclass(eq=False)
class Tapped:
    """One pass with a tap wherever a constant is added.

    Attributes:
        at: The image, a leaf [N, C, H, W].
        logits: [N, K], connected to the leaf and the taps.
        taps: For each place (in order) the value after the addition, and what was added, of its shape.
    """

    at: Tensor
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    taps: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def shares(self, scores: Tensor) -> list[Tensor]:
        """x dz/dx, then b dz/dy for each tap, in units of the score."""
        leaves = [self.at, *(y for y, _ in self.taps)]
        constants = [self.at.detach(), *(b for _, b in self.taps)]
        found = torch.autograd.grad(scores.sum(), leaves, retain_graph=True, materialize_grads=True)
        return [constant * gradient for constant, gradient in zip(constants, found, strict=True)]


def tapped(run: Pass, name: str) -> Tapped:
    """Run the network of a pass that starts at the image once more, with its taps.

    Args:
        run: A pass that starts at the image.
        name: What to call the method in messages.

    Raises:
        CnnvizError: The network cannot be traced, or computes self-attention.
    """
    session = run.session
    split = session.remember("unfolded split", lambda: _unfolded(session, name))
    assert isinstance(split.head, fx.GraphModule)
    with torch.no_grad():
        values: Sequence[Any] = split.trunk(run.pixels.to(split.trunk_dtype))
    at = values[0].detach().float().requires_grad_()
    others = [v.detach().float() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values[1:]]
    found = Tapped(at)
    found.logits = two_dim(_Tapper(split.head, found.taps).run(at, *others)[0])
    return found


def _unfolded(session: Session, name: str) -> Split:
    """The network as it was built, in float32: a folded normalisation would add its constant to the bias before it."""
    graph, split = readable(session, name)
    if split.preparation in {"plain", "shared"} and split.head_dtype == torch.float32:
        return split
    return cut(graph, session.nodes, rt.Runtime(session.device, "fp32"), "plain")


class _Tapper(fx.Interpreter):
    """Runs a head and notes its constants. The values are those of the network."""

    def __init__(self, head: fx.GraphModule, taps: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(head)
        self.taps = taps

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        y = getattr(self, n.op)(n.target, args, kwargs)
        if isinstance(y, Tensor) and y.requires_grad and args and isinstance(args[0], Tensor):
            module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
            constant = self._constant(n, module, args, kwargs, y)
            if constant is not None:
                self.taps.append((y, constant.detach().expand_as(y)))
        return y

    def _constant(
        self, node: fx.Node, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
    ) -> Tensor | None:
        """What a node adds to a linear function of its input, shaped to be added to ``y``."""
        name = function_name(node)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or name == "batch_norm":
            # In evaluation mode it is affine: what it makes of zero is what it adds.
            with torch.no_grad():
                blank = torch.zeros_like(args[0][:1])
                found: Tensor = getattr(self, node.op)(node.target, (blank, *args[1:]), kwargs)
            return found if bool(found.any()) else None
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            return _shaped(module.bias, y)
        if node.op == "call_function" and name in {"linear", "conv2d"}:
            bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
            return _shaped(bias, y)
        if _is_activation(name, module) and not _is_straight(name, module, (*args[1:], *kwargs.values())):
            return self._curved(node, args, kwargs, y)
        if node.target in _PRODUCTS and len(args) > 1 and isinstance(args[1], Tensor):
            return -y.detach() if args[0].requires_grad and args[1].requires_grad else None
        return None

    def _curved(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
        """f(a) - a f'(a) of an elementwise function."""
        a = args[0].detach().requires_grad_()
        slope: Tensor = torch.autograd.grad(getattr(self, node.op)(node.target, (a, *args[1:]), kwargs).sum(), a)[0]
        constant: Tensor = y.detach() - a.detach() * slope
        return constant


def _shaped(bias: Any, y: Tensor) -> Tensor | None:
    if not isinstance(bias, Tensor) or not bool(bias.any()):
        return None
    return bias.reshape(-1, *[1] * (y.dim() - 2)) if y.dim() > 2 else bias


def _is_activation(name: str, module: nn.Module | None) -> bool:
    if module is None:
        return name in ACTIVATION_NAMES
    inside = type(module).__module__ == "torch.nn.modules.activation"
    return inside and not isinstance(module, (nn.Softmax, nn.MultiheadAttention, nn.GLU))


def _is_straight(name: str, module: nn.Module | None, limits: tuple[Any, ...]) -> bool:
    if module is not None:
        return isinstance(module, _STRAIGHT_TYPES)
    return name in _STRAIGHT_NAMES or (name in {"clamp", "clamp_"} and all(v is None or v == 0 for v in limits))
