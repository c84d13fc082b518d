"""Guided and deconvnet rules: what a rectifier lets through on the way back, as a scoped mode.

With x the input of a rectifier, g the gradient that arrives at its output, and c its upper limit if it has one:

    backprop    g * [0 < x < c]
    deconvnet   max(g, 0)                       whatever x was
    guided      max(g, 0) * [0 < x < c]

(Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop 2015, figure 1.) The rule is
applied inside the autograd node that the rectifier left behind, wherever it came from: a module, a function, a method,
in place or clamped. A hook on the rectifier's input or output tensor would also catch what flows through the tensor's
other readers: for y = relu(x) + x at x = (1, -1) deconvnet sends back (2, 2), such a hook (1, 1).

Other activations have no rule in the papers. Here the arriving gradient is rectified at them too (``guided``: and then
multiplied by the activation's own derivative), and the result is called extended.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils.hooks import RemovableHandle

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.operations import Operation, operation_of_gradient

RULES = ("backprop", "deconvnet", "guided")
# Activations that rectify in part: unlike gates, they grow without bound on one side.
_EXTENDED = frozenset("silu gelu hardswish leaky_relu elu celu selu mish softplus prelu rrelu".split())

# Chosen by a mask, and what the mask asks is not kept: one of them may be a rectifier, written out. (In a network that
# can be traced they were recognised as that before: cnnviz.models.graph.rectifiers.)
_MASKED = ("WhereBackward", "MaskedFillBackward", "IndexPutBackward")


@dataclass(frozen=True, eq=False)
class RuleReport:
    """What stands between a score and the tensors that it is differentiated by.

    Attributes:
        rectifiers: ReLUs by their names, in every spelling: the papers' rules hold.
        others: Further activations by their names: the rules are extended to them.
        hidden: Autograd nodes that cannot be looked into (custom functions, views changed in place, choices by a mask)
            by their names; left alone.
    """

    rectifiers: Counter[str]
    others: Counter[str]
    hidden: Counter[str]

    def rectified(self) -> dict[str, int]:
        """How many of each were rectified; ``relu`` is always there."""
        return {"relu": 0, **self.rectifiers, **self.others}


@contextlib.contextmanager
def applied(scores: Tensor, rule: str, *, strict: bool = False) -> Iterator[RuleReport]:
    """Hold a rule on the graph of ``scores`` while the body differentiates it; gone afterwards.

    Args:
        scores: Any tensor with a graph.
        rule: One of :data:`RULES`.
        strict: Refuse where the papers' rules do not suffice.

    Raises:
        CnnvizError: ``strict``, and there are activations other than ReLUs, or nodes that cannot be looked into.
    """
    found = RuleReport(Counter(), Counter(), Counter())
    handles: list[RemovableHandle] = []
    joined: list[Any] = []
    try:
        for node in _nodes(scores):
            inside = getattr(node, "rectifiers", None)
            if inside is not None:  # a stretch of a prepared head, which applies the rule by itself
                found.rectifiers.update(inside)
                node.rule = rule
                joined.append(node)
                continue
            operation = operation_of_gradient(node)
            if (kind := _rectifier(node, operation)) is not None:
                found.rectifiers[kind] += 1
                handles += _hold(node, rule)
            elif operation.name in _EXTENDED:
                found.others[operation.name] += 1
                handles += _hold(node, rule)
            elif isinstance(node, BackwardCFunction) or node.name().startswith(("CopySlices", *_MASKED)):
                found.hidden[node.name()] += 1
        if strict and (found.others or found.hidden):
            _refuse(found)
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for node in joined:
            node.rule = RULES[0]


def _nodes(scores: Tensor) -> list[Any]:
    """Every autograd node that the score was computed by."""
    # Kept alive while they are looked for: a node's Python object is what tells it from the others.
    seen: dict[Any, None] = {}
    stack = [scores.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen[node] = None
            stack.extend(source for source, _ in node.next_functions)
    return list(seen)


def _rectifier(node: Any, operation: Operation) -> str | None:
    """Name of a function max(x, 0) or min(max(x, 0), c); None for all others."""
    if operation.name == "maximum":
        return None if _rectified_operand(node) is None else "relu"
    bounds = operation.bounds
    if bounds is None or bounds[0] != 0:
        return None
    return {math.inf: "relu", 6.0: "relu6"}.get(bounds[1], "clipped_relu")


def _rectified_operand(node: Any) -> int | None:
    """Which operand of a maximum is rectified, the other being zero everywhere; None where neither is."""
    operands = (node._saved_self, node._saved_other)
    constant = [source is None for source, _ in node.next_functions]
    zero = [fixed and not bool(value.any()) for value, fixed in zip(operands, constant, strict=True)]
    return zero.index(False) if sorted(zero) == [False, True] else None


def _hold(node: Any, rule: str) -> list[RemovableHandle]:
    if rule == "backprop":
        return []
    if rule == "guided":
        return [node.register_prehook(_rectify_arriving)]
    place = _rectified_operand(node) if node.name().startswith("MaximumBackward") else 0
    return [node.register_hook(partial(_send_back_arriving, place or 0))]


def _rectify_arriving(arriving: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(gradient.clamp_min(0) for gradient in arriving)


def _send_back_arriving(place: int, leaving: tuple[Tensor, ...], arriving: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # The gradient of what is rectified, at ``place``; a PReLU has one of its slope too.
    return (*leaving[:place], arriving[0].clamp_min(0), *leaving[place + 1 :])


def _refuse(found: RuleReport) -> None:
    names = ", ".join(f"{count} {name}" for name, count in (found.others + found.hidden).items())
    raise CnnvizError(
        f"The rules are defined for ReLUs; this network also has {names}.",
        "Leave --strict-rule out: the gradient is then rectified at those activations too, and called extended.",
    )
