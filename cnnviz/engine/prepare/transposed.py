"""The gradient of a convolution by its input, with weights packed once for oneDNN.

With y = W * x the gradient at x is the transposed convolution of the gradient g at y. Autograd calls it with the weight
as the network holds it, which oneDNN orders anew at every call. Here it is one of

    stride 1            a convolution of g with the flipped weight, input and output channels exchanged
    kernel 1, stride s  a convolution of g with the exchanged weight, put at every s-th position
    few input channels  a convolution with the taps of each of the s x s phases as channels of their own: oneDNN's
                        transposed convolution computes 16 channels of which an image needs three
    all others          oneDNN's transposed convolution

which agree but for the order of sums (Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnviz.engine.prepare.pack import REMEMBERED, PackedConv, held_once, tells_orders

# Up to how many input channels the phases of a stride are computed side by side.
_FEW = 4
# Channels of a group from which on bf16 pays: below, its transposed kernels are many times slower than those of fp32.
_WIDE = 16

# (gradient [N, O, h, w], size (H, W) of the input, what to add it to or None) -> [N, C, H, W]
Transposed = Callable[[Tensor, tuple[int, int], "Tensor | None"], Tensor]


class TransposedConv:
    """W^T g of a convolution W.

    Args:
        conv: The convolution; its weight is copied.
        packed: The same, packed, which knows its padding.
        dtype: What it is computed in (bf16: products are summed in float32); groups of few channels in float32.
        shape: Of a gradient [N, O, h, w], for which the weight is ordered first.
    """

    def __init__(self, conv: nn.Conv2d, packed: PackedConv, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        narrow = min(conv.in_channels, conv.out_channels) // conv.groups < _WIDE and conv.groups > 1
        self.dtype = torch.float32 if narrow else dtype
        self._packed = packed
        self._form = _form(conv)(conv, conv.weight.detach().to(self.dtype), shape)

    def __call__(self, gradient: Tensor, size: tuple[int, int], into: Tensor | None = None) -> Tensor:
        """The gradient at an input of ``size``, float32; added to ``into``, which is overwritten, if that is given."""
        before = self._before(size)
        if self.dtype == gradient.dtype:
            made: Tensor = self._form(gradient, size, before, into)
            return made
        found = self._form(gradient.to(self.dtype), size, before, None).to(gradient.dtype)
        return found if into is None else into.add_(found)

    @property
    def by_tiles(self) -> bool:
        """As of a packed convolution."""
        return any(isinstance(each, PackedConv) and each.by_tiles for each in vars(self._form).values())

    def _before(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of padding before an input of ``size``."""
        if not self._packed.same:
            rows, columns = self._packed.geometry[0]
            return rows, columns
        return self._packed.same_padding(size[0], 0)[0], self._packed.same_padding(size[1], 1)[0]


def _form(conv: nn.Conv2d) -> Any:
    """The way to compute it."""
    known = type(conv).__name__ != "Conv2dSame"
    padding: tuple[int, ...] = (0, 0) if not known or isinstance(conv.padding, str) else conv.padding
    left = [d * (k - 1) - p for k, d, p in zip(conv.kernel_size, conv.dilation, padding, strict=True)]
    if set(conv.stride) == {1} and known and min(left) >= 0:
        return _Flipped
    if set(conv.kernel_size) == {1} and conv.groups == 1 and not any(padding) and known:
        return _Sown
    if conv.in_channels <= _FEW and conv.groups == 1 and set(conv.dilation) == {1}:
        return _Phases
    return _General


