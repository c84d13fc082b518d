"""Whether a network takes images of any size, and the stride of its last map.

A network that is fully convolutional up to a global or adaptive pooling answers for any size; one that flattens its
last map, or that holds an embedding for each position, takes the size that it was made for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnviz.errors import CnnvizError, first_line
from cnnviz.models.graph.operations import Operation, operation_of_function
from cnnviz.models.graph.without_values import without_values

Size = tuple[int, int]
# Where no convolution or pooling could be watched (a scripted part, an operation of another library).
_USUAL_STRIDE = 32


def stride_at_any_size(module: nn.Module, name: str, input_size: tuple[int, int, int]) -> int:
    """Run the network at its own size, at twice that, and at two other aspect ratios.

    Args:
        module: The network in evaluation mode.
        name: What to call it in messages.
        input_size: (C, H, W) that it was made for.

    Returns:
        Pixels of the image from one cell of the coarsest map to the next: with lengths l1 and l2 of a map at inputs
        of L and 2 L pixels, L / (l2 - l1), the largest over all convolutions and poolings.

    Raises:
        CnnvizError: It does not take other sizes.
    """
    channels, height, width = input_size
    with torch.no_grad():
        own, expected = _watched(module, (channels, height, width))
        try:
            twice, outputs = _watched(module, (channels, 2 * height, 2 * width))
            if outputs != expected:
                raise ValueError(f"its output has another shape: {outputs} instead of {expected}")
            stride = _stride(own, twice, (height, width))
            # A fixed pooling of 7 x 7 divides 14 x 14 cells as well as 7 x 7, but leaves a part of 7 x 10 out.
            for size in ((height, 2 * width), (height + stride, width), (height, width + 2 * stride)):
                if (found := _watched(module, (channels, *size))[1]) != expected:
                    raise ValueError(f"its output has another shape: {found} instead of {expected}")
        except Exception as error:  # the user's network runs here
            said = first_line(error)
            raise CnnvizError(
                f"--view whole: {name} takes inputs of {height} x {width} pixels only ({said}).",
                "Use --view tiles, which covers the whole picture with crops of that size, or --view squash.",
            ) from error
    return stride


def _watched(module: nn.Module, shape: tuple[int, int, int]) -> tuple[list[Size], Any]:
    """The sizes of all maps on the way, and the shapes of what the network returns.

    Nothing is computed where the shapes can be had without (a segmentation network at twice its size takes seconds);
    what fails that way is run.
    """
    like = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), torch.zeros(0))
    try:
        # A copy that shares the weights: what a network keeps for itself on the way must not be tensors without values.
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        twin = copy.deepcopy(module, shared)
        with without_values(), _Watching() as seen:
            return seen.sizes, _shapes(twin(torch.empty((1, *shape)).to(like.dtype)))
    except Exception:  # the user's network runs here: it may look at values, or not take this size
        generator = torch.Generator().manual_seed(0)
        image = torch.randn((1, *shape), generator=generator).to(like)
        with _Watching() as seen:
            return seen.sizes, _shapes(module(image))


class _Watching(TorchFunctionMode):
    """Notes the height and width of what convolutions and poolings return."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[Size] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 4 and _slides(operation_of_function(function)):
            self.sizes.append((int(result.shape[2]), int(result.shape[3])))
        return result


def _slides(operation: Operation) -> bool:
    return operation.is_convolution or operation.kind == "pooling"


def _stride(own: Sequence[Size], twice: Sequence[Size], size: Size) -> int:
    """What adaptive poolings return does not grow, and is left aside."""
    found = [
        length / (larger - smaller)
        for small, large in zip(own, twice, strict=False)
        for length, smaller, larger in zip(size, small, large, strict=True)
        if larger > smaller
    ]
    return max(1, round(max(found))) if found else _USUAL_STRIDE


def _shapes(value: Any) -> Any:
    """The first two sizes of every tensor in what a network returns: images and classes (or channels)."""
    if isinstance(value, Tensor):
        return list(value.shape[:2])
    if isinstance(value, Mapping):
        return {key: _shapes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shapes(item) for item in value]
    return None
