"""Networks whose numbers are not float32: they are explained as a copy that is."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.borrowing import borrowed


def in_float32(module: nn.Module, images: torch.Tensor) -> tuple[nn.Module, str | None]:
    """The network itself where it takes float32 images as it is; else a copy in float32.

    A network may hold several types and convert between them by itself: it is left as it is.

    Args:
        module: The network.
        images: [N, C, H, W], which are run through a network of several types to find out.

    Returns:
        The network to explain, and what to tell about it.

    Raises:
        CnnvizError: It cannot be copied.
    """
    tensors = chain(module.parameters(), module.buffers())
    others = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if _is_other(t)})
    if not others or (_holds_float32(module) and _runs(module, images[:1])):
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


def _holds_float32(module: nn.Module) -> bool:
    return any(t.dtype == torch.float32 for t in chain(module.parameters(), module.buffers()))


def _runs(module: nn.Module, images: torch.Tensor) -> bool:
    where = next((p.device for p in module.parameters()), images.device)
    try:
        with borrowed(module), torch.no_grad():
            module(images.detach().to(where, torch.float32))
    except Exception:
        return False
    return True


def _is_other(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32
