"""What each operation of a network does to the field of view of its units.

Operations that are not known here give no answer rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from cnnviz.models.graph.operation_table import Kind
from cnnviz.models.receptive_field import sliding
from cnnviz.models.receptive_field.axes import Axis, State, everywhere, reshaped, union, unknown, with_axes
from cnnviz.models.receptive_field.sliding import Call

# By which parameter operations say into what they cut.
_CUTS = ("chunks", "split_size_or_sections", "split_sizes", "indices_or_sections")


def apply(call: Call) -> State:
    """The state of what an operation returns."""
    known = next((s.unknown for s in call.sources if s.unknown), "")
    if known:
        return unknown(known)
    if call.operation.kind != "index" and any(source.parts for source in call.sources):
        return unknown("it is cut along rows or columns")
    rule = _BY_NAME.get(call.operation.name) or _BY_KIND.get(call.operation.kind)
    if rule is not None:
        return rule(call)
    if not any(source.placed for source in call.sources):
        return everywhere(call.sources[0].lost)
    return unknown(f"it is behind {call.label}, whose reach is not known")


def _combine(call: Call) -> State:
    return union(call.sources, call.shape, call.shapes)


def _cat(call: Call) -> State:
    dim = int(call.given["dim"])
    if any(axis is not None and axis.dim == dim for source in call.sources for axis in source.axes):
        return unknown("its parts are joined along rows or columns")
    return union(call.sources, call.shape, call.shapes)


def _stack(call: Call) -> State:
    dim = int(call.given["dim"])
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
    order = call.given["dims"]
    moved = [None if axis is None else axis.at(order.index(axis.dim)) for axis in call.source.axes]
    return with_axes(call.source, moved, call.label)


def _reduce(call: Call) -> State:
    """Mean, maximum, norm along dimensions; over rows or columns it is a kernel as large as the map."""
    rank = len(call.shapes[0])
    dims = call.given["dim"]
    gone = set(range(rank) if dims is None else dims)
    keep = bool(call.given["keepdim"]) if dims is not None else False
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
    dim = int(call.given["dim"])
    across = any(axis is not None and axis.dim == dim for axis in call.source.axes)
    if across and call.operation.name == "unbind":
        return unknown("it is cut along rows or columns")
    if across:
        return replace(call.source, parts=(dim, _lengths(call, call.shapes[0][dim])))
    if call.operation.name != "unbind":
        return call.source
    lower = [None if a is None else a.at(a.dim - (a.dim > dim)) for a in call.source.axes]
    return with_axes(call.source, lower, call.label)


def _lengths(call: Call, length: int) -> tuple[int, ...]:
    """How long the parts of a dimension are, found out by cutting one of that length."""
    name, how = call.operation.name, next(call.given[key] for key in _CUTS if key in call.given)
    cut = torch.tensor_split if name == "tensor_split" else torch.chunk if "chunk" in name else torch.split
    return tuple(len(part) for part in cut(torch.empty(length, device="meta"), how))


def _narrow(call: Call) -> State:
    dim, start, length = (int(call.given[name]) for name in ("dim", "start", "length"))
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
        index = range(len(lengths))[call.given["index"]]
        return _cut_out(call.source, dim, sum(lengths[:index]), lengths[index], call.label)
    index = call.given["index"]
    items = index if isinstance(index, tuple) else (index,)
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
    dim = call.given["dim"]
    context = any(a is not None and a.length > 1 and (dim is None or a.dim == dim) for a in call.source.axes)
    return with_axes(call.source, call.source.axes, call.label, context)


def _linear(call: Call) -> State:
    """Products with matrices: harmless along channels, otherwise every position enters."""
    last = len(call.shapes[0]) - 1
    touched = [a is not None and (a.dim == last or call.operation.kind != "linear") for a in call.source.axes]
    if not any(touched) and len(call.sources) == 1:
        return call.source
    return everywhere(call.label)


def _layer_norm(call: Call) -> State:
    shape, rank = call.given["normalized_shape"], len(call.shape)
    # Subclasses that normalise the channels of [N, C, h, w] permute inside.
    inside = range(rank - len(shape), rank) if not call.operation.subclassed or len(shape) > 1 else ()
    context = any(a is not None and a.length > 1 and a.dim in inside for a in call.source.axes)
    return with_axes(call.source, call.source.axes, call.label, context)


def _map_norm(call: Call) -> State:
    return with_axes(call.source, call.source.axes, call.label, context=call.given.get("use_input_stats", True))


def _normalize(call: Call) -> State:
    dim = int(call.given["dim"])
    context = any(a is not None and a.length > 1 and a.dim == dim for a in call.source.axes)
    return with_axes(call.source, call.source.axes, call.label, context)


def _gated(call: Call) -> State:
    if any(axis is not None and axis.dim == call.given["dim"] for axis in call.source.axes):
        return unknown("it is cut along rows or columns")
    return call.source


def _expand(call: Call) -> State:
    return union(call.sources[:1], call.shape, call.shapes[:1])


Rule = Callable[[Call], State]

_BY_KIND: dict[Kind, Rule] = {
    **dict.fromkeys(
        ("addition", "subtraction", "product", "division", "pointwise", "activation", "identity", "shuffling"), _combine
    ),
    "concatenation": _cat,
    "stack": _stack,
    "split": _parts,
    "index": _index,
    "reshaping": _reshape,
    "permutation": _permute,
    "expansion": _expand,
    "reduction": _reduce,
    "softmax": _softmax,
    "gated": _gated,
    **dict.fromkeys(("linear", "matrix_product", "attention"), _linear),
    "padding": sliding.pad,
}
# Where operations of a kind differ in what they reach.
_BY_NAME: dict[str, Rule] = {
    "conv2d": sliding.convolve,
    "conv_transpose2d": sliding.transposed,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "lp_pool2d"), sliding.pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), sliding.adapt),
    **dict.fromkeys(("batch_norm", "local_response_norm", "expand_as"), _combine),
    **dict.fromkeys(("group_norm", "instance_norm"), _map_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "normalize": _normalize,
    "narrow": _narrow,
    "interpolate": sliding.resize,
    "pixel_shuffle": sliding.shuffle,
    "pixel_unshuffle": sliding.unshuffle,
}
