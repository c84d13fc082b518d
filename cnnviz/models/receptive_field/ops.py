"""What each operation of a network does to the field of view of its units.

Operations that are not known here give no answer rather than a wrong one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.models.graph.operations import function_name
from cnnviz.models.graph.trace import ACTIVATION_NAMES
from cnnviz.models.receptive_field import sliding
from cnnviz.models.receptive_field.axes import Axis, State, everywhere, reshaped, union, unknown, with_axes
from cnnviz.models.receptive_field.sliding import Call

_COMBINING = frozenset(
    "add sub mul div truediv floordiv pow maximum minimum where lerp addcmul radd rsub rmul rtruediv multiply divide "
    "subtract true_divide floor_divide eq ne gt lt ge le and_ or_ masked_fill expand_as copysign".split()
)
_POINTWISE = (
    frozenset(
        "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout stochastic_depth drop_path "
        "contiguous clone identity detach to float half double bfloat16 type type_as neg abs exp log log1p expm1 sqrt "
        "rsqrt square sign sin cos reciprocal batch_norm local_response_norm threshold clamp_min clamp_max clip "
        "logsigmoid relu6 tanhshrink softsign softshrink hardshrink erf nan_to_num round floor ceil".split()
    )
    | ACTIVATION_NAMES
)
CONSTANT = frozenset("zeros_like ones_like rand_like randn_like full_like new_zeros new_ones new_full".split())
_REDUCING = frozenset("mean sum amax amin max min norm vector_norm var std logsumexp prod all any median".split())
_PARTS = frozenset("chunk split unbind tensor_split split_with_sizes unsafe_chunk".split())
_RESHAPES = frozenset("view reshape flatten squeeze unsqueeze unflatten view_as reshape_as".split())
_MIXING = frozenset("matmul bmm baddbmm einsum scaled_dot_product_attention linear".split())
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LocalResponseNorm, nn.Identity, nn.modules.dropout._DropoutNd)
_MAP_NORMS = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_UPCONV = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_MAX = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_RESIZE = ("input", "size", "scale_factor", "mode", "align_corners")
_SIGNATURES: dict[str, tuple[str, ...]] = {
    "conv2d": _CONV,
    "conv_transpose2d": _UPCONV,
    "max_pool2d": _MAX,
    "avg_pool2d": _AVERAGE,
    "lp_pool2d": ("input", "norm_type", "kernel_size", "stride", "ceil_mode"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d": ("input", "output_size"),
    "pad": ("input", "pad", "mode", "value"),
    "interpolate": _RESIZE,
    "upsample": _RESIZE,
    "pixel_shuffle": ("input", "upscale_factor"),
    "pixel_unshuffle": ("input", "downscale_factor"),
}
_MODULES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str], ...] = (
    (nn.Conv2d, "conv2d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.MaxPool2d, "max_pool2d"),
    (nn.AvgPool2d, "avg_pool2d"),
    (nn.LPPool2d, "lp_pool2d"),
    ((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), "adaptive_avg_pool2d"),
    ((nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d), "pad"),
    (nn.Upsample, "interpolate"),
    (nn.PixelShuffle, "pixel_shuffle"),
    (nn.PixelUnshuffle, "pixel_unshuffle"),
    (nn.Flatten, "flatten"),
    (nn.Unflatten, "unflatten"),
    ((nn.Softmax, nn.LogSoftmax, nn.Softmin), "softmax"),
    (nn.Softmax2d, "softmax2d"),
    (nn.Linear, "linear"),
    (nn.LayerNorm, "layer_norm"),
    (_MAP_NORMS, "map_norm"),
    (_NORMS, "identity"),
    ((nn.ChannelShuffle,), "identity"),
)


def kind_of(node: fx.Node, module: nn.Module | None) -> str:
    """The operation's name as the rules below know it; a module's class where they do not."""
    if module is None:
        special = {F.max_pool2d: "max_pool2d", F.adaptive_max_pool2d: "adaptive_max_pool2d"}
        name = special.get(node.target) if callable(node.target) else None
        return name or function_name(node)
    for kinds, name in _MODULES:
        if isinstance(module, kinds):
            return name
    activation = type(module).__module__ == "torch.nn.modules.activation"
    attention = isinstance(module, nn.MultiheadAttention)
    return "identity" if activation and not attention else type(module).__name__


def named_arguments(
    name: str, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name; a module's attributes are its arguments."""
    if module is not None:
        return dict(vars(module))
    return {**dict(zip(_SIGNATURES.get(name, ()), args, strict=False)), **kwargs}


def apply(call: Call) -> State:
    """The state of what an operation returns."""
    known = next((s.unknown for s in call.sources if s.unknown), "")
    if known:
        return unknown(known)
    if call.name != operator.getitem.__name__ and any(source.parts for source in call.sources):
        return unknown("it is cut along rows or columns")
    rule = _RULES.get(call.name)
    if rule is not None:
        return rule(call)
    if call.name in _POINTWISE:
        return union(call.sources, call.shape, call.shapes)
    if not any(source.placed for source in call.sources):
        return everywhere(call.sources[0].lost)
    return unknown(f"it is behind {call.label}, whose reach is not known")


