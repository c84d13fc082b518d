"""What a node of a traced network computes: one answer for modules, functions, methods and operators.

``nn.ReLU()``, ``F.relu``, ``torch.relu_`` and ``x.relu()`` are the operation ``relu``, of the kind ``activation``. Its
arguments have the names of the function's parameters, with defaults filled in, so that ``nn.MaxPool2d(3)``,
``F.max_pool2d(x, 3)`` and ``torch.max_pool2d(x, kernel_size=(3, 3))`` cannot be told apart. Which operations there are
is said in :mod:`cnnviz.models.graph.operation_table`; what one means for a method is that method's own answer.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.models.graph.operation_table import (
    ALIASES,
    ATTRIBUTES,
    ENTRIES,
    MODULES,
    OTHER_ORDERS,
    REQUIRED,
    Entry,
    Kind,
)

Shapes = Mapping[fx.Node, tuple[int, ...]]

_OTHER = Entry("", "other", {})
_FUNCTIONS: dict[Any, Entry] = {
    getattr(home, name): entry
    for name, entry in ENTRIES.items()
    for home in (torch, F)
    if callable(getattr(home, name, 0))
} | dict(OTHER_ORDERS)
# Parameters that have a number for each axis that a kernel slides along.
_SIZES = frozenset("kernel_size stride padding dilation output_padding output_size".split())
_DIMENSIONS = frozenset("dim dims start_dim end_dim".split())
_KEYWORDS = {
    "axis": "dim", "keepdims": "keepdim", "self": "input", "tensor": "input", "split_size": "split_size_or_sections",
    "indices": "indices_or_sections", "sections": "indices_or_sections",
}  # fmt: skip
# In evaluation these pass their values on; known by their names, as every library has its own.
_DROPPING = ("droppath", "stochasticdepth", "dropblock")
# Names of autograd nodes that are not those of the function, and what activations that clip keep for the way back.
_GRADIENT_NAMES = {
    "prelu_kernel": "prelu", "rrelu_with_noise": "rrelu", "clamp_min": "clamp", "log_sigmoid": "logsigmoid",
}  # fmt: skip
_SAVED = {
    "ThresholdBackward": {"threshold": "_saved_threshold"},
    "HardtanhBackward": {"min_val": "_saved_min_val", "max_val": "_saved_max_val"},
    "ClampMinBackward": {"min": "_saved_min"},
    "ClampBackward1": {"min": "_saved_min", "max": "_saved_max"},
}
_PAD_MODES = (
    (nn.modules.padding._ReflectionPadNd, "reflect"),
    (nn.modules.padding._ReplicationPadNd, "replicate"),
    (nn.modules.padding._CircularPadNd, "circular"),
)


@dataclass(frozen=True, eq=False)
class Operation:
    """What a node computes.

    Attributes:
        kind: What it does, see :data:`~cnnviz.models.graph.operation_table.Kind`.
        name: Canonical name; of an operation that is not known, the name of its function or class.
        arguments: By the names of the function's parameters, with defaults. Tensors that the network holds are given
            themselves, computed ones as nodes. Sizes of kernels are tuples with a number for each axis; dimensions are
            counted from the front where the rank is known; ``dim`` of a reduction is a tuple, or None for all of them.
            Weights that a module computes at each call are missing.
        module: The module that is called, if one is.
        subclassed: Whether the module's class is not torch's own, and may do more than its base.
        label: What messages call it.
    """

    kind: Kind
    name: str
    arguments: Mapping[str, Any]
    module: nn.Module | None = None
    subclassed: bool = False
    label: str = ""

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, transposed or not."""
        return self.kind in {"convolution", "transposed_convolution"}

    @property
    def is_activation(self) -> bool:
        """Whether it is a function without weights of what a layer computed: elementwise, a softmax, or gated."""
        return self.kind in {"activation", "softmax", "gated"}

    @property
    def is_relu(self) -> bool:
        """Whether it is max(x, 0), in any spelling."""
        return self.bounds == (0.0, math.inf)

    @property
    def is_whole(self) -> bool:
        """Whether it is a module with weights in one piece: a recurrent layer, or one that resisted tracing."""
        if self.module is None or self.kind not in {"recurrent", "other"}:
            return False
        return next(self.module.parameters(), None) is not None

    @property
    def is_dropout(self) -> bool:
        """Whether it leaves out values in training."""
        return self.kind == "identity" and "p" in ENTRIES[self.name].parameters

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Where an activation passes its input on, clipping what lies beyond (infinite: no bound); None for others."""
        given = self.arguments
        limits: tuple[Any, Any] | None = {
            "relu": (0.0, math.inf),
            "relu6": (0.0, 6.0),
            "hardtanh": (given.get("min_val"), given.get("max_val")),
            "clamp": (_or(given.get("min"), -math.inf), _or(given.get("max"), math.inf)),
        }.get(self.name)
        if self.name == "clamp" and not given.keys() & {"min", "max"}:  # limits that nobody knows
            return None
        if limits is None or not all(isinstance(limit, (int, float)) for limit in limits):
            return None
        return float(limits[0]), float(limits[1])

    def tensor(self, name: str) -> Tensor | None:
        """A tensor that the network holds, or that its module makes of what it holds; None if computed, or absent."""
        value = self.arguments.get(name)
        if self.module is not None and name not in self.arguments:
            value = getattr(self.module, name, None)
        return value if isinstance(value, Tensor) else None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def function_name(node: fx.Node) -> str:
    """Plain name of the function or method that a node calls; empty for module calls."""
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return ""


def attribute(root: nn.Module, path: str) -> Any:
    """What a dotted path names, as ``get_attr`` nodes do."""
    return operator.attrgetter(path)(root)


def operation_of(
    root: nn.Module, node: fx.Node, shapes: Shapes | None = None, value: Callable[[fx.Node], Any] | None = None
) -> Operation:
    """What a node of a traced network computes.

    Args:
        root: The network that the node is of.
        node: Any node.
        shapes: Shapes of the nodes' values; those in their ``meta`` where there are none.
        value: What stands for a node in the arguments; by default the tensor that the network holds, or the node.
    """
    look: Any = value or (lambda source: attribute(root, str(source.target)) if source.op == "get_attr" else source)
    args, kwargs = fx.map_arg((node.args, node.kwargs), look)
    rank = _rank(node, shapes or {})
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        entry = _entry_of_module(module)
        inputs = dict(zip(("input",), args, strict=False))
        return _of_module(module, entry, _normalised(entry, inputs | _held(entry, module), rank))
    if node.op not in {"call_function", "call_method"}:
        return Operation("other", "", {})
    entry = _variant(_entry_of_function(node.target), args, kwargs)
    given = _bound(entry, args, kwargs)
    if entry.kind in {"convolution", "transposed_convolution"}:
        given["kernel_size"] = _kernel_size(node, given.get("weight"), shapes or {})
    arguments = _normalised(entry, given, rank)
    label = function_name(node)
    return Operation(entry.kind, _name(entry, arguments) or label, arguments, None, False, label)


def operation_of_module(module: nn.Module) -> Operation:
    """What a module computes, whatever it is called on: its arguments are what it holds."""
    entry = _entry_of_module(module)
    return _of_module(module, entry, _normalised(entry, _held(entry, module), 0))


def operation_of_function(function: Callable[..., Any]) -> Operation:
    """What a function computes, whatever it is called with: there are no arguments."""
    entry = _entry_of_function(function)
    name = str(getattr(function, "__name__", function))
    return Operation(entry.kind, entry.name or name, {}, None, False, name)


def operation_of_gradient(step: Any) -> Operation:
    """What an autograd node differentiates: its name, and of activations that clip the bounds."""
    called = str(step.name())
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.sub(r"Backward\d*$", "", called)).lower()
    attributes = _SAVED.get(called.removesuffix("0"), {})
    saved = {key: getattr(step, attribute) for key, attribute in attributes.items()}
    if name == "threshold" and saved["threshold"] == 0:
        name = "relu"
    entry = ENTRIES.get(_GRADIENT_NAMES.get(name, name), _OTHER)
    return Operation(entry.kind, entry.name or name, saved, None, False, called)


def _of_module(module: nn.Module, entry: Entry, arguments: Mapping[str, Any]) -> Operation:
    kind = type(module)
    return Operation(entry.kind, entry.name or kind.__name__, arguments, module, not _is_of_torch(kind), kind.__name__)


def _is_of_torch(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith("torch.nn.")


def _entry_of_module(module: nn.Module) -> Entry:
    kind = type(module)
    if kind.__name__.lower().startswith(_DROPPING):
        return ENTRIES["drop_path"]
    entry = next((ENTRIES[MODULES[base]] for base in kind.__mro__ if base in MODULES), _OTHER)
    if not _is_of_torch(kind) and entry.kind in {"activation", "softmax", "gated"}:
        return _OTHER  # whoever writes a class for a function without weights means another function
    return entry


def _entry_of_function(target: Any) -> Entry:
    """The entry of a function, or of a method by its name."""
    try:
        if not isinstance(target, str) and target in _FUNCTIONS:
            return _FUNCTIONS[target]
    except TypeError:  # a callable that cannot be hashed
        return _OTHER
    name = str(getattr(target, "__name__", target))
    for spelled in (name, name.removesuffix("_")):
        if spelled in OTHER_ORDERS:
            return OTHER_ORDERS[spelled]
        if (known := ENTRIES.get(ALIASES.get(spelled, spelled))) is not None:
            return known
    return _OTHER


def _variant(entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Entry:
    """Functions that compute another operation if they are given other arguments."""
    if entry.name in {"max", "min"}:
        other = kwargs.get("other", args[1] if len(args) > 1 else None)
        return ENTRIES[f"{entry.name}imum"] if isinstance(other, (fx.Node, Tensor)) else entry
    if entry.name == "div" and kwargs.get("rounding_mode") is not None:
        return ENTRIES["floor_divide"]
    return entry


def _bound(entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    given: dict[str, Any] = {}
    for place, name in enumerate(entry.parameters):
        if name == entry.several and len(args) > place:
            rest = args[place:]
            given[name] = tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else tuple(rest)
        elif len(args) > place:
            given[name] = args[place]
        elif entry.parameters[name] is not REQUIRED:
            given[name] = entry.parameters[name]
    for key, value in kwargs.items():
        name = key if key in entry.parameters else _KEYWORDS.get(key, key)
        if name in entry.parameters:
            given[name] = value
    return given


def _held(entry: Entry, module: nn.Module) -> dict[str, Any]:
    """The arguments that a module holds, by the names of the function's parameters."""
    held = {**vars(module), **module._buffers, **module._parameters}
    wanted = [*entry.parameters, *(["kernel_size"] if "convolution" in entry.kind else [])]
    names = ATTRIBUTES.get(entry.name, {})
    given: dict[str, Any] = {}
    for name in wanted:
        default = entry.parameters.get(name, REQUIRED)
        if names.get(name, name) in held:
            given[name] = held[names.get(name, name)]
        elif default is not REQUIRED and name not in {"weight", "bias"}:
            given[name] = default
    if entry.name == "batch_norm":
        given["training"] = module.training or given["running_mean"] is None
    elif entry.name == "instance_norm":
        given["use_input_stats"] = not held.get("track_running_stats", False)
    elif entry.name == "pad":
        given["mode"] = next((mode for kinds, mode in _PAD_MODES if isinstance(module, kinds)), "constant")
    elif isinstance(module, nn.Softmax2d):
        given["dim"] = -3
    return given


