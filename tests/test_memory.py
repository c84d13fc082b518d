"""Work that is done in smaller parts where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.engine.memory import in_chunks, in_halves
from cnnviz.engine.session import ForwardPass

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


def test_passes_are_let_go_before_python_looks_for_cycles(tmp_path: Path) -> None:
    """What a batch's maps remember holds its pass, and the pass the maps: autograd's memory grew with the images."""
    alive = []
    for count in (2, 7):
        photos = tmp_path / f"photos-{count}"
        photos.mkdir()
        for number in range(count):
            Image.new("RGB", (40, 40), (9 * number, 60, 90)).save(photos / f"{number}.png")
        gc.collect()
        gc.disable()
        try:
            before = sum(isinstance(each, ForwardPass) for each in gc.get_objects())
            out = ["-o", str(tmp_path / f"out-{count}"), "-q", "--batch-size", "1", "--weights", "none"]
            network = ["-m", "squeezenet1_1", "--input-size", "3,64,64"]
            assert main(["lrp", str(photos), *network, *out, "--save", "none"]) == 0
            alive.append(sum(isinstance(each, ForwardPass) for each in gc.get_objects()) - before)
        finally:
            gc.enable()
    assert alive[0] == alive[1]
