"""Convolutions of 3 x 3 with fewer products, compiled where the program runs.

A tile of 4 x 4 inputs makes 2 x 2 outputs with 16 products instead of 36 (Winograd's F(2 x 2, 3 x 3); Lavin & Gray,
"Fast Algorithms for Convolutional Neural Networks", 2016, which finds it as exact in float32 as the sum of products:
fewer numbers are added up). ``winograd.c`` has it; it is built where there is a C compiler and used where it then
gives what PyTorch gives. Elsewhere oneDNN computes the sums of products.

What an image gives does not depend on the other images of its batch, nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine.prepare.native import Count, Pointer, address, parallel_for
from cnnviz.io.compiler import compiled, source_of

# Narrower convolutions wait for memory and gain nothing.
_CHANNELS, _KINDS = 64, 32
# Vectors of the compiled functions divide channels.
_EVEN = 16
# Of the outputs of all tiles those that are wanted, at least; and tiles, for the weights are twice as many to read.
_WANTED, _TILES = 0.7, 16
_PROCESSORS = frozenset({"x86_64", "amd64"})
_LAST = torch.channels_last


class _Convolution(ctypes.Structure):
    _fields_ = (
        ("image", Pointer),
        ("made", Pointer),
        ("other", Pointer),
        ("weights", Pointer),
        ("bias", Pointer),
        ("images", Count),
        ("height", Count),
        ("width", Count),
        ("channels", Count),
        ("kinds", Count),
        ("tall", Count),
        ("across", Count),
        ("top", Count),
        ("left", Count),
        ("clips", Count),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("threads", Count),
    )


class _Weights(ctypes.Structure):
    _fields_ = (("plain", Pointer), ("made", Pointer), ("kinds", Count), ("channels", Count))


class Weights:
    """The weight of a convolution, transformed.

    Args:
        weight: [K, C, 3, 3], float32, of a convolution that :func:`suits`.
        library: What compiles it.
    """

    def __init__(self, weight: Tensor, library: ctypes.CDLL) -> None:
        self.kinds, self.channels = weight.shape[:2]
        self._library, group = library, int(library.group_size())
        plain = weight.detach().contiguous()
        self._values = plain.new_empty(-(-self.kinds // group), 16, self.channels, group)
        given = _Weights(address(plain), address(self._values), self.kinds, self.channels)
        library.order(ctypes.byref(given), parallel_for())

    def convolve(
        self,
        x: Tensor,
        padding: Sequence[int],
        bias: Tensor | None = None,
        onto: Tensor | None = None,
        bounds: tuple[float, float] | None = None,
        *,
        over: bool = False,
    ) -> Tensor:
        """min(max(conv(x) + bias + onto, low), high).

        Args:
            x: [N, C, H, W], float32.
            padding: Rows and columns of zeros on either side.
            bias: [K].
            onto: [N, K, h, w], or None: nothing is added.
            bounds: Low and high, or None: nothing is clipped.
            over: Whether the result overwrites ``onto``.

        Returns:
            [N, K, h, w], channels last.
        """
        if x.shape[1] != self.channels:
            raise ValueError(f"{x.shape[1]} channels, where the weight has {self.channels}")
        x = x.contiguous(memory_format=_LAST)
        size = _size(x, padding)
        shape = (len(x), self.kinds, *size)
        dense = None if onto is None else onto.contiguous(memory_format=_LAST)
        if dense is not None and (dense.shape != shape or dense.dtype != x.dtype):
            raise ValueError(f"{tuple(dense.shape)} cannot be added to {shape}")
        made = (
            dense
            if over and dense is not None
            else torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_LAST)
        )
        given = _Convolution(address(x, _LAST), address(made, _LAST))
        given.other = None if dense is None else address(dense, _LAST)
        given.weights, given.bias = address(self._values), None if bias is None else address(bias)
        given.images, given.channels, given.height, given.width = x.shape
        given.kinds, given.tall, given.across = shape[1:]
        given.top, given.left = padding
        given.threads = torch.get_num_threads()
        if bounds is not None:
            given.clips, (given.low, given.high) = 1, bounds
        self._library.convolve(ctypes.byref(given), parallel_for())
        if over and onto is not None and made is not onto:
            return onto.copy_(made)
        return made


def suits(weight: Tensor, geometry: tuple[list[int], list[int], list[int], int]) -> bool:
    """Whether a convolution can be computed so, and on large maps sooner.

    Args:
        weight: [K, C, rows, columns].
        geometry: Padding, stride, dilation, groups.
    """
    _, stride, dilation, groups = geometry
    kinds, channels, *kernel = weight.shape
    plain = kernel == [3, 3] and set(stride) == set(dilation) == {1} and groups == 1
    wide = channels >= _CHANNELS and kinds >= _KINDS and channels % _EVEN == kinds % _EVEN == 0
    return plain and wide and weight.dtype == torch.float32


def pays(x: Tensor, padding: Sequence[int], images: int = 1) -> bool:
    """Whether it is worth while for an input; the same for a batch and for its images unless told otherwise.

    Args:
        x: [N, C, H, W].
        padding: Rows and columns.
        images: How many count together.
    """
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype != torch.float32 or not len(x):
        return False
    if parallel_for() is None and torch.get_num_threads() > 1:  # before PyTorch 2.10; oneDNN has all threads
        return False
    tall, across = _size(x, padding)
    tiles = -(-tall // 2) * -(-across // 2)
    return min(tall, across) > 0 and tall * across >= _WANTED * 4 * tiles and images * tiles >= _TILES


def _size(x: Tensor, padding: Sequence[int]) -> tuple[int, int]:
    return x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, built at the first call; None where they cannot be built, are of no use or are wrong."""
    if platform.machine().lower() not in _PROCESSORS:
        return None
    found = compiled(source_of(__package__, "winograd.c"))
    if found is None:
        return None
    for function in (found.convolve, found.order):
        function.argtypes, function.restype = (Pointer, Pointer), None
    found.group_size.restype = Count
    return found if found.group_size() and _right(found) else None


def _right(built: ctypes.CDLL) -> bool:
    """On maps of odd sizes, with channels that fill no group of weights, and all that can be done to a result."""
    drawn = np.random.default_rng(0)
    x, weight, bias, onto = (
        # Whatever device and precision PyTorch takes by default here.
        torch.from_numpy(drawn.standard_normal(shape, dtype=np.float32))
        for shape in ((2, 32, 7, 10), (48, 32, 3, 3), (48,), (2, 48, 5, 10))
    )
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=(0, 1)) + onto
    made = Weights(weight, built).convolve(x, (0, 1), bias, onto, (-2.0, 9.0))
    return bool((made - expected.clamp(-2.0, 9.0)).abs().max() < 1e-4)
