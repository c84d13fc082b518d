"""In-place operations of a traced network made functional.

A tensor that somebody captured must not change afterwards, and the order of reads must not matter: after this the
graph says all there is about the flow of data.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from cnnviz.models.graph.operations import function_name, operation_of_module

IN_PLACE_FUNCTIONS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
    F.relu_: F.relu,
    torch.relu_: torch.relu,
}

_VIEWS = {"view": "reshape", "view_as": "reshape_as"}
# What a tensor's strides decide.
_STRIDED = frozenset(
    "as_strided as_strided_ stride is_contiguous data_ptr storage untyped_storage storage_offset".split()
)


def without_in_place(module: fx.GraphModule) -> None:
    """Replace in-place operations by ones that return a new tensor, keeping what later readers see.

    After ``y = relu_(x)`` a later reader of ``x`` sees ``y``; so its reads are redirected to ``y``.
    """
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if not _make_functional(module, node):
            continue
        source = node.args[0] if node.args else node.kwargs.get("input")
        if isinstance(source, fx.Node):
            later = [user for user in source.users if order[user] > order[node]]
            for user in later:
                user.replace_input_with(source, node)


def without_strides(module: fx.GraphModule, opaque: Collection[str]) -> None:
    """Make the graph compute the same whichever way its tensors lie in memory.

    A private copy keeps its tensors channels-last. ``view`` refuses to merge there what it merges in the network's own
    run: it becomes ``reshape``. Code that asks for strides, or that nobody could read (``opaque``: paths of modules
    that resisted tracing), is given contiguous tensors, as the network itself would give it.
    """
    for node in list(module.graph.nodes):
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op == "call_method" and name in _VIEWS:
            _reshape_instead(node)
        elif name in _STRIDED or (node.op == "call_module" and node.target in opaque):
            for source in node.all_input_nodes:
                if source.op != "get_attr":
                    with module.graph.inserting_before(node):
                        node.replace_input_with(source, module.graph.call_function(contiguous, (source,)))


def _reshape_instead(node: fx.Node) -> None:
    if any(isinstance(value, torch.dtype) for value in (*node.args, *node.kwargs.values())):
        return  # the same bytes read as another type
    node.target = _VIEWS[str(node.target)]
    node.kwargs = {"shape" if key == "size" else key: value for key, value in node.kwargs.items()}


def contiguous(value: Any) -> Any:
    """A tensor in the order of its axes; what is no tensor as it is."""
    return value.contiguous() if isinstance(value, torch.Tensor) else value


def _make_functional(module: fx.GraphModule, node: fx.Node) -> bool:
    """Make one node return a new tensor. True when it worked in place before."""
    if node.op == "call_module":
        target = module.get_submodule(str(node.target))
        if getattr(target, "inplace", False) is True and type(target).__module__.startswith("torch.nn"):
            _set_submodule(module, str(node.target), copy_with(target, inplace=False))
            return not operation_of_module(target).is_dropout
        # The module may have been replaced at its first call already.
        return bool(getattr(target, "_cnnviz_was_in_place", False))
    if node.op == "call_method":
        plain = _plain_name(str(node.target))
        if plain and hasattr(torch.Tensor, plain):
            node.target = plain
            return True
    if node.op == "call_function":
        return _make_function_functional(node)
    return False


def _plain_name(name: str) -> str:
    """``relu`` of ``relu_``; empty for names that do not say "in place"."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else ""


def _make_function_functional(node: fx.Node) -> bool:
    if node.target in IN_PLACE_FUNCTIONS:
        node.target = IN_PLACE_FUNCTIONS[node.target]
        return True
    name = function_name(node)
    twin = next((getattr(home, _plain_name(name), None) for home in (F, torch) if _plain_name(name)), None)
    if twin is not None:
        node.target = twin
        return True
    if "dropout" in name or not callable(node.target):
        return False
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # built-in functions have no signature, nor an argument ``inplace``
        return False
    if given.arguments.get("inplace") is not True:
        return False
    given.arguments["inplace"] = False
    node.args, node.kwargs = tuple(given.args), dict(given.kwargs)
    return True


def copy_with(module: nn.Module, *, inplace: bool) -> nn.Module:
    """A shallow copy of an activation module with another ``inplace``; the user's module is not touched."""
    twin = module.__new__(type(module))
    twin.__dict__ = {**module.__dict__}
    twin.__dict__["inplace"] = inplace
    twin.__dict__["_cnnviz_was_in_place"] = not operation_of_module(module).is_dropout
    return twin


def _set_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