def _name(entry: Entry, arguments: Mapping[str, Any]) -> str:
    return "permute" if entry.kind == "permutation" and "dims" in arguments else entry.name


def _normalised(entry: Entry, given: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Arguments in one form, however they were written."""
    # An index that is a list means something else than a tuple.
    arguments = {n: tuple(v) if isinstance(v, list) and n != "index" else v for n, v in given.items()}
    axes = int(entry.name[-2]) if entry.name[-1:] == "d" and entry.name[-2:-1].isdigit() else 0
    if axes:
        for name in _SIZES & arguments.keys():
            arguments[name] = _sizes(arguments[name], axes)
        if "kernel_size" in arguments and arguments.get("stride", 0) in {None, ()}:
            arguments["stride"] = arguments["kernel_size"]
    if entry.kind == "reduction" or entry.name == "squeeze":
        dim = arguments.get("dim")
        arguments["dim"] = (dim,) if isinstance(dim, int) else dim
    if entry.name == "pad":
        amounts = arguments.get("pad")
        arguments["value"] = _or(arguments.get("value"), 0.0)
        arguments["pad"] = (amounts,) * 4 if isinstance(amounts, int) else amounts
    if rank:
        span = rank + (entry.name in {"stack", "unsqueeze"})
        for name in _DIMENSIONS & arguments.keys():
            arguments[name] = _from_front(arguments[name], span)
        if entry.name in {"transpose", "t"}:
            arguments = {"input": arguments.get("input"), "dims": _swapped(arguments, rank)}
    return arguments


def _sizes(value: Any, axes: int) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(value) * axes if len(value) == 1 else tuple(value)
    if value == "valid":
        return (0,) * axes
    return (value,) * axes if isinstance(value, int) else value


def _from_front(value: Any, rank: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_from_front(item, rank) for item in value)
    return value % rank if isinstance(value, int) else value


def _swapped(arguments: Mapping[str, Any], rank: int) -> tuple[int, ...]:
    """The order of dimensions behind ``transpose``, or ``t``."""
    order = list(range(rank))
    first, second = (int(arguments.get(name, place)) % rank for place, name in enumerate(("dim0", "dim1")))
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def _rank(node: fx.Node, shapes: Shapes) -> int:
    """Number of dimensions of what a node reads first; 0 where that is not known."""
    for source in node.all_input_nodes:
        if (shape := _shape(source, shapes)) is not None:
            return len(shape)
    return 0


def _shape(node: fx.Node, shapes: Shapes) -> tuple[int, ...] | None:
    return shapes.get(node) or node.meta.get("shape")


def _kernel_size(node: fx.Node, weight: Any, shapes: Shapes) -> tuple[int, ...] | None:
    shape = _shape(weight, shapes) if isinstance(weight, fx.Node) else getattr(weight, "shape", None)
    return None if shape is None else tuple(shape[2:])
