"""Tensors in the structures that networks return: tuples, mappings, dataclasses, plain objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Deeper than this no object's attributes are looked for: it may hold itself.
_DEEPEST = 8


class Shared(Tensor):
    """A tensor of an output that has no axis for the images of a batch: a constant, or one value of all of them.

    Computing with it gives ordinary tensors. Structures of it are mapped as if it were no tensor: it is not split into
    images.

    Attributes:
        varies: Whether it depends on the images.
    """

    varies: bool

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # as nn.Parameter has it

    @staticmethod
    def of(tensor: Tensor, varies: bool) -> Shared:
        """This tensor, marked."""
        made = tensor.as_subclass(Shared)
        made.varies = varies
        return made


def map_tensors(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The structure of ``first`` with ``function`` of the tensors that stand at the same place of all structures.

    What is no tensor, or :class:`Shared`, is that of ``first``. Containers keep their type where it can be made of its
    parts, a mapping is otherwise a ``dict``. Objects are copied where they, or objects that they hold, hold tensors.
    """
    return _mapped(lambda *same: same[0] if isinstance(same[0], Shared) else function(*same), _DEEPEST, first, *others)


def map_shared(function: Callable[[Shared], Tensor], structure: Any) -> Any:
    """The structure with ``function`` of its :class:`Shared` tensors, and all else as it is."""
    return _mapped(lambda tensor: function(tensor) if isinstance(tensor, Shared) else tensor, _DEEPEST, structure)


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
    """Every tensor of a structure that has rows for images, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, structure)
    return iter(found)
