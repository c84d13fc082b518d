"""Memory of pixels in flight: shared in order, never more than the budget, never a standstill."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.io import decode
from cnnviz.io.budget import Budget, Ticket
from cnnviz.run import loop, reading
from cnnviz.run.reporters import Silent
from cnnviz.settings import DrawSettings, ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from tests.support import tiny_model

TINY = ModelSpec(model=f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)


class Quiet(Silent):
    def __init__(self, interrupt_after: int = 0) -> None:
        self.paths: list[str] = []
        self.interrupt_after = interrupt_after

    def advance(self, record: Mapping[str, Any]) -> None:
        self.paths.append(str(record["path"]))
        if len(self.paths) == self.interrupt_after:
            raise KeyboardInterrupt


def settings(inputs: Path, out: Path, *, workers: int = 8, batch: int = 4, **output: Any) -> RunSettings:
    return RunSettings(
        "gradcam", (str(inputs),), TINY, TargetSettings(), RuntimeSettings(batch_size=batch, workers=workers),
        DrawSettings(), OutputSettings(str(out), **output),
    )  # fmt: skip


def test_no_more_than_the_budget_is_held_and_nothing_overtakes() -> None:
    rng = np.random.default_rng(0)
    amounts = [int(n) for n in rng.integers(1, 130, 200)]  # some are larger than the whole budget
    budget, held, order, peak = Budget(100), [0], [], [0]
    lock = threading.Lock()

    def work(amount: int, ticket: Ticket) -> None:
        time.sleep(amount % 3 / 5000)
        ticket.take(amount)
        with lock:
            order.append(amount)
            assert held[0] == 0 or held[0] + amount <= 100
            held[0] += amount
            peak[0] = max(peak[0], held[0])
        with lock:
            held[0] -= amount  # before it is given back: this count is never above the budget's own
        ticket.free()
        ticket.free()

    with ThreadPoolExecutor(16) as pool:
        for job in [pool.submit(work, amount, budget.ticket()) for amount in amounts]:
            job.result(timeout=20)
    assert order == amounts
    assert budget.used == 0
    assert peak[0] >= 100


def test_a_place_that_is_given_up_holds_nobody_up() -> None:
    budget = Budget(10)
    first, second, third = budget.ticket(), budget.ticket(), budget.ticket()
    second.free()
    first.free()
    third.take(50)
    assert budget.used == 50
    third.keep(3)
    third.keep(5)
    assert budget.used == 3


def test_who_waits_is_told_that_nobody_can_go_on() -> None:
    budget = Budget(10)
    first, second = budget.ticket(), budget.ticket()
    first.take(8)
    with ThreadPoolExecutor(1) as pool:
        job: Future[None] = pool.submit(second.take, 8)
        assert not budget.wait(job, second)
        first.free()
        assert budget.wait(job, second)


def test_closing_lets_everybody_go() -> None:
    budget = Budget(10)
    first, second, third = budget.ticket(), budget.ticket(), budget.ticket()
    first.take(10)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(ticket.take, 10) for ticket in (second, third)]
        with budget:
            pass
        for job in jobs:
            with pytest.raises(CancelledError):
                job.result(timeout=20)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of very different sizes, files that are no images, a damaged one and an empty one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(24):
        side = (20, 300, 40, 600, 10, 60)[index % 6]
        pixels = np.kron(rng.integers(0, 255, (4, 5, 4), dtype=np.uint8), np.ones((side // 4, side // 5, 1), np.uint8))
        Image.fromarray(pixels if index % 4 else pixels[:, :, :3]).save(folder / f"{index:02d}.png")
    (folder / "05.txt").write_text("no image")
    (folder / "07.jpg").write_bytes(b"")
    (folder / "11.jpg").write_bytes((folder / "03.png").read_bytes()[:900])
    return folder


def written(out: Path) -> tuple[list[Any], dict[str, bytes]]:
    images = {str(path.relative_to(out)): path.read_bytes() for path in (out / "images").rglob("*.png")}
    return json.loads((out / "report.json").read_text())["images"], images


@pytest.mark.parametrize(("room", "workers", "batch"), [(1, 8, 1), (1 << 20, 1, 4), (1 << 20, 8, 4)])
def test_a_tight_budget_changes_no_result(
    room: int, workers: int, batch: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither do threads: where a batch ends for want of room depends on sizes, not on time."""
    monkeypatch.setattr(decode, "STRIP_BYTES", 0)  # a constant that would count most with images so small
    most, took = [0], [0]
    take = Budget._take

    def counted(budget: Budget, place: int, amount: int) -> None:
        take(budget, place, amount)
        took[0] += amount
        most[0] = max(most[0], budget.used if amount <= room else 0)

    if batch > 1:
        monkeypatch.setattr(reading, "_DECODED_BYTES", room)
    pipeline.run(settings(photos, tmp_path / "ample", workers=2, batch=batch), Quiet())
    monkeypatch.setattr(reading, "_DECODED_BYTES", room)
    monkeypatch.setattr(loop, "_DRAWING_BYTES", room)
    monkeypatch.setattr(Budget, "_take", counted)
    heard = Quiet()
    pipeline.run(settings(photos, tmp_path / "tight", workers=workers, batch=batch), heard)
    assert heard.paths == [str(path) for path in sorted(photos.iterdir()) if path.suffix != ".txt"]
    assert written(tmp_path / "tight") == written(tmp_path / "ample")
    assert took[0] > 4 * 600 * 600 * (7 + 16)  # every pixel was counted twice: when it was decoded, and when drawn
    assert most[0] <= room


