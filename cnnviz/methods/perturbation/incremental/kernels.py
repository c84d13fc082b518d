"""Compiled kernels for differences in half precision: one pass over memory for what PyTorch does in several.

``kernels.c`` has them. They are built where there is a C compiler, and used where they then give, on a small example,
what PyTorch gives; elsewhere PyTorch's operations do the same work.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine.prepare.native import Count, Pointer, address, parallel_for
from cnnviz.io.compiler import compiled, source_of
from cnnviz.methods.perturbation.incremental.ops import Axis
from cnnviz.methods.perturbation.incremental.plan import Region

_SOURCE = "kernels.c"
_KINDS = {torch.float32: "", torch.bfloat16: "#define HALF\n"}
_BLOCK = 32  # of channels, as there


class _Patch(ctypes.Structure):
    _fields_ = (
        ("values", Pointer),
        ("since", Count),
        ("height", Count),
        ("width", Count),
        ("tops", Pointer),
        ("lefts", Pointer),
    )


class _Parts(ctypes.Structure):
    _fields_ = (
        ("made", Pointer),
        ("begin", Count),
        ("end", Count),
        ("cols", Count),
        ("height", Count),
        ("width", Count),
        ("channels", Count),
        ("tops", Pointer),
        ("lefts", Pointer),
        ("before", Pointer),
        ("across", Count),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


class _Piece(ctypes.Structure):
    _fields_ = (("patches", _Patch * 2), ("channels", Count), ("first", Count))


class _Join(ctypes.Structure):
    _fields_ = (("parts", _Parts), ("pieces", Pointer), ("count", Count), ("scale", Pointer))


class _Slide(ctypes.Structure):
    _fields_ = (
        ("parts", _Parts),
        ("patch", _Patch),
        ("kernel", Count * 2),
        ("stride", Count * 2),
        ("padding", Count * 2),
        ("weights", Pointer),
        ("clean", Pointer),
        ("largest", Pointer),
        ("size", Count * 2),
    )


@dataclass(frozen=True, eq=False)
class Clipping:
    """An activation that clips to [low, high], and what it is applied to in the clean pass: float32, [H, W, C]."""

    before: Tensor
    low: float
    high: float


class Kernels:
    """The functions of the compiled library, for patches of one precision."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.join, self.convolve, self.pool = library.join, library.convolve, library.pool
        for function in (self.join, self.convolve, self.pool):
            function.argtypes, function.restype = (Pointer, Pointer), None
        self.parallel = parallel_for()


class _Made:
    """What a kernel makes: parts of a map for a group of windows. What it takes is worked out once for a group."""

    def __init__(self, kernels: Kernels, region: Region, channels: int) -> None:
        self.kernels = kernels
        self.windows = len(region.rows) * len(region.cols)
        self.shape = (region.height, region.width, channels)
        self._held: list[Any] = []
        self._parts = _Parts(None, 0, self.windows, len(region.cols), *self.shape)
        self._parts.tops, self._parts.lefts = self._numbers(region.rows), self._numbers(region.cols)

    def _numbers(self, numbers: Sequence[int]) -> int:
        self._held.append((Count * len(numbers))(*numbers))
        return ctypes.addressof(self._held[-1])

    def _place(self, patch: _Patch, region: Region) -> None:
        patch.height, patch.width = region.height, region.width
        patch.tops, patch.lefts = self._numbers(region.rows), self._numbers(region.cols)

    def empty(self, like: Tensor, windows: range | None = None) -> Tensor:
        """Room for all parts, or for those of some windows, of the kind of a patch."""
        return like.new_empty((self.windows if windows is None else len(windows), *self.shape))

    def _fill(self, parts: _Parts, made: Tensor, clipping: Clipping | None, windows: range | None) -> None:
        parts.made = address(made)
        if windows is not None:
            parts.begin, parts.end = windows.start, windows.stop
        if clipping is not None:
            parts.before, parts.across = address(clipping.before), clipping.before.shape[1]
            parts.low, parts.high = clipping.low, clipping.high

    def _lay(self, patch: _Patch, tensor: Tensor, parts: _Parts) -> None:
        """A patch holds all windows, or those that are made."""
        patch.values, patch.since = address(tensor), 0 if len(tensor) == self.windows else parts.begin


