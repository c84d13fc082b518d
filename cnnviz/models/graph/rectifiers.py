"""Rectifiers that a network spells out, written as what they are: ``relu``, or ``clamp`` with an upper limit.

    maximum(x, 0)   fmax(x, 0)   max(x, 0)   x.clamp(min=tensor(0))   where(x > 0, x, 0)   where(x < 0, 0, x)
    x * (x > 0)     x * (x > 0).float()      x.masked_fill(x < 0, 0)

The values are the same; rules for rectifiers then hold for them, and they are packed and followed like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.models.graph.operations import Operation, attribute, function_name, operation_of

_ABOVE = frozenset({"gt", "ge"})
_BELOW = frozenset({"lt", "le"})
_ZEROS = frozenset("zeros zeros_like new_zeros".split())
_CASTS = frozenset("float half double bfloat16 to type type_as".split())


def spelled_as_rectifiers(module: fx.GraphModule) -> None:
    """Replace the spellings above in a trace; what only they read stays behind, unused."""
    for node in list(module.graph.nodes):
        rectified = _rectified(module, node)
        if rectified is None:
            continue
        x, limit = rectified
        if limit is None:
            node.target, node.args = torch.relu, (x,)
        else:
            node.target, node.args = torch.clamp, (x, 0.0, limit)
        node.op, node.kwargs = "call_function", {}


def _rectified(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, float | None] | None:
    """What a node rectifies, and its upper limit if it has one; None for all other nodes."""
    if node.op not in {"call_function", "call_method"}:
        return None
    operation = _operation(module, node)
    given = operation.arguments
    x: Any = None
    limit: float | None = None
    if operation.name in {"maximum", "fmax"}:
        x = _beside_zero(module, (given.get("input"), given.get("other")))
    elif operation.name == "clamp":
        low, high = given.get("min"), given.get("max")
        limit = None if high is None else _number(module, high)
        tensors = any(isinstance(value, fx.Node) for value in (low, high))
        x = given["input"] if tensors and _is_zero(module, low) and (high is None or limit is not None) else None
    elif operation.name == "where":
        kept, other = given.get("input"), given.get("other")
        for signs, one, zero in ((_ABOVE, kept, other), (_BELOW, other, kept)):
            x = one if _is_zero(module, zero) and _compares(module, given["condition"], signs, one) else x
    elif operation.kind == "product":
        factors = (given.get("input"), given.get("other"))
        for factor, mask in (factors, factors[::-1]):
            x = factor if _compares(module, _uncast(module, mask), _ABOVE, factor) else x
    elif operation.name == "masked_fill" and _is_zero(module, given.get("value")):
        x = given["input"] if _compares(module, given.get("mask"), _BELOW, given["input"]) else None
    return (x, limit) if isinstance(x, fx.Node) else None


def _operation(module: fx.GraphModule, node: fx.Node) -> Operation:
    """What a node computes, with nodes in the place of constants: it matters which are parameters."""
    return operation_of(module, node, value=lambda source: source)


def _beside_zero(module: fx.GraphModule, values: Sequence[Any]) -> Any:
    """The other of two values of which one is zero."""
    zero = [_is_zero(module, value) for value in values]
    return values[zero.index(False)] if sorted(zero) == [False, True] else None


def _uncast(module: fx.GraphModule, mask: Any) -> Any:
    while isinstance(mask, fx.Node) and _operation(module, mask).name in _CASTS:
        mask = mask.args[0]
    return mask


def _compares(module: fx.GraphModule, mask: Any, signs: frozenset[str], x: Any) -> bool:
    """Whether a mask says where ``x`` is above (or below) zero."""
    if not isinstance(mask, fx.Node) or not isinstance(x, fx.Node):
        return False
    turned = _BELOW if signs is _ABOVE else _ABOVE
    operation = _operation(module, mask)
    left, right = (operation.arguments.get(name) for name in ("input", "other"))
    return (operation.name in signs and left is x and _is_zero(module, right)) or (
        operation.name in turned and right is x and _is_zero(module, left)
    )


def _is_zero(module: fx.GraphModule, value: Any) -> bool:
    if isinstance(value, fx.Node) and function_name(value) in _ZEROS:
        return True
    return _number(module, value) == 0


def _number(module: fx.GraphModule, value: Any) -> float | None:
    """A number, or a constant tensor (no parameter) that holds one number only."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, fx.Node):
        return None
    if value.op == "call_function" and value.target is torch.tensor:
        return _number(module, value.args[0])
    if value.op != "get_attr":
        return None
    held = attribute(module, str(value.target))
    if not isinstance(held, Tensor) or isinstance(held, torch.nn.Parameter) or held.numel() == 0:
        return None
    first = held.flatten()[0]
    return float(first) if held.dtype != torch.bool and bool((held == first).all()) else None
