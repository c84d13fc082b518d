"""Tensors in the structures that networks return: tuples, mappings, dataclasses, plain objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The structure of ``first`` with ``function`` of the tensors that stand at the same place of all structures.

    What is no tensor is that of ``first``. Containers keep their type where it can be made of its parts, a mapping is
    otherwise a ``dict``.
    """
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, Mapping):
        parts = {k: map_tensors(function, v, *(other[k] for other in others)) for k, v in first.items()}
        return _rebuilt(first, parts)
    if isinstance(first, (tuple, list)):
        items = [map_tensors(function, *same) for same in zip(first, *others, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*items)
        return tuple(items) if isinstance(first, tuple) else items
    if any(isinstance(value, (Tensor, Mapping, tuple, list)) for value in getattr(first, "__dict__", {}).values()):
        made = copy.copy(first)
        for name, value in vars(first).items():
            # Past the setter: a frozen dataclass has none.
            object.__setattr__(made, name, map_tensors(function, value, *(getattr(o, name) for o in others)))
        return made
    return first


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
