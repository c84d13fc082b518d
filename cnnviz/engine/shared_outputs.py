"""What a network returns beside what belongs to its images: losses, weights, anchors. Such tensors are no rows of a
batch, and must not be split into images or put together from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass, PreparedNetwork
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.structures import Shared, map_shared, map_tensors, tensors_of


def with_shared_marked(network: PreparedNetwork, image: Tensor) -> PreparedNetwork:
    """The network, which marks the tensors of its output that have no axis for the images, found by two passes.

    Args:
        network: One of which all that it returns is read.
        image: A probe [1, C, H, W] on its device.
    """
    kinds = _kinds(network, image)
    if all(kind is None for kind in kinds):
        return network

    def mark(output: Any) -> Any:
        each = iter(kinds)

        def marked(tensor: Tensor) -> Tensor:
            varies = next(each, None)
            return tensor if varies is None else Shared.of(tensor, varies)

        return map_tensors(marked, output)

    def marking(pixels: Tensor) -> ForwardPass:
        found = network.run(pixels)
        rerun = found._rerun
        return ForwardPass(
            found.pixels, found.activations, found.chosen, lambda *changed: mark(rerun(*changed)), mark(found._returned)
        )

    return replace(network, run=marking, marked=mark)


def _kinds(network: PreparedNetwork, image: Tensor) -> list[bool | None]:
    """For each tensor of the output: None where it has a row for each image, else whether images change it."""

    def returned(pixels: Tensor) -> list[Tensor]:
        return [tensor.detach() for tensor in tensors_of(network.passed(pixels).output)]

    other = image.flip(-1) * 3 + 1
    alone = returned(image)
    try:
        beside, rows = returned(torch.cat([image, other])), 2
    except Exception as error:  # it takes one image at a time
        if rt.is_out_of_memory(error):
            raise
        beside, rows = returned(other), 1
    if len(alone) != len(beside):
        return []
    return [
        None if a.shape[:1] == (1,) and b.shape[:1] == (rows,) else not torch.equal(a, b)
        for a, b in zip(alone, beside, strict=True)
    ]


def check_reads_rows(function: Callable[[Any], Tensor], output: Any) -> None:
    """Refuse a function of the user that reads a tensor which all images of the batch change together.

    No image has a score of its own then: what it got would depend on the images beside it.

    Raises:
        CnnvizError: Its scores change with such a tensor.
    """
    shapes: list[str] = []

    def replaced(tensor: Shared) -> Tensor:
        if not tensor.varies:
            return tensor
        shapes.append(str(list(tensor.shape)))
        return Shared.of(~tensor if tensor.dtype == torch.bool else tensor + 1, varies=True)

    changed = map_shared(replaced, output)
    if not shapes:
        return
    with torch.no_grad():
        expected = function(output)
        try:
            same = torch.equal(function(changed), expected)
        except Exception:  # another value means nothing there: it is read
            same = False
    if not same:
        raise CnnvizError(
            f"The target function reads what all images of a batch share (a tensor of shape {' or '.join(shapes)}), "
            "so that no image has a score of its own.",
            "Have the network return it with a row for each image, or read the class scores.",
        )
