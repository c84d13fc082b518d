"""Ctrl-C: what is being computed is given up, and a second one ends the process at once."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.interrupts import ended_by_the_second

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")

NETS = """
import torch
def make():
    head = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), *head)
"""
STUCK = """
import sys, threading
from cnnviz.cli.interrupts import ended_by_the_second
with ended_by_the_second():
    try:
        print("begun", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopping", flush=True)
        threading.Event().wait()
"""
WHOLE = """
import os, signal
from cnnviz.cli.interrupts import ended_by_the_second
from cnnviz.engine.stopping import unbroken
with ended_by_the_second():
    try:
        with unbroken("being written"):
            os.kill(os.getpid(), signal.SIGINT)
            print("whole")
    except KeyboardInterrupt:
        print("stopped")
"""
TERMINATED = WHOLE.replace("SIGINT", "SIGTERM")
LOST = """
import os, signal, threading
from cnnviz.cli.interrupts import ended_by_the_second

class Pressing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

with ended_by_the_second():
    try:
        Pressing()
        threading.Event().wait(30)
    except KeyboardInterrupt:
        print("stopped")
"""
# Nothing waits for the Ctrl-C that was lost: what it would have ended is done.
LATE = (
    LOST.replace("threading.Event().wait(30)", "pass")
    + """
signal.signal(signal.SIGINT, signal.SIG_DFL)
import time
time.sleep(1)
print("alive")
"""
)
IMPORTING = """
import os, signal, sys
from cnnviz.__main__ import main

class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == "cnnviz.registry":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressing())
sys.argv = ["cnnviz", "methods"]
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def _as_from_a_terminal() -> Iterator[None]:
    """What a shell starts in the background, or with nohup, ignores some signals, and so do programs that it starts."""
    usual = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    before = {name: signal.signal(getattr(signal, name), handler) for name, handler in usual.items()}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def test_while_modules_are_imported_it_ends_without_a_word() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_second_ends_it_at_once(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in ("begun", "stopping"):
            assert process.stdout.readline() == f"{said}\n"
            process.send_signal(getattr(signal, name))
        assert process.wait(60) == 130
        assert process.stderr.read() == "\ncnnviz: ended at once\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_a_script_starts_in_the_background_is_ended_too(name: str) -> None:
    """There the shell lets Ctrl-C be ignored, and nothing else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == 130


def test_a_signal_that_a_destructor_lost_comes_again_where_ctrl_c_is_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lost = LOST.replace("signal.SIGINT", "signal.SIGTERM")
    ended = subprocess.run([sys.executable, "-c", lost], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("stopped\n", "")


def test_another_signal_does_not_end_it_at_once() -> None:
    """Who closes a session sends SIGHUP and SIGTERM, one after the other."""
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130


def test_what_nohup_ignores_stays_ignored_and_handlers_come_back() -> None:
    """Of a handler of its own that a program has, and of what the system does."""
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert before[0] is signal.SIG_DFL
    try:
        with ended_by_the_second():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[1])


def _begun(folder: Path) -> list[str]:
    """A command that goes through photographs for a while."""
    (folder / "nets.py").write_text(NETS)
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    for number in range(400):
        Image.fromarray(pixels).save(folder / "photos" / f"{number:03d}.png")
    model = ["-m", "nets.py:make", "--input-size", "64", "--batch-size", "4"]
    return [sys.executable, "-m", "cnnviz", "saliency", "photos", *model, "-o", "out"]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def _is_whole(out: Path) -> None:
    """A run that was interrupted: with report and page, without what is written in passing, and without its lock."""
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["interrupted"] is True
    assert 0 < report["summary"]["explained"] < 400
    assert (out / "index.html").is_file()
    assert [path for path in out.rglob(".cnnviz-*") if path.name != ".cnnviz-lock"] == []
    assert not (out / ".cnnviz-lock").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_terminated_ends_as_after_ctrl_c(tmp_path: Path, name: str) -> None:
    command = _begun(tmp_path)
    with subprocess.Popen(command, cwd=tmp_path, stderr=-1, text=True) as process:
        _wait_for(tmp_path / "out" / "images")
        process.send_signal(getattr(signal, name))
        _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "interrupted; continue with --resume" in said
    assert f"cnnviz: stopping: finished images are written; {name} again ends it at once" in said
    assert "Ctrl-C" not in said
    _is_whole(tmp_path / "out")


def test_a_run_whose_terminal_is_closed_ends_as_after_ctrl_c(tmp_path: Path) -> None:
    """What it says can be written nowhere any more: progress is drawn on that terminal."""
    import pty

    terminal, inside = pty.openpty()
    # Who leads a session has the first terminal that it opens for its own, and is told when that is closed.
    leads = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-c", leads, *_begun(tmp_path)]
    streams = {"stdin": inside, "stdout": inside, "stderr": inside, "start_new_session": True}
    with subprocess.Popen(words, cwd=tmp_path, **streams) as process:  # type: ignore[call-overload]
        os.close(inside)
        deadline = time.monotonic() + 60
        while not (tmp_path / "out" / "images").exists() and time.monotonic() < deadline:
            # Somebody must read what is drawn, or there is no more room for it.
            if select.select([terminal], [], [], 0.02)[0]:
                os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(100) == 130
    _is_whole(tmp_path / "out")


@pytest.mark.parametrize(
    ("script", "out", "err"),
    [
        (WHOLE, ["whole", "stopped"], "cnnviz: being written; Ctrl-C again ends it at once\n"),
        (TERMINATED, ["whole", "stopped"], "cnnviz: being written; SIGTERM again ends it at once\n"),
        (LOST, ["stopped"], ""),
        (LATE, ["alive"], ""),
    ],
    ids=["whole", "terminated", "lost", "late"],
)
def test_what_belongs_together_is_done_whole_and_no_press_is_lost(script: str, out: list[str], err: str) -> None:
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.split() == out
    assert ended.stderr == err
    assert ended.returncode == 0


def test_what_is_computed_is_given_up(tmp_path: Path) -> None:
    """Some 60 000 steps, of which each takes a millisecond or more."""
    (tmp_path / "nets.py").write_text(NETS)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "cnnviz", "invert", "a.png", "-m", "nets.py:make", "--input-size", "64", "-v"]
    command += ["--layer", "0", "--steps", "60000", "-o", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stderr=-1, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert time.monotonic() - began < 30
    assert "stopping: finished images are written; Ctrl-C again ends it at once" in said
