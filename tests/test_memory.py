"""Work that is done in smaller parts where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from cnnviz.engine.memory import in_chunks, in_halves

CPU = torch.device("cpu")


@pytest.mark.parametrize(("count", "most"), [(1, 1), (7, 7), (7, 3), (8, 1), (5, 2)])
def test_halves_cover_everything_once_and_in_order(count: int, most: int) -> None:
    tried: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError
        return list(items)

    found = in_halves(work, list(range(count)), CPU)
    assert [item for part in found for item in part] == list(range(count))
    assert tried[0] == count, "all at once is tried first"
    assert all(len(part) <= most for part in found)


def test_what_does_not_fit_alone_is_an_error() -> None:
    def work(items: Sequence[int]) -> None:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        in_halves(work, [1, 2, 3], CPU)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(in_chunks(lambda positions: work([*positions]), 3, 2, CPU))


def test_other_errors_are_not_tried_again() -> None:
    tried = []

    def work(items: Sequence[int]) -> None:
        tried.append(items)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_halves(work, [1, 2], CPU)
    assert len(tried) == 1


def test_chunks_stay_small_once_memory_ran_out() -> None:
    tried: list[int] = []

    def work(positions: range) -> list[int]:
        tried.append(len(positions))
        if len(positions) > 3:
            raise MemoryError
        return list(positions)

    found = list(in_chunks(work, 10, 8, CPU))
    assert [position for part in found for position in part] == list(range(10))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
