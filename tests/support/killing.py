"""Runs that are killed or interrupted at a change to their folder, and what is compared of them afterwards."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.pictures import photograph

KILLED = 9
# What differs between any two runs: where they write, whether they were continued, and how long they took.
OPTIONS, TIMES = ("out", "resume"), ("seconds", "images_per_second", "seconds_per_map")


class Runs:
    """Forks of one process that has imported everything."""

    def __init__(self, log: Path) -> None:
        self.log = log
        script = Path(__file__).parent / "kill_runs.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, argv: list[str], out: Path, at: int | None = None, by: int = KILLED) -> tuple[int, int]:
        """Exit code and number of changes of a run, which gets the signal ``by`` at one of them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"argv": [*argv, "-o", str(out)], "out": str(out), "at": at, "by": int(by), "log": str(self.log)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return found["code"], found["changes"]

    def interrupted(self, argv: list[str], out: Path, at: int) -> int:
        """Exit code of a run with Ctrl-C at one of its changes."""
        return self(argv, out, at, signal.SIGINT)[0]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def contents(out: Path) -> dict[str, Any]:
    """All files of a run; of the report and the page without what differs between any two runs."""
    found: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
    report = json.loads(found["report.json"])
    for name in (*TIMES, "resumed", "timed"):
        report["summary"].pop(name, None)
    for name in OPTIONS:
        report["options"].pop(name)
    page = re.sub(r" --out [^\s<]+", "", found["index.html"].decode())
    for name in ("time", "images per second"):
        page = re.sub(rf"<div><dt>{name}</dt><dd>.*?</dd></div>\n", "", page)
    return {**found, "report.json": report, "index.html": page}


def write_photographs(folder: Path) -> Path:
    """Five pictures and one that is broken."""
    for index in range(5):
        Image.fromarray(photograph(index, (56, 48))).save(folder / f"{index}.png")
    (folder / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder
