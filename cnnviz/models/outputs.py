"""Finding the logits in whatever a network returns: a tensor, a tuple, a mapping, an object with ``.logits``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cnnviz.errors import CnnvizError, nearest

_COMMON_KEYS = ("logits", "out", "output", "pred", "prediction")


def is_tensor_like(value: Any) -> bool:
    """A tensor, or a node that stands for one while a network is traced."""
    return hasattr(value, "all_input_nodes") or (hasattr(value, "dim") and hasattr(value, "shape"))


def select_output(value: Any, key: str | None = None) -> Any:
    """The tensor of class scores in a network's return value.

    Args:
        value: What the network returned (or the same structure of graph nodes).
        key: Dotted path such as ``logits``, ``0`` or ``heads.0.scores``; None looks for the usual places:
            the tensor itself, ``.logits``, a mapping's ``logits`` or ``out``, else the first tensor.

    Raises:
        CnnvizError: The path does not exist, or no tensor is there.
    """
    if key is not None:
        for part in key.split("."):
            value = _step(value, part, key)
    found = _first_tensor(value)
    if found is None:
        raise CnnvizError(
            f"The network returned {type(value).__name__}, in which no tensor of class scores was found.",
            "Name it with --output KEY, such as --output logits or --output 0.",
        )
    return found


def selector(key: str | None) -> Callable[[Any], Any]:
    return lambda value: select_output(value, key)


def _step(value: Any, part: str, key: str) -> Any:
    if isinstance(value, Mapping):
        if part in value:
            return value[part]
        names = [str(name) for name in value]
    elif isinstance(value, (tuple, list)) and part.lstrip("-").isdigit():
        if -len(value) <= int(part) < len(value):
            return value[int(part)]
        names = [str(i) for i in range(len(value))]
    elif hasattr(value, part):
        return getattr(value, part)
    else:
        names = list(getattr(value, "_fields", ())) or [
            n for n in getattr(value, "__dict__", {}) if n[0] != "_"
        ]
    hint = nearest(part, names) or f"There is: {', '.join(names) or 'nothing to choose from'}."
    raise CnnvizError(f"--output {key}: {type(value).__name__} has no {part!r}.", hint)


def _first_tensor(value: Any) -> Any:
    if is_tensor_like(value):
        return value
    logits = getattr(value, "logits", None)
    if logits is not None and is_tensor_like(logits):
        return logits
    if isinstance(value, Mapping):
        ordered = [value[k] for k in _COMMON_KEYS if k in value] + list(value.values())
    elif isinstance(value, (tuple, list)):
        ordered = list(value)
    else:
        ordered = list(getattr(value, "__dict__", {}).values())
    for item in ordered:
        found = _first_tensor(item) if isinstance(item, (tuple, list, Mapping)) else item
        if found is not None and is_tensor_like(found):
            return found
    return None
