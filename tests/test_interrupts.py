"""Ctrl-C: what is being computed is given up, and a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_while_modules_are_imported_it_ends_without_a_word() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_second_ends_it_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in ("begun", "stopping"):
            assert process.stdout.readline() == f"{said}\n"
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "\ncnnviz: ended at once\n"


@pytest.mark.parametrize(
    ("script", "out", "err"),
    [(WHOLE, ["whole", "stopped"], "cnnviz: being written\n"), (LOST, ["stopped"], ""), (LATE, ["alive"], "")],
    ids=["whole", "lost", "late"],
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
