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

_ABOVE = frozenset({"gt", "ge"})
_BELOW = frozenset({"lt", "le"})
_ZEROS = frozenset("zeros zeros_like new_zeros".split())
_CASTS = frozenset("float half double bfloat16 to type type_as".split())


def spelled_as_rectifiers(module: fx.GraphModule) -> int:
    """Replace the spellings above in a trace. Returns how many."""
    found = 0
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
        found += 1
    if found:
        module.recompile()  # what only the old spelling read stays behind, unused
    return found


def _rectified(module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, float | None] | None:
    """What a node rectifies, and its upper limit if it has one; None for all other nodes."""
    if node.op not in {"call_function", "call_method"} or not node.args:
        return None
    name, args = _name(node), node.args
    x: Any = None
    limit: float | None = None
    if name in {"maximum", "fmax", "max"} and len(args) == 2 and not node.kwargs:
        x = _beside_zero(module, args)
    elif name in {"clamp", "clip", "clamp_min"}:
        low = node.kwargs.get("min", args[1] if len(args) > 1 else None)
        high = node.kwargs.get("max", args[2] if len(args) > 2 else None)
        limit = None if high is None else _number(module, high)
        tensors = any(isinstance(value, fx.Node) for value in (low, high))
        x = args[0] if tensors and _is_zero(module, low) and (high is None or limit is not None) else None
    elif name == "where" and len(args) == 3 and node.op == "call_function":
        for signs, kept, other in ((_ABOVE, args[1], args[2]), (_BELOW, args[2], args[1])):
            x = kept if _is_zero(module, other) and _compares(module, args[0], signs, kept) else x
    elif name in {"mul", "multiply"} and len(args) == 2:
        for factor, mask in (args, args[::-1]):
            x = factor if _compares(module, _uncast(mask), _ABOVE, factor) else x
    elif name == "masked_fill" and len(args) == 3:
        x = args[0] if _is_zero(module, args[2]) and _compares(module, args[1], _BELOW, args[0]) else None
    return (x, limit) if isinstance(x, fx.Node) else None


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _beside_zero(module: fx.GraphModule, values: Sequence[Any]) -> Any:
    """The other of two values of which one is zero."""
    zero = [_is_zero(module, value) for value in values]
    return values[zero.index(False)] if sorted(zero) == [False, True] else None


def _uncast(mask: Any) -> Any:
    while isinstance(mask, fx.Node) and mask.op == "call_method" and mask.target in _CASTS:
        mask = mask.args[0]
    return mask


def _compares(module: fx.GraphModule, mask: Any, signs: frozenset[str], x: Any) -> bool:
    """Whether a mask says where ``x`` is above (or below) zero."""
    if not isinstance(mask, fx.Node) or not isinstance(x, fx.Node) or len(mask.args) != 2:
        return False
    turned = _BELOW if signs is _ABOVE else _ABOVE
    left, right = mask.args
    return (_name(mask) in signs and left is x and _is_zero(module, right)) or (
        _name(mask) in turned and right is x and _is_zero(module, left)
    )


def _is_zero(module: fx.GraphModule, value: Any) -> bool:
    if isinstance(value, fx.Node) and _name(value) in _ZEROS:
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
    held: Any = module
    for part in str(value.target).split("."):
        held = getattr(held, part)
    if not isinstance(held, Tensor) or isinstance(held, torch.nn.Parameter) or held.numel() == 0:
        return None
    first = held.flatten()[0]
    return float(first) if held.dtype != torch.bool and bool((held == first).all()) else None
