"""Networks whose numbers are not float32: they are explained as a copy that is."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn

from cnnviz.errors import CnnvizError


def in_float32(module: nn.Module) -> tuple[nn.Module, str | None]:
    """The network itself where all its floating-point parameters and buffers are float32; else a copy in float32.

    Returns:
        The network to explain, and what to tell about it.

    Raises:
        CnnvizError: It cannot be copied.
    """
    tensors = chain(module.parameters(), module.buffers())
    others = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if _is_other(t)})
    if not others:
        return module, None
    name = type(module).__name__
    try:
        twin = copy.deepcopy(module).float()
    except Exception as error:
        raise CnnvizError(
            f"{name} holds {', '.join(others)} values and cannot be copied to float32: {error}.",
            "Convert it first: model.float().",
        ) from error
    return twin, f"{name} holds {', '.join(others)} values: a copy in float32 is explained"


def _is_other(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32
