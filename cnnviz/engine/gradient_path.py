"""Whether the gradient of the scores arrives at the layers that are explained, and what stops it.

Disconnected is not zero: where an operation without a derivative (``detach``, ``argmax``, quantised kernels) stands
between a layer and the scores, autograd gives nothing, and a map of zeros would say that no position matters.
``round`` and its like have a derivative, which is zero everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.engine.boxes import candidates
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.operations import function_name, operation_of_gradient

# Piecewise constant: their derivative is zero wherever it exists.
_STEPS = frozenset("round floor ceil trunc sign heaviside sgn".split())


@dataclass(frozen=True)
class GradientPath:
    """What became of the gradient on its way to a layer.

    Attributes:
        connected: Whether autograd reaches the layer at all.
        zero: Whether every value of the gradient is zero.
        where: The layer, in words.
        blocking: What lets nothing through, in words, where it is known.
        steps: Name of a piecewise constant operation on the way, of which the gradient is zero everywhere.
    """

    connected: bool
    zero: bool
    where: str
    blocking: str | None = None
    steps: str | None = None


def gradient_at_layers(session: Session, run: ForwardPass) -> GradientPath:
    """The gradient of the highest logit at the session's first explained tensor.

    Args:
        session: The network.
        run: A pass over one image.
    """
    # The image comes first where it is explained; what else fullgrad looks at follows it.
    at_image = not session.layers or len(run.activations) > len(session.layers)
    where = "the image" if at_image else f"layer {session.layers[0].name}"
    leaves = run.activations[: len(session.layers) + at_image]
    if not leaves:
        return GradientPath(True, False, where)
    score = _score(session, run)
    found: Sequence[Tensor | None] = [None]
    if score.requires_grad:
        found = torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)
    missing = all if session.has_levels else any  # a level may feed proposals alone, which have no gradient
    if missing(gradient is None for gradient in found):
        return GradientPath(False, True, where, _blocking(session, run.pixels))
    zero = not any(bool(gradient.any()) for gradient in found if gradient is not None)
    return GradientPath(True, zero, where, None, _step(score) if zero else None)


def _score(session: Session, run: ForwardPass) -> Tensor:
    """The highest logit; of a detector the score of its likeliest candidate; of a layer's units the sum of all.

    The strongest unit may be where its activation is clipped, and has no gradient there.
    """
    if session.readout.layer is not None:
        every_unit: Tensor = run.chosen.sum()
        return every_unit
    if session.boxes is None:
        highest: Tensor = run.chosen.max()
        return highest
    every = candidates(run.chosen, session.boxes)
    return every.logit(every.labels).max()


def _step(score: Tensor) -> str | None:
    """A piecewise constant operation that the score was computed by."""
    stack, seen = [score.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (name := operation_of_gradient(node).name) in _STEPS:
            return name
        stack.extend(source for source, _ in node.next_functions)
    return None


class _Watch(fx.Interpreter):
    """Runs the network with gradients and notes the first tensor that has lost its connection to the layer."""

    def __init__(self, module: fx.GraphModule, start: fx.Node) -> None:
        super().__init__(module)
        self.start = start
        self.lost: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n is self.start and isinstance(value, Tensor):
            return value.detach().clone().requires_grad_()
        before = [self.env.get(source) for source in n.all_input_nodes]
        carried = any(isinstance(v, Tensor) and v.requires_grad for v in before)
        if carried and isinstance(value, Tensor) and not value.requires_grad:
            self.lost.append(n)
        return value


def _blocking(session: Session, pixels: Tensor) -> str | None:
    graph = session.graph
    if graph is None or not session.nodes:
        return None
    watch = _Watch(graph.module, session.nodes[0])
    try:
        with torch.enable_grad():
            where = next((p.device for p in graph.module.parameters()), pixels.device)
            watch.run(pixels.detach().to(where))
    except Exception:
        return None
    chain = set(graph.chain())
    lost = next((node for node in watch.lost if node in chain), None)
    return None if lost is None else _described(session, lost)


def _described(session: Session, node: fx.Node) -> str:
    """The module in which a node runs; for one of the network's own forward, what it does and where."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    if path or session.graph is None:
        return f"layer {path}"
    return f"{function_name(node) or node.name} after layer {name_of(session.graph, node)[0]}"
