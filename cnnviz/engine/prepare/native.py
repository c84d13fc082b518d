"""What functions in C need of PyTorch: where the numbers of a tensor lie, and its threads."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor, nn

Count, Pointer = ctypes.c_int64, ctypes.c_void_p


def address(tensor: Tensor, order: torch.memory_format = torch.contiguous_format) -> int:
    """Where the numbers lie: what lies elsewhere, or in another order, would end the process that reads it."""
    plain = type(tensor) in (Tensor, nn.Parameter)  # others may only have a shape
    if not plain or tensor.device.type != "cpu" or not tensor.is_contiguous(memory_format=order):
        raise ValueError("a compiled kernel reads dense arrays in the memory of the processor")
    return tensor.data_ptr()


@functools.cache
def parallel_for() -> int | None:
    """PyTorch's own way to share work among its threads, for C; None where this PyTorch has none."""
    try:
        found = ctypes.cast(ctypes.CDLL(torch._C.__file__).torch_parallel_for, Pointer)
    except (AttributeError, OSError):
        return None
    return found.value
