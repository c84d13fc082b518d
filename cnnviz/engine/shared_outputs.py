"""What a network returns beside what belongs to its images: losses, weights, anchors. Such tensors are no rows of a
batch, and must not be split into images or put together from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.structures import Shared, map_shared, map_tensors, tensors_of


def mark_shared(session: Session, image: Tensor) -> None:
    """Have the session mark the tensors of its output that have no axis for the images, found by two passes.

    Args:
        session: One that reads all that the network returns.
        image: A probe [1, C, H, W] on the session's device.
    """
    kinds = _kinds(session, image)
    if all(kind is None for kind in kinds):
        return
    run = session._run

    def mark(output: Any) -> Any:
        each = iter(kinds)

        def marked(tensor: Tensor) -> Tensor:
            varies = next(each, None)
            return tensor if varies is None else Shared.of(tensor, varies)

        return map_tensors(marked, output)

    def marking(pixels: Tensor) -> ForwardPass:
        found = run(pixels)
        rerun = found._rerun
        return ForwardPass(
            found.pixels, found.activations, found.chosen, lambda *changed: mark(rerun(*changed)), mark(found._returned)
        )

    session._run, session.marked = marking, mark


def _kinds(session: Session, image: Tensor) -> list[bool | None]:
    """For each tensor of the output: None where it has a row for each image, else whether images change it."""
    other = image.flip(-1) * 3 + 1
    alone = list(tensors_of(session.output_of(image)))
    try:
        beside, rows = list(tensors_of(session.output_of(torch.cat([image, other])))), 2
    except Exception as error:  # it takes one image at a time
        if rt.is_out_of_memory(error):
            raise
        beside, rows = list(tensors_of(session.output_of(other))), 1
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