def _exchanged(weight: Tensor, groups: int) -> Tensor:
    """Input and output channels of each group exchanged."""
    outer, inner, rows, columns = weight.shape
    grouped = weight.view(groups, outer // groups, inner, rows, columns).transpose(1, 2)
    return grouped.reshape(groups * inner, outer // groups, rows, columns)


def _packed(
    weight: Tensor, shape: tuple[int, ...] | None, groups: int = 1, padding: Any = 0, dilation: Any = 1
) -> PackedConv:
    """A packed convolution with stride 1 for an input of this shape, that may add to what is there."""
    outer, inner = weight.shape[:2]
    kernel: Any = tuple(weight.shape[2:])
    with torch.device("meta"):
        conv = nn.Conv2d(inner * groups, outer, kernel, 1, padding, dilation, groups, bias=False)
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    packed = PackedConv(conv, weight.dtype, shape)
    packed.in_place = True
    return packed


class _Flipped:
    def __init__(self, conv: nn.Conv2d, weight: Tensor, shape: tuple[int, ...]) -> None:
        assert not isinstance(conv.padding, str)
        left = [d * (k - 1) - p for k, d, p in zip(conv.kernel_size, conv.dilation, conv.padding, strict=True)]
        weight = _exchanged(weight, conv.groups).flip(2, 3)
        self._conv = _packed(weight, shape, conv.groups, tuple(left), conv.dilation)

    def __call__(self, gradient: Tensor, size: tuple[int, int], before: tuple[int, int], into: Tensor | None) -> Tensor:
        found: Tensor = self._conv(gradient, into)
        return found


class _Sown:
    def __init__(self, conv: nn.Conv2d, weight: Tensor, shape: tuple[int, ...]) -> None:
        self._conv, self._stride = _packed(_exchanged(weight, 1), shape), conv.stride

    def __call__(self, gradient: Tensor, size: tuple[int, int], before: tuple[int, int], into: Tensor | None) -> Tensor:
        dense: Tensor = self._conv(gradient)
        if into is None:
            shape = (*dense.shape[:2], *size)
            into = torch.empty(shape, dtype=dense.dtype, memory_format=torch.channels_last).zero_()
            into[:, :, :: self._stride[0], :: self._stride[1]] = dense
            return into
        into[:, :, :: self._stride[0], :: self._stride[1]] += dense
        return into


class _Phases:
    """dz/dx[s i + a] = sum over t of w[a + p - s t] g[i + t]: for each phase a a convolution of stride 1."""

    def __init__(self, conv: nn.Conv2d, weight: Tensor, shape: tuple[int, ...]) -> None:
        self._weight, self._stride = weight, conv.stride
        self._bound: dict[tuple[int, int], tuple[PackedConv, list[range]]] = {}

    def __call__(self, gradient: Tensor, size: tuple[int, int], before: tuple[int, int], into: Tensor | None) -> Tensor:
        if before not in self._bound:
            self._bound[before] = self._of_phases(before)
        conv, taps = self._bound[before]
        stride, channels = self._stride, self._weight.shape[1]
        cells = [-(-length // step) for length, step in zip(size, stride, strict=True)]
        # As far as the taps reach beyond the gradient, on either side.
        reach = [
            max(-t.start, count + t.stop - 1 - have, 0)
            for t, count, have in zip(taps, cells, gradient.shape[2:], strict=True)
        ]
        found = conv.convolve(gradient, None, reach)
        top, left = (t.start + r for t, r in zip(taps, reach, strict=True))
        found = found[:, :, top : top + cells[0], left : left + cells[1]]
        found = found.unflatten(1, (channels, *stride)).permute(0, 1, 4, 2, 5, 3)
        found = found.reshape(len(gradient), channels, cells[0] * stride[0], cells[1] * stride[1])
        found = found[:, :, : size[0], : size[1]]
        return found if into is None else into.add_(found)

    def _of_phases(self, before: tuple[int, int]) -> tuple[PackedConv, list[range]]:
        outer, inner, *kernel = self._weight.shape
        (rows, row_taps), (columns, column_taps) = (
            _taps(k, s, p) for k, s, p in zip(kernel, self._stride, before, strict=True)
        )
        weight = self._weight.new_zeros(inner, *self._stride, outer, len(row_taps), len(column_taps))
        for a, t, k in rows:
            for b, u, m in columns:
                weight[:, a, b, :, t - row_taps.start, u - column_taps.start] = self._weight[:, :, k, m].T
        return _packed(weight.flatten(0, 2), None), [row_taps, column_taps]


def _taps(kernel: int, stride: int, before: int) -> tuple[list[tuple[int, int, int]], range]:
    """(phase, offset in the gradient, place in the kernel) of each tap of an axis, and the range of the offsets."""
    found = [((k - before) % stride, (before - k + (k - before) % stride) // stride, k) for k in range(kernel)]
    offsets = [t for _, t, _ in found]
    return found, range(min(offsets), max(offsets) + 1)


class _General:
    def __init__(self, conv: nn.Conv2d, weight: Tensor, shape: tuple[int, ...]) -> None:
        self._weight = weight
        self._rest: tuple[list[int], list[int], int] = (list(conv.stride), list(conv.dilation), conv.groups)
        self._ordered: dict[Any, Tensor] = {}

    def __call__(self, gradient: Tensor, size: tuple[int, int], before: tuple[int, int], into: Tensor | None) -> Tensor:
        stride, dilation, groups = self._rest
        # What the output's size leaves open; less than zero where more is padded behind than before.
        spans = [
            (n - 1) * s + (k - 1) * d + 1 - 2 * p
            for n, s, k, d, p in zip(gradient.shape[2:], stride, self._weight.shape[2:], dilation, before, strict=True)
        ]
        open_ = [length - span for length, span in zip(size, spans, strict=True)]
        geometry = (list(before), open_, stride, dilation, groups)
        weight = self._weight_for(tuple(gradient.shape), geometry)
        found: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
            gradient, weight, None, *geometry, "none", [], ""
        )
        return found if into is None else into.add_(found)

    def _weight_for(self, shape: tuple[int, ...], geometry: Any) -> Tensor:
        key = (torch.get_num_threads(), *((shape, *map(str, geometry[:2])) if tells_orders() else ()))
        found = self._ordered.get(key)
        if found is None:
            order: Any = torch.ops.mkldnn._reorder_convolution_transpose_weight
            found = held_once(order(self._weight, *geometry, list(shape)), list(self._ordered.values()))
            if len(self._ordered) >= REMEMBERED:
                self._ordered = {}
            self._ordered[key] = found
        return found