def _combine(call: Call) -> State:
    return union(call.sources, call.shape, call.shapes)


def _cat(call: Call) -> State:
    dim = int(call.argument("dim", 1, 0)) % len(call.shape)
    if any(axis is not None and axis.dim == dim for source in call.sources for axis in source.axes):
        return unknown("its parts are joined along rows or columns")
    return union(call.sources, call.shape, call.shapes)


def _stack(call: Call) -> State:
    dim = int(call.argument("dim", 1, 0)) % len(call.shape)
    lifted = []
    for source in call.sources:
        axes = [None if axis is None else axis.at(axis.dim + (axis.dim >= dim)) for axis in source.axes]
        lifted.append(with_axes(source, axes, call.label))
    return union(lifted, call.shape, [(*shape[:dim], 1, *shape[dim:]) for shape in call.shapes])


def _reshape(call: Call) -> State:
    rows, cols = (reshaped(axis, call.shapes[0], call.shape) for axis in call.source.axes)
    merged = call.source.placed and (rows is None or cols is None)
    several = any(axis is not None and axis.length > 1 for axis in call.source.axes)
    return with_axes(call.source, (rows, cols), call.label, merged and several)


def _permute(call: Call) -> State:
    rank = len(call.shape)
    if call.name in {"transpose", "swapaxes"}:
        a, b = int(call.argument("dim0", 1)) % rank, int(call.argument("dim1", 2)) % rank
        order = list(range(rank))
        order[a], order[b] = b, a
    elif call.name in {"t", "mT", "T"}:
        return unknown(f"it is behind {call.label}")
    else:
        given = call.argument("dims", 1)
        items = given if isinstance(given, (tuple, list)) else call.args[1:]
        order = [int(d) % rank for d in (items or vars(call.module or nn.Identity()).get("dims", ()))]
    moved = [None if axis is None else axis.at(order.index(axis.dim)) for axis in call.source.axes]
    return with_axes(call.source, moved, call.label)


def _reduce(call: Call) -> State:
    """Mean, maximum, norm along dimensions; over rows or columns it is a kernel as large as the map."""
    rank = len(call.shapes[0])
    tensors = [a for a in call.args[1:] if isinstance(a, Tensor)]
    if call.name in {"max", "min"} and tensors:
        return _combine(call)
    position = 2 if call.name in {"norm", "vector_norm"} else 1
    dims = call.argument("dim", position, call.named.get("axis"))
    listed = dims if isinstance(dims, (tuple, list)) else range(rank) if dims is None else [dims]
    gone = {int(d) % rank for d in listed}
    keep = bool(call.argument("keepdim", position + 1, False)) if dims is not None else False
    new: list[Axis | None] = []
    context = False
    for axis in call.source.axes:
        if axis is not None and axis.dim in gone:
            context = context or axis.length > 1
            axis = axis.slide(axis.length, axis.length, 0, 1) if keep else None
        if axis is not None and not keep:
            axis = axis.at(axis.dim - sum(d < axis.dim for d in gone))
        new.append(axis)
    return with_axes(call.source, new, call.label, context)


def _parts(call: Call) -> State:
    default = call.argument("axis", -1, 0)
    dim = int(call.argument("dim", 1 if call.name == "unbind" else 2, default)) % len(call.shapes[0])
    across = any(axis is not None and axis.dim == dim for axis in call.source.axes)
    if across and call.name == "unbind":
        return unknown("it is cut along rows or columns")
    if across:
        return replace(call.source, parts=(dim, _lengths(call, call.shapes[0][dim])))
    if call.name != "unbind":
        return call.source
    lower = [None if a is None else a.at(a.dim - (a.dim > dim)) for a in call.source.axes]
    return with_axes(call.source, lower, call.label)


def _lengths(call: Call, length: int) -> tuple[int, ...]:
    """How long the parts of a dimension are, found out by cutting one of that length."""
    names = {"chunk": ("chunks",), "unsafe_chunk": ("chunks",), "tensor_split": ("indices_or_sections", "indices")}
    known = names.get(call.name, ("split_size_or_sections", "split_size", "split_sizes"))
    how = next((call.named[name] for name in known if name in call.named), None)
    how = call.args[1] if how is None else how
    cut = torch.tensor_split if call.name == "tensor_split" else torch.chunk if "chunk" in call.name else torch.split
    return tuple(len(part) for part in cut(torch.empty(length, device="meta"), how))


def _narrow(call: Call) -> State:
    dim = int(call.argument("dim", 1)) % len(call.shapes[0])
    start, length = int(call.argument("start", 2)), int(call.argument("length", 3))
    start += call.shapes[0][dim] if start < 0 else 0
    return _cut_out(call.source, dim, start, length, call.label)


