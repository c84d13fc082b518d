"""Fields of view behind what slides over rows and columns: convolution, pooling, padding, enlargement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnviz.models.graph.operations import Operation
from cnnviz.models.receptive_field.axes import Axis, State, everywhere, unknown, with_axes


@dataclass(frozen=True, eq=False)
class Call:
    """One operation on tensors that come from the image.

    Attributes:
        operation: What it is. Its arguments have tensors without values, on the meta device, for those of the image.
        sources: States of the tensors from the image, in order.
        shapes: Their shapes.
        shape: Shape of the result; empty for a tuple.
        label: What messages call it.
    """

    operation: Operation
    sources: Sequence[State]
    shapes: Sequence[tuple[int, ...]]
    shape: tuple[int, ...]
    label: str

    @property
    def source(self) -> State:
        return self.sources[0]

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments by name."""
        return self.operation.arguments


def _on_map(call: Call, each: Callable[[Axis, int, int], Axis | State]) -> State:
    """Apply a rule (axis, 0 or 1, new length) to rows and columns of [..., h, w]."""
    new: list[Axis | None] = []
    last = len(call.shapes[0])
    for which, axis in enumerate(call.source.axes):
        if axis is None:
            new.append(None)
            continue
        if axis.dim != last - 2 + which:
            return unknown(f"{call.label} does not slide over rows and columns")
        result = each(axis, which, call.shape[-2 + which])
        if isinstance(result, State):
            return result
        new.append(result)
    context = len(call.sources) > 1  # weights that are computed from the image
    return with_axes(call.source, new, call.label, context)


def _unexplained(call: Call, axis: Axis, length: int) -> State:
    return unknown(f"{call.label} returns {length} units of {axis.length}, which its options do not explain")


def convolve(call: Call) -> State:
    kernel, stride, dilation, padding = (call.given[n] for n in ("kernel_size", "stride", "dilation", "padding"))
    if call.given["padding_mode"] == "circular":
        return unknown(f"{call.label} pads circularly: units at one border see the other")

    def each(axis: Axis, which: int, length: int) -> Axis | State:
        extent, step = dilation[which] * (kernel[which] - 1) + 1, stride[which]
        if isinstance(padding, str):
            before, total = (extent - 1) // 2, extent - 1
        else:
            before = padding[which]
            total = 2 * before
        if (axis.length + total - extent) // step + 1 != length:
            # Convolutions that pad by themselves as TensorFlow does: half of what is missing, the larger half behind.
            missing = (length - 1) * step + extent - axis.length
            if length != -(-axis.length // step) or total:
                return _unexplained(call, axis, length)
            before = max(missing, 0) // 2
        return axis.slide(extent, step, before, length)

    return _on_map(call, each)


def pool(call: Call) -> State:
    kernel, stride = call.given["kernel_size"], call.given["stride"]
    dilation, padding = call.given.get("dilation", (1, 1)), call.given.get("padding", (0, 0))

    def each(axis: Axis, which: int, length: int) -> Axis | State:
        extent, before = dilation[which] * (kernel[which] - 1) + 1, padding[which]
        sizes = axis.length + 2 * before - extent
        if length not in (sizes // stride[which] + 1, -(-sizes // stride[which]) + 1):
            return _unexplained(call, axis, length)
        return axis.slide(extent, stride[which], before, length)

    return _on_map(call, each)


def adapt(call: Call) -> State:
    whole = False

    def each(axis: Axis, which: int, length: int) -> Axis | State:
        nonlocal whole
        if axis.length % length:
            return unknown(f"{call.label} makes {length} units of {axis.length}: their fields differ in size")
        whole = whole or (length == 1 and axis.length > 1)
        share = axis.length // length
        return axis.slide(share, share, 0, length)

    state = _on_map(call, each)
    return with_axes(state, state.axes, call.label, whole) if not state.unknown else state


def pad(call: Call) -> State:
    amounts = [int(amount) for amount in call.given["pad"]]
    if call.given["mode"] == "circular":
        return unknown(f"{call.label} pads circularly: units at one border see the other")
    new: list[Axis | None] = []
    for axis in call.source.axes:
        place = -1 if axis is None else 2 * (len(call.shape) - 1 - axis.dim)
        if axis is not None and place < len(amounts):
            axis = axis.slide(1, 1, amounts[place], call.shape[axis.dim])
        new.append(axis)
    return with_axes(call.source, new, call.label)


def resize(call: Call) -> State:
    mode = call.given["mode"]
    reach = {"nearest": 0, "nearest-exact": 0, "bilinear": 1, "bicubic": 2}.get(mode)

    def each(axis: Axis, which: int, length: int) -> Axis | State:
        if length == axis.length:
            return axis
        if axis.length == 1:
            return everywhere(call.label)
        factor = length // axis.length
        if reach is None or length % axis.length or (reach and call.given["align_corners"]):
            return unknown(f"{call.label} makes {length} units of {axis.length} ({mode}), which is no plain repetition")
        if not reach:
            return axis.spread([(0, 0)] * factor, length)
        # Centres are aligned: output o lies at (o + 1/2) / factor - 1/2 of the input.
        phases = []
        for o in range(factor):
            cell, between = divmod(2 * o + 1 - factor, 2 * factor)
            phases.append((cell - reach + 1, cell + reach) if between else (cell, cell))
        return axis.spread(phases, length)

    return _on_map(call, each)


def transposed(call: Call) -> State:
    kernel, stride, dilation, padding = (call.given[n] for n in ("kernel_size", "stride", "dilation", "padding"))

    def each(axis: Axis, which: int, length: int) -> Axis | State:
        # Output o gets input i where o = i stride - padding + d, d = 0, dilation, ... , dilation (kernel - 1).
        step = stride[which]
        phases = []
        for o in range(step):
            places = [o + padding[which] - dilation[which] * k for k in range(kernel[which])]
            cells = [place // step for place in places if place % step == 0]
            phases.append((min(cells), max(cells)) if cells else (0, 0))
        return axis.spread(phases, length)

    return _on_map(call, each)


def shuffle(call: Call) -> State:
    factor = int(call.given["upscale_factor"])
    return _on_map(call, lambda axis, which, length: axis.spread([(0, 0)] * factor, length))


def unshuffle(call: Call) -> State:
    factor = int(call.given["downscale_factor"])
    return _on_map(call, lambda axis, which, length: axis.slide(factor, factor, 0, length))