class Joining(_Made):
    """Parts put together from patches in one pass over memory.

    With m = m1 + m2 the patches of a piece, zero where none lies, and pieces side by side in the channels, a part is
    clip(p) - clip(p - s m), or s m where nothing is clipped.

    Args:
        kernels: The compiled library.
        region: Where the parts lie on the map.
        pieces: Of each its channels, and where its one or two patches lie.
        scale: s, [all channels], float32; None for 1.
    """

    def __init__(
        self,
        kernels: Kernels,
        region: Region,
        pieces: Sequence[tuple[int, Sequence[Region]]],
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(kernels, region, sum(channels for channels, _ in pieces))
        self._scale = scale
        self._pieces = (_Piece * len(pieces))()
        first = 0
        for piece, (channels, regions) in zip(self._pieces, pieces, strict=True):
            piece.channels, piece.first = channels, first
            first += channels
            for patch, at in zip(piece.patches, regions, strict=False):
                self._place(patch, at)

    def into(
        self,
        made: Tensor,
        patches: Sequence[Sequence[Tensor]],
        clipping: Clipping | None = None,
        windows: range | None = None,
    ) -> Tensor:
        """Fill the parts of all windows, or of some.

        Args:
            made: [windows, h, w, all channels], dense. It may be the one patch of the one piece, or the first of two,
                where that lies as the parts do.
            patches: Of each piece its patches [windows, h, w, channels], dense: of all windows or of those.
            clipping: With p.
            windows: Those that are filled.
        """
        # Copies: images in several threads share what was worked out.
        pieces = type(self._pieces).from_buffer_copy(self._pieces)
        given = _Join(self._parts, ctypes.addressof(pieces), len(pieces))
        given.scale = None if self._scale is None else address(self._scale)
        self._fill(given.parts, made, clipping, windows)
        for piece, tensors in zip(pieces, patches, strict=True):
            for patch, tensor in zip(piece.patches, tensors, strict=False):
                self._lay(patch, tensor, given.parts)
        self.kernels.join(ctypes.byref(given), self.kernels.parallel)
        return made


class Sliding(_Made):
    """Parts of what a kernel makes of each channel by itself.

    Args:
        kernels: The compiled library.
        region: Where the parts lie on the result.
        patch: Where the patch lies on what the kernel slides over.
        axes: The kernel.
        channels: Of both.
        weights: Of a convolution: [kernel rows x columns, channels], float32.
    """

    def __init__(
        self,
        kernels: Kernels,
        region: Region,
        patch: Region,
        axes: tuple[Axis, Axis],
        channels: int,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(kernels, region, channels)
        self._slide = _Slide(self._parts)
        self._place(self._slide.patch, patch)
        for i, axis in enumerate(axes):
            self._slide.kernel[i], self._slide.stride[i] = axis.kernel, axis.stride
            self._slide.padding[i] = axis.padding
        if weights is not None:
            blocks = F.pad(weights, (0, -channels % _BLOCK)).unflatten(1, (-1, _BLOCK)).transpose(0, 1).contiguous()
            self._held.append(blocks)
            self._slide.weights = address(blocks)

    def convolved(
        self, made: Tensor, patch: Tensor, clipping: Clipping | None = None, windows: range | None = None
    ) -> Tensor:
        """A convolution, and its activation."""
        given = _Slide.from_buffer_copy(self._slide)
        self._fill(given.parts, made, clipping, windows)
        self._lay(given.patch, patch, given.parts)
        self.kernels.convolve(ctypes.byref(given), self.kernels.parallel)
        return made

    def pooled(self, made: Tensor, patch: Tensor, clean: Tensor, largest: Tensor) -> Tensor:
        """V - max(v - m) over what each place sees. ``clean``: v, [H, W, C], ``largest``: V, both float32."""
        given = _Slide.from_buffer_copy(self._slide)
        given.clean, given.largest = address(clean), address(largest)
        given.size[0], given.size[1] = clean.shape[:2]
        self._fill(given.parts, made, None, None)
        given.parts.across = largest.shape[1]
        self._lay(given.patch, patch, given.parts)
        self.kernels.pool(ctypes.byref(given), self.kernels.parallel)
        return made


@functools.cache
def kernels(dtype: torch.dtype) -> Kernels | None:
    """The kernels for a precision, built at the first call; None where they cannot be built or are wrong."""
    kind = _KINDS.get(dtype)
    if kind is None:
        return None
    library = compiled(kind + source_of(__package__, _SOURCE))
    if library is None:
        return None
    found = Kernels(library, dtype)
    return found if _right(found) else None


def _right(built: Kernels) -> bool:
    """On patches that lie differently, at the border and inside, with channels that fill no vector."""
    drawn, channels = np.random.default_rng(0), 37
    region, other = Region((0, 1), (1, 0, 2), 4, 5), Region((1, 3), (0, 2, 3), 3, 4)
    first, second = (_drawn((6, r.height, r.width, channels), drawn).to(built.dtype) for r in (region, other))
    clean, scale = _drawn((6, 7, channels), drawn), _drawn((channels,), drawn).abs()
    clipping = Clipping(clean, 0.0, math.inf)
    joining = Joining(built, region, [(channels, (region, other))], scale)
    others = [_on_the_map(second, other, i, (6, 7)) for i in range(6)]
    changes = [_on_the_map(first, region, i, (6, 7)) + each for i, each in enumerate(others)]
    expected = [clean.relu() - (clean - scale * change).relu() for change in changes]
    right = _alike(joining.into(joining.empty(first), [[first, second]], clipping), region, expected)
    axes, weights = (Axis(3, 1, 1), Axis(3, 1, 1)), _drawn((9, channels), drawn)
    sliding = Sliding(built, region, other, axes, channels, weights)
    kernel = weights.T.reshape(channels, 1, 3, 3)
    expected = [
        _as_rows(F.conv2d(_as_map(change).double(), kernel.double(), padding=1, groups=channels)) for change in others
    ]
    right &= _alike(sliding.convolved(sliding.empty(second), second), region, expected)
    largest = _as_rows(F.max_pool2d(_as_map(clean), 3, 1, 1)).contiguous()
    expected = [largest - _as_rows(F.max_pool2d(_as_map(clean - change), 3, 1, 1)) for change in others]
    return right & _alike(sliding.pooled(sliding.empty(second), second, clean, largest), region, expected)


def _drawn(shape: tuple[int, ...], drawn: np.random.Generator) -> Tensor:
    # Whatever device and precision PyTorch takes by default here.
    return torch.from_numpy(drawn.standard_normal(shape, dtype=np.float32))


def _on_the_map(patch: Tensor, region: Region, window: int, size: tuple[int, int]) -> Tensor:
    top, left = region.rows[window // len(region.cols)], region.cols[window % len(region.cols)]
    found = patch.new_zeros((*size, patch.shape[-1])).float()
    found[top : top + region.height, left : left + region.width] = patch[window]
    return found


def _as_map(rows: Tensor) -> Tensor:
    return rows.permute(2, 0, 1)[None]


def _as_rows(value: Tensor) -> Tensor:
    return value[0].permute(1, 2, 0)


def _alike(made: Tensor, region: Region, expected: Sequence[Tensor]) -> bool:
    """Whether parts are those of what is expected on the whole map, but for rounding."""
    for i, whole in enumerate(expected):
        top, left = region.rows[i // len(region.cols)], region.cols[i % len(region.cols)]
        part = whole[top : top + region.height, left : left + region.width]
        if not bool(((made[i].float() - part).abs() <= 0.01 * part.abs() + 1e-5).all()):
            return False
    return True