def _cut_out(source: State, dim: int, start: int, length: int, by: str) -> State:
    """``length`` units from ``start`` along a dimension."""
    kept = [a.slide(1, 1, -start, length) if a is not None and a.dim == dim else a for a in source.axes]
    return with_axes(replace(source, parts=None), kept, by)


def _index(call: Call) -> State:
    """``x[:, :, 1:, ::2]``: crops and strides; indices along other dimensions drop them."""
    if not call.shapes[0]:  # an item of a tuple of tensors
        if call.source.parts is None:
            return call.source
        dim, lengths = call.source.parts
        index = range(len(lengths))[call.args[1]]
        return _cut_out(call.source, dim, sum(lengths[:index]), lengths[index], call.label)
    items = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(not (item is None or item is Ellipsis or isinstance(item, (int, slice))) for item in items):
        return unknown("it is behind an index that is no slice")
    rank = len(call.shapes[0])
    missing = rank - sum(item is not None and item is not Ellipsis for item in items)
    where = items.index(Ellipsis) if Ellipsis in items else len(items)
    full = [*items[:where], *[slice(None)] * missing, *items[where + 1 :]]
    kept: dict[int, Axis | None] = {}
    old, new = 0, 0
    for item in full:
        if item is None:
            new += 1
            continue
        for which, axis in enumerate(call.source.axes):
            if axis is not None and axis.dim == old:
                if not isinstance(item, slice):
                    return unknown("single rows or columns are taken out of it")
                start, _, step = item.indices(axis.length)
                kept[which] = axis.slide(1, step, -start, call.shape[new]).at(new)
        new += isinstance(item, slice)
        old += 1
    return with_axes(call.source, (kept.get(0), kept.get(1)), call.label)


def _softmax(call: Call) -> State:
    default = call.named.get("dim") if call.module is not None else call.argument("dim", 1)
    dim = None if default is None else int(default) % len(call.shape)
    context = any(a is not None and a.length > 1 and (dim is None or a.dim == dim) for a in call.source.axes)
    return with_axes(call.source, call.source.axes, call.label, context)


def _linear(call: Call) -> State:
    """Products with matrices: harmless along channels, otherwise every position enters."""
    last = len(call.shapes[0]) - 1
    touched = [a is not None and (a.dim == last or call.name != "linear") for a in call.source.axes]
    if not any(touched) and len(call.sources) == 1:
        return call.source
    return everywhere(call.label)


def _layer_norm(call: Call) -> State:
    shape = call.named.get("normalized_shape") or call.argument("normalized_shape", 1) or ()
    rank = len(call.shape)
    plain = call.module is None or type(call.module) is nn.LayerNorm
    # Subclasses that normalise the channels of [N, C, h, w] permute inside.
    inside = range(rank - len(shape), rank) if plain or len(shape) > 1 else ()
    context = any(a is not None and a.length > 1 and a.dim in inside for a in call.source.axes)
    return with_axes(call.source, call.source.axes, call.label, context)


def _map_norm(call: Call) -> State:
    tracked = isinstance(call.module, nn.modules.instancenorm._InstanceNorm) and call.module.track_running_stats
    return with_axes(call.source, call.source.axes, call.label, context=not tracked)


def _normalize(call: Call) -> State:
    dim = int(call.argument("dim", 2, 1)) % len(call.shape)
    context = any(a is not None and a.length > 1 and a.dim == dim for a in call.source.axes)
    return with_axes(call.source, call.source.axes, call.label, context)


def _expand(call: Call) -> State:
    return union(call.sources[:1], call.shape, call.shapes[:1])


_RULES: dict[str, Callable[[Call], State]] = {
    **dict.fromkeys(_COMBINING, _combine),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(_REDUCING, _reduce),
    "stack": _stack,
    **dict.fromkeys(_PARTS, _parts),
    "narrow": _narrow,
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_MIXING, _linear),
    **dict.fromkeys(("permute", "transpose", "swapaxes", "Permute", "t", "T", "mT"), _permute),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "lp_pool2d"), sliding.pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), sliding.adapt),
    **dict.fromkeys(("interpolate", "upsample"), sliding.resize),
    **dict.fromkeys(("softmax", "log_softmax", "softmin"), _softmax),
    **dict.fromkeys(("group_norm", "instance_norm", "map_norm"), _map_norm),
    **dict.fromkeys(("expand", "repeat"), _expand),
    operator.getitem.__name__: _index,
    "softmax2d": lambda call: call.source,
    "glu": _normalize,
    "normalize": _normalize,
    "layer_norm": _layer_norm,
    "conv2d": sliding.convolve,
    "conv_transpose2d": sliding.transposed,
    "pad": sliding.pad,
    "pixel_shuffle": sliding.shuffle,
    "pixel_unshuffle": sliding.unshuffle,
}
