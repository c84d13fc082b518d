"""Modules in the place of onnx2torch's: they compute the same, in plain calls of torch, with numbers for tensors.

onnx2torch looks at values (a shape that is a tensor, whether a tensor is of integers), which a symbolic tracer cannot
do, so that such modules would stay opaque. What these hold was computed while the network was converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Reshape(nn.Module):
    """``torch.reshape``; 0 stands for the length of the same axis of the input, -1 for what is left."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.shape[1:] == (-1,) and self.shape[0] == 0:
            return torch.flatten(x, 1)
        return torch.reshape(x, tuple(size or x.shape[axis] for axis, size in enumerate(self.shape)))


class Resize(nn.Module):
    """``F.interpolate`` to a size, or by factors."""

    def __init__(
        self, size: Sequence[int] | None, factors: Sequence[float] | None, mode: str, align_corners: bool | None
    ) -> None:
        super().__init__()
        self.size = None if size is None else tuple(size)
        self.factors = None if factors is None else tuple(factors)
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, self.factors, self.mode, self.align_corners)


class ResizeLike(nn.Module):
    """``F.interpolate`` to the height and width of another map."""

    def __init__(self, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return F.interpolate(x, other.shape[2:], mode=self.mode, align_corners=self.align_corners)


class Pad(nn.Module):
    """``F.pad``."""

    def __init__(self, amounts: Sequence[int], mode: str, value: float) -> None:
        super().__init__()
        self.amounts, self.mode, self.value = tuple(amounts), mode, value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.amounts, self.mode, self.value)


class Index(nn.Module):
    """``x[index]``: slices and single positions."""

    def __init__(self, index: Sequence[slice | int]) -> None:
        super().__init__()
        self.index = tuple(index)

    def forward(self, x: Tensor) -> Tensor:
        return x[self.index]


class Permute(nn.Module):
    """``x.permute``."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Select(nn.Module):
    """``torch.index_select``: positions of one axis, in any order."""

    def __init__(self, axis: int, positions: Tensor) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("positions", positions)

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, self.axis, self.get_buffer("positions"))


class Expand(nn.Module):
    """``x.expand``; -1 leaves the length of an axis as it is."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(self.sizes)


class Reduce(nn.Module):
    """``torch.mean``, ``sum``, ``amax`` or ``amin`` over axes."""

    def __init__(self, name: str, axes: Sequence[int], keep: bool) -> None:
        super().__init__()
        self.name, self.axes, self.keep = name, tuple(axes), keep

    def forward(self, x: Tensor) -> Tensor:
        function: Callable[..., Tensor] = getattr(torch, self.name)
        return function(x, dim=self.axes, keepdim=self.keep)


class Squeeze(nn.Module):
    """``torch.squeeze`` of axes."""

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.squeeze(x, self.axes)


class Unsqueeze(nn.Module):
    """``torch.unsqueeze``, one axis after the other."""

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = torch.unsqueeze(x, axis)
        return x


class Split(nn.Module):
    """``torch.split``."""

    def __init__(self, sizes: Sequence[int], axis: int) -> None:
        super().__init__()
        self.sizes, self.axis = list(sizes), axis

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self.sizes, self.axis)


class Add(nn.Module):
    """``torch.add``."""

    takes_constants = True

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.add(first, second)


class Subtract(nn.Module):
    """``torch.sub``."""

    takes_constants = True

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.sub(first, second)


class Multiply(nn.Module):
    """``torch.mul``."""

    takes_constants = True

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.mul(first, second)


class Divide(nn.Module):
    """Division of floating-point numbers."""

    takes_constants = True

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.div(first, second)


class Clamped(nn.Module):
    """``clamp(scale x + shift, 0, 1)``: ONNX's ``HardSigmoid`` with other numbers than torch's."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x * self.scale + self.shift, 0.0, 1.0)


class Concat(nn.Module):
    """``torch.cat`` of parts of which some have one row for all images."""

    takes_constants = True

    def __init__(self, axis: int, single: Sequence[int]) -> None:
        super().__init__()
        self.axis, self.single = axis, frozenset(single)

    def forward(self, *inputs: Tensor) -> Tensor:
        other = next(x for place, x in enumerate(inputs) if place not in self.single)
        # Not expand: a tracer does not see that a constant is asked for a number of rows that it follows.
        rows = torch.zeros_like(other.narrow(self.axis, 0, 1))
        return torch.cat([rows + x if place in self.single else x for place, x in enumerate(inputs)], self.axis)