def test_a_budget_for_one_image_holds_one_at_a_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_DECODED_BYTES", 1)
    alive, most = [0], [0]
    lock = threading.Lock()
    original = decode.OpenImage.decode

    def counted(image: decode.OpenImage) -> decode.Decoded:
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return original(image)

    free = Ticket.free

    def freed(ticket: Ticket) -> None:
        with lock:
            alive[0] -= ticket._held > 0 and ticket._budget.size == 1
        free(ticket)

    monkeypatch.setattr(decode.OpenImage, "decode", counted)
    monkeypatch.setattr(Ticket, "free", freed)
    pipeline.run(settings(photos, tmp_path / "out", workers=16), Quiet())
    assert most[0] == 1


@pytest.mark.parametrize("room", [1, 3 << 20])
def test_ctrl_c_and_fail_fast_leave_no_thread_waiting_for_room(
    room: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_DECODED_BYTES", room)
    before = set(threading.enumerate())
    assert pipeline.run(settings(photos, tmp_path / "stopped"), Quiet(interrupt_after=3)).exit_code == 130
    pipeline.run(settings(photos, tmp_path / "failed", fail_fast=True), Quiet())
    # Other libraries keep daemons of their own, such as the one that watches progress bars.
    assert [thread for thread in threading.enumerate() if thread not in before and not thread.daemon] == []


def test_a_study_gives_memory_back_after_it_has_taken_the_image(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_DECODED_BYTES", 1)
    asked = settings(photos, tmp_path / "out")
    target = TargetSettings(method="activations", params={})
    result = pipeline.run(replace(asked, command="activations", target=target), Quiet())
    assert result.summary["explained"] == 24


# In processes of their own: a long one hands out again what other tests freed, and that hides what is asked for. One
# imports, and is forked for each case; the small picture brings in the code that is run.
_DRAWING = """
import ctypes, os, sys
from pathlib import Path
import numpy as np
from cnnviz.maps.write_image import OutputStyle, ImageResult, TargetMap, draw
from cnnviz.io.sources import ImageRef
from cnnviz.io.encode import ImageFormat
from cnnviz.io.store import Store
from cnnviz.models.preprocess import Geometry
from cnnviz.records import ClassScore
from cnnviz.registry import lookup
from cnnviz.render.overlay import Style

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

def drawn(kind, whole, times):
    width, height = 18 * times, 12 * times
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 255, (12, 18, 3), dtype=np.uint8), np.ones((times, times, 1), np.uint8))
    values = rng.standard_normal((7, 7)).astype(np.float32)
    raw = values if kind == "map" else rng.standard_normal((3, 64, 64)).astype(np.float32)
    rect = (0.0, 0.0, float(width), float(height)) if whole else (width / 6, 0.0, width * 5 / 6, float(height))
    scores = [ClassScore(index, str(index), 0.5, 1.0) for index in range(2)]
    method = lookup.find_method("gradcam" if kind == "map" else "guided")
    maps = [TargetMap(score, score.label, method, None, values, raw) for score in scores]
    save = frozenset({"overlay", "heatmap", "panel"} if kind == "map" else {"overlay", "gradient"})
    how = OutputStyle(Store(sys.argv[1]), save, Style(), ImageFormat("png"))
    done = ImageResult(ImageRef("x.png", "x.png", 0), rgb, Geometry((width, height), rect), None, (), maps)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    draw(done, how)
    return memory("VmHWM") - before, done.bytes_a_pixel * width * height

for kind in ("map", "gradient"):
    for whole in (False, True):
        if os.fork() == 0:
            drawn(kind, whole, 5)
            print(kind, whole, *drawn(kind, whole, 100), flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def memory_of_drawing(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], tuple[int, int]]:
    """Bytes taken and bytes counted, by what is drawn and whether the network saw all of it."""
    asked = [sys.executable, "-c", _DRAWING, str(tmp_path_factory.mktemp("drawing"))]
    printed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in printed.splitlines()]
    return {(kind, whole == "True"): (int(taken), int(counted)) for kind, whole, taken, counted in rows}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's peak from /proc")
@pytest.mark.parametrize("kind", ["map", "gradient"])
@pytest.mark.parametrize("whole", [False, True])
def test_drawing_takes_no_more_than_is_counted(
    kind: str, whole: bool, memory_of_drawing: dict[tuple[str, bool], tuple[int, int]]
) -> None:
    taken, counted = memory_of_drawing[kind, whole]
    assert counted / 4 < taken <= counted + (4 << 20)
