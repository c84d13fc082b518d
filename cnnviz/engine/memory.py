"""Work that is done in smaller parts where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from cnnviz.engine import runtime as rt
from cnnviz.engine.stopping import go_on

T = TypeVar("T")


def in_halves(work: Callable[[Any], T], items: Any, device: torch.device) -> list[T]:
    """What ``work`` returns for all items, or, where memory runs out, for halves of them one after another.

    Args:
        work: Is given a slice of the items.
        items: A sequence or a tensor with at least one row.
        device: Whose memory it is.
    """
    go_on()
    try:
        return [work(items)]
    except Exception as error:
        if len(items) == 1 or not rt.is_out_of_memory(error):
            raise
    rt.release_memory(device)
    half = (len(items) + 1) // 2
    return [*in_halves(work, items[:half], device), *in_halves(work, items[half:], device)]


def in_chunks(work: Callable[[range], T], count: int, size: int, device: torch.device) -> Iterator[T]:
    """What ``work`` returns for chunks of at most ``size`` of ``range(count)``, smaller ones once memory ran out.

    Args:
        work: Is given the positions of a chunk.
        count: Number of positions.
        size: Positions at once to begin with.
        device: Whose memory it is.
    """
    start = 0
    while start < count:
        stop = min(start + size, count)
        go_on()
        try:
            found = work(range(start, stop))
        except Exception as error:
            if size == 1 or not rt.is_out_of_memory(error):
                raise
        else:
            yield found
            start = stop
            continue
        # Here what was raised, and the tensors of its frames, are gone.
        size //= 2
        rt.release_memory(device)
