"""Tensors in the structures that networks return: tuples, mappings, dataclasses, plain objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

# Deeper than this no object's attributes are looked for: it may hold itself.
_DEEPEST = 8


# Deeper than this no object's attributes are looked for: it may hold itself.
_DEEPEST = 8


def map_tensors(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The structure of ``first`` with ``function`` of the tensors that stand at the same place of all structures.

    What is no tensor is that of ``first``. Containers keep their type where it can be made of its parts, a mapping is
    otherwise a ``dict``. Objects are copied where they, or objects that they hold, hold tensors.
    """
    return _mapped(function, _DEEPEST, first, *others)


def _mapped(function: Callable[..., Any], depth: int, first: Any, *others: Any) -> Any:
    if isinstance(first, Tensor):
        return function(first, *others)
    if depth == 0:
        return first
    if isinstance(first, Mapping):
        parts = {k: _mapped(function, depth - 1, v, *(other[k] for other in others)) for k, v in first.items()}
        return _rebuilt(first, parts)
    if isinstance(first, (tuple, list)):
        items = [_mapped(function, depth - 1, *same) for same in zip(first, *others, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*items)
        return tuple(items) if isinstance(first, tuple) else items
    attributes = _attributes(first)
    found = {
        name: _mapped(function, depth - 1, value, *(getattr(other, name) for other in others))
        for name, value in attributes.items()
    }
    if all(found[name] is value for name, value in attributes.items()):
        return first
    made = copy.copy(first)
    for name, value in found.items():
        # Past the setter: a frozen dataclass has none.
        object.__setattr__(made, name, value)
    return made


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots included; none of modules and classes, which are no outputs."""
    if isinstance(value, (nn.Module, type)):
        return {}
    slots = [name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    held = {name: getattr(value, name) for name in slots if name != "__dict__" and hasattr(value, name)}
    return {**held, **getattr(value, "__dict__", {})}


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _rebuilt(mapping: Mapping[Any, Any], parts: dict[Any, Any]) -> Any:
    if is_dataclass(mapping):  # such as the outputs of transformers' models
        return type(mapping)(**{each.name: parts[each.name] for each in fields(mapping) if each.name in parts})
    try:
        return type(mapping)(parts)  # type: ignore[call-arg]
    except TypeError:
        return parts


def tensors_of(structure: Any) -> Iterator[Tensor]:
    """Every tensor of a structure, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, structure)
    return iter(found)
