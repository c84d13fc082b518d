"""What takes the place of onnx2torch's modules, by the names of their classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.models.onnx_files import parts
from cnnviz.models.onnx_files.dry_run import Call, Rule

Shape = tuple[int, ...]


def free_shape(given: Sequence[Sequence[int]], inputs: Sequence[Shape], before: int | None) -> Shape | None:
    """The shape of a reshape that holds for any batch: 0 for the length of the same axis of the input, -1 for the rest.

    In memory an image lies behind ``before`` blocks of all images, and a reshape leaves that number as it is. So the
    new axis of the batch is one that begins there, or one in which it is merged with what lies around it.

    Args:
        given: What the network asks for in each run, in ONNX's terms: 0 and -1 mean the same. In the second run, of
            twice as many images, it may still be that of the first.
        inputs: The shape of what is reshaped, in each run.
        before: How many blocks lie before the batch, see :func:`blocks_before`; None where nothing depends on it.

    Returns:
        None where there is no such shape.
    """
    wanted = [_resolved(asked, shape) for asked, shape in zip(given, inputs, strict=True)]
    first = wanted[0]
    if first is None:
        return None
    place = None
    if before is not None:
        place = _place(first, given, before)
        if place is None:
            return None
        wanted[1] = tuple(size * (2 if axis == place else 1) for axis, size in enumerate(first))
    if any(shape is None or len(shape) != len(first) for shape in wanted):
        return None
    if place == 0 and len(first) == 2 and first[0] == inputs[0][0] and before == 1:
        return 0, -1
    return _terms([shape for shape in wanted if shape is not None], inputs)


def blocks_before(one: Tensor, two: Tensor) -> int | None:
    """How many blocks of all images lie in memory before that of the first image.

    Args:
        one: A value for some images.
        two: The same for these and as many others behind them; one axis is twice as long.

    Returns:
        The lengths of the axes before that of the batch multiplied, and of what is merged with it in front of it; None
        where no axis differs.
    """
    axis = next((axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b), None)
    if axis is None:
        return None
    length, before = one.shape[axis], math.prod(one.shape[:axis])
    limit = 1e-3 * float(one.abs().max())
    for outer in (outer for outer in range(1, length + 1) if length % outer == 0):
        halves = two.reshape(before * outer, 2, -1)
        if torch.allclose(halves[:, 0].reshape(-1), one.reshape(-1), rtol=1e-3, atol=limit):
            return before * outer
    return before


def _terms(wanted: Sequence[Shape], inputs: Sequence[Shape]) -> Shape | None:
    """Each axis as a number, or as copied, or (one at most) as what is left."""
    shape: list[int] = []
    for axis, sizes in enumerate(zip(*wanted, strict=True)):
        copied = all(axis < len(each) and each[axis] == size for each, size in zip(inputs, sizes, strict=True))
        shape.append(sizes[0] if len(set(sizes)) == 1 else 0 if copied else -1)
    if shape.count(-1) > 1:
        return None
    if -1 not in shape and 0 in shape:
        shape[shape.index(0)] = -1
    return tuple(shape)


def _resolved(asked: Sequence[int], shape: Shape) -> Shape | None:
    sizes = [shape[axis] if size == 0 and axis < len(shape) else size for axis, size in enumerate(asked)]
    if -1 in sizes:
        known = -math.prod(sizes)
        if not known or math.prod(shape) % known:
            return None
        sizes[sizes.index(-1)] = math.prod(shape) // known
    return tuple(sizes)


def _place(shape: Shape, given: Sequence[Sequence[int]], before: int) -> int | None:
    """The new axis of the batch."""
    starts = [math.prod(shape[:axis]) for axis in range(len(shape))]
    found = [new for new, start in enumerate(starts) if before % start == 0 and start * shape[new] % before == 0]
    computed = [new for new in found if 0 < given[0][new] < given[1][new]]  # the network takes it from its input
    alone = [new for new in found if starts[new] == before and shape[new] == 1]
    left = [new for new in found if given[0][new] == -1]
    begun = [new for new in found if starts[new] == before and len(shape) > 2]  # heads of an attention, not rows
    return next(iter((*computed, *alone, *left, *begun, *found)), None)


def _reshape(call: Call) -> nn.Module | None:
    given = call.given(1)
    before = None if given is None else blocks_before(call.inputs[0][0], call.inputs[1][0])
    shape = None if given is None else free_shape(given, call.shapes(), before)
    return None if shape is None else parts.Reshape(shape)


def _resize(call: Call) -> nn.Module | tuple[nn.Module, fx.Node] | None:
    module: Any = call.module
    shapes, scales, sizes = call.shapes(), call.fixed(2), call.given(3)
    mode = {("linear", 4): "bilinear", ("cubic", 4): "bicubic", ("linear", 3): "linear"}.get(
        (module.onnx_mode, len(shapes[0])), module.onnx_mode
    )
    if sizes and sizes[0]:
        wanted = [tuple(size[2:]) for size in sizes]
        if all(size == wanted[0] for size in wanted):
            return parts.Resize(wanted[0], None, mode, module.align_corners)
        like = next((node for node, sizes in call.maps.items() if list(sizes) == wanted), None)
        if like is not None:
            return parts.ResizeLike(mode, module.align_corners), like
        factors = {
            tuple(new / old for new, old in zip(size, shape[2:], strict=True))
            for size, shape in zip(wanted, shapes, strict=True)
        }
        return parts.Resize(None, factors.pop(), mode, module.align_corners) if len(factors) == 1 else None
    if scales and scales[:2] == [1, 1]:
        return parts.Resize(None, scales[2:], mode, module.align_corners)
    return None


def _pad(call: Call) -> nn.Module | None:
    amounts, value = call.fixed(1), call.fixed(2) if len(call.computed) > 2 else 0.0
    if amounts is None or isinstance(value, list):
        return None
    half = len(amounts) // 2
    pairs = [(amounts[axis], amounts[half + axis]) for axis in reversed(range(half))]
    while len(pairs) > 2 and pairs[-1] == (0, 0):  # torch counts from the last axis, and only those that it pads
        pairs.pop()
    mode: Any = call.module.mode
    return parts.Pad([amount for pair in pairs for amount in pair], mode, float(value or 0.0))


def _slice(call: Call) -> nn.Module | None:
    starts, ends = call.fixed(1), call.fixed(2)
    axes = call.fixed(3) if len(call.computed) > 3 and call.inputs[0][3] is not None else None
    steps = call.fixed(4) if len(call.computed) > 4 and call.inputs[0][4] is not None else None
    if starts is None or ends is None:
        return None
    rank = len(call.shapes()[0])
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if min(steps) < 1:
        return None
    index: list[slice | int] = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if end >= (1 << 31) - 1 else end, step)
    return parts.Index(index)


def _gather(call: Call) -> nn.Module | None:
    positions, module = call.fixed(1), call.module
    if positions is None or not call.computed[0]:
        return None
    rank = len(call.shapes()[0])
    axis = int(module._axis) % rank  # type: ignore[arg-type]
    if isinstance(positions, int):
        return parts.Index([slice(None)] * axis + [positions])
    if not positions or isinstance(positions[0], list):
        return None
    length = call.shapes()[0][axis]
    return parts.Select(axis, torch.tensor([position % length for position in positions]))


def _expand(call: Call) -> nn.Module | None:
    given = call.given(1)
    if given is None:
        return None
    shapes = call.shapes()
    rank = max(len(given[0]), len(shapes[0]))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    asked = [[1] * (rank - len(each)) + list(each) for each in given]
    sizes = []
    for axis in range(rank):
        wanted = {max(each[axis], shape[axis]) for each, shape in zip(asked, padded, strict=True)}
        kept = all(each[axis] in (1, shape[axis]) for each, shape in zip(asked, padded, strict=True))
        kept = kept or len({shape[axis] for shape in padded}) > 1  # the batch is there already
        if not kept and len(wanted) > 1:
            return None
        sizes.append(-1 if kept and axis >= rank - len(shapes[0]) else wanted.pop())
    return parts.Expand(sizes)


def _reduce(call: Call) -> nn.Module | None:
    module: Any = call.module
    names = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}
    if module.operation_type not in names:
        return None
    axes = module.axes or range(len(call.shapes()[0]))
    return parts.Reduce(names[module.operation_type], axes, module.keepdims)


def _sum(call: Call) -> nn.Module | None:
    module: Any = call.module
    axes = call.fixed(1) if len(call.computed) > 1 else getattr(module, "_axes", None)
    return parts.Reduce("sum", axes, bool(module._keepdims)) if axes else None


def _squeeze(call: Call) -> nn.Module | None:
    shapes = call.shapes()
    axes = call.fixed(1) if len(call.computed) > 1 else getattr(call.module, "axes", None)
    if not axes:  # all of length 1, but never the batch
        axes = [axis for axis, size in enumerate(shapes[0]) if size == 1 and all(s[axis] == 1 for s in shapes)]
    return parts.Squeeze(sorted(axis % len(shapes[0]) for axis in axes))


def _unsqueeze(call: Call) -> nn.Module | None:
    axes = call.fixed(1) if len(call.computed) > 1 else getattr(call.module, "_axes", None)
    if not axes:
        return None
    rank = len(call.shapes()[0]) + len(axes)
    return parts.Unsqueeze(sorted(axis % rank for axis in axes))


def _split(call: Call) -> nn.Module | None:
    module: Any = call.module
    lengths = {shape[module.axis] for shape in call.shapes()}
    sizes = call.fixed(1) if len(call.computed) > 1 else getattr(module, "split", None)
    if sizes is None and len(lengths) == 1:
        length = lengths.pop()
        each = -(-length // module.num_splits)  # the last one is shorter
        sizes = [min(each, length - start) for start in range(0, length, each)]
    return None if sizes is None else parts.Split(sizes, module.axis)


def _arithmetic(call: Call) -> nn.Module | None:
    module: Any = call.module
    if module.broadcast == 1 and module.axis is not None:  # as opset 6 aligned axes
        return None
    if module.math_op_function.__name__ == "_onnx_div":
        floats = all(isinstance(value, Tensor) and value.is_floating_point() for value in call.inputs[0])
        return parts.Divide() if floats else None
    return {torch.add: parts.Add, torch.sub: parts.Subtract, torch.mul: parts.Multiply}[module.math_op_function]()


def _global_average(call: Call) -> nn.Module | None:
    return nn.AdaptiveAvgPool2d(1) if len(call.shapes()[0]) == 4 else None


def _hard_sigmoid(call: Call) -> nn.Module | None:
    module: Any = call.module
    if math.isclose(module.alpha, 1 / 6, rel_tol=1e-5) and module.beta == 0.5:
        return nn.Hardsigmoid()
    return parts.Clamped(module.alpha, module.beta)


def _old_softmax(call: Call) -> nn.Module | None:
    """Before opset 13 a softmax is over all axes from one on."""
    module: Any = call.module
    shapes = call.shapes()
    axis = module.axis % len(shapes[0])
    if any(size != 1 for shape in shapes for size in shape[axis + 1 :]):
        return None
    return nn.LogSoftmax(axis) if module.is_log else nn.Softmax(axis)


def _prelu(call: Call) -> nn.Module | None:
    slope = call.inputs[0][1]
    if call.computed[1] or slope.numel() not in (1, call.shapes()[0][1]) or any(s != 1 for s in slope.shape[1:]):
        return None
    module = nn.PReLU(slope.numel())
    module.weight.data = slope.reshape(-1).clone()
    return module


def _matmul(call: Call) -> nn.Module | None:
    weight = call.inputs[0][1]
    if call.computed != (True, False) or weight.dim() != 2:
        return None
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    module.weight.data = weight.t().contiguous()
    return module


def _dropout(call: Call) -> nn.Module | None:
    ratio = call.fixed(1) if len(call.computed) > 1 else 0.5
    return nn.Dropout(0.5 if not isinstance(ratio, float) else ratio)


def _concat(call: Call) -> nn.Module | None:
    """Where one part has one row for all images, as a constant has (a class token)."""
    counts, rank = [each[0].shape[0] for each in zip(*call.inputs[1:2], strict=True)], len(call.shapes()[0])
    axis: Any = call.module.axis
    expanded = [place for place, count in enumerate(counts) if count == 1]
    if not expanded or len(expanded) == len(counts) or axis % rank == 0:
        return None
    return parts.Concat(axis, expanded)


RULES: Mapping[str, Rule] = {
    "OnnxReshape": _reshape,
    "OnnxResize": _resize,
    "OnnxPadDynamic": _pad,
    "OnnxSlice": _slice,
    "OnnxGather": _gather,
    "OnnxExpand": _expand,
    "OnnxReduceStaticAxes": _reduce,
    "OnnxReduceSumStaticAxes": _sum,
    "OnnxReduceSumDynamicAxes": _sum,
    "OnnxSqueezeStaticAxes": _squeeze,
    "OnnxSqueezeDynamicAxes": _squeeze,
    "OnnxUnsqueezeStaticAxes": _unsqueeze,
    "OnnxUnsqueezeDynamicAxes": _unsqueeze,
    "OnnxSplit": _split,
    "OnnxSplit13": _split,
    "OnnxBinaryMathOperation": _arithmetic,
    "OnnxGlobalAveragePool": _global_average,
    "OnnxGlobalAveragePoolWithKnownInputShape": _global_average,
    "OnnxHardSigmoid": _hard_sigmoid,
    "OnnxSoftmaxV1V11": _old_softmax,
    "OnnxPReLU": _prelu,
    "OnnxMatMul": _matmul,
    "OnnxDropoutDynamic": _dropout,
    "OnnxConcat": _concat,
}
"""A rule each; what has none keeps onnx2torch's module."""
