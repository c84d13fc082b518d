"""One run over 50,000 small pictures: whether memory stays flat and time grows with the pictures alone.

    python -m benchmarks.scale --json benchmarks/results/scale.json

The network is tiny, so that what the run itself costs is all there is: reading, the queues, pictures, records, report
and gallery. The run is a process of its own; its resident memory is read each second with the number of lines in
``records.jsonl``. ``memory`` compares the medians of the second and the last tenth of the pictures, ``pace`` the
seconds that these tenths took, ``processor`` what they took of the processor, which other work on the machine changes
less. ``after_seconds`` is what report and gallery took when all pictures were done. With
``--browser`` the page is opened in headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from benchmarks.timing import save

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()
"""
DISTINCT = 500


def pictures(folder: Path, count: int) -> None:
    """So many files of 64 x 48 pixels; every DISTINCT-th has the same bytes."""
    chance = np.random.default_rng(0)
    coarse = chance.integers(0, 256, (DISTINCT, 6, 8, 3), dtype=np.uint8)
    coded = [cv2.imencode(".jpg", cv2.resize(each, (64, 48), interpolation=cv2.INTER_CUBIC))[1] for each in coarse]
    folder.mkdir()
    for number in range(count):
        coded[number % DISTINCT].tofile(folder / f"{number:06d}.jpg")


Row = tuple[float, int, int, float]


def watched(command: Sequence[str], records: Path) -> tuple[list[Row], float]:
    """Runs a command; (seconds, lines of the records, bytes of memory, seconds of the processor) for each half second,
    and how long it took.

    Raises:
        CalledProcessError: It failed.
    """
    began, rows, lines, place = time.monotonic(), list[Row](), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    of_it = psutil.Process(process.pid)
    while process.poll() is None:
        if records.exists():
            with records.open("rb") as file:
                file.seek(place)
                fresh = file.read()
            lines, place = lines + fresh.count(b"\n"), place + len(fresh)
        try:
            used = of_it.cpu_times()
            rows.append((time.monotonic() - began, lines, of_it.memory_info().rss, used.user + used.system))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return rows, time.monotonic() - began


def between(rows: Sequence[Row], first: float, last: float) -> tuple[float, float, float]:
    """Median of the memory, pictures a second, milliseconds of the processor for each; from one line to another."""
    inside = [row for row in rows if first <= row[1] <= last]
    clock, lines, used = (inside[-1][at] - inside[0][at] for at in (0, 1, 3))
    return statistics.median(row[2] for row in inside), lines / clock, 1000 * used / lines


def opened(page: Path) -> dict[str, Any]:
    """Milliseconds to the page's first cards, and what the console said."""
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        began = time.monotonic()
        tab.goto(page.as_uri(), timeout=120_000)
        tab.wait_for_selector("article, .card", timeout=120_000)
        found = {"open_seconds": round(time.monotonic() - began, 2), "console": said}
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--browser", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        pictures(here / "photos", given.inputs)
        (here / "net.py").write_text(FACTORY)
        out = here / "out"
        rows, seconds = watched(
            [
                sys.executable, "-m", "cnnviz", "gradcam", str(here / "photos"), "-m", f"{here / 'net.py'}:build",
                "--input-size", "3,48,64", "-o", str(out), "-q",
            ],
            out / "records.jsonl",
        )  # fmt: skip
        count = given.inputs
        early, late = between(rows, 0.1 * count, 0.2 * count), between(rows, 0.9 * count, count - 1)
        done = next(row[0] for row in rows if row[1] >= count)
        report = json.loads((out / "report.json").read_text())
        row: dict[str, Any] = {
            "inputs": count,
            "explained": report["summary"]["explained"],
            "seconds": round(seconds, 1),
            "pictures_a_second": {"second_tenth": round(early[1], 1), "last_tenth": round(late[1], 1)},
            "memory_mib": {"second_tenth": round(early[0] / 2**20, 1), "last_tenth": round(late[0] / 2**20, 1)},
            "memory": round(late[0] / early[0], 4),
            "pace": round(early[1] / late[1], 4),
            "processor_ms": {"second_tenth": round(early[2], 3), "last_tenth": round(late[2], 3)},
            "processor": round(late[2] / early[2], 4),
            "after_seconds": round(seconds - done, 1),
            "after_memory_mib": round(max(each[2] for each in rows if each[0] >= done) / 2**20, 1),
            "report_mib": round((out / "report.json").stat().st_size / 2**20, 1),
            "page_mib": round((out / "index.html").stat().st_size / 2**20, 1),
        }
        if given.browser:
            row |= opened(out / "index.html")
    print(row)
    if given.json:
        save(given.json, [row])


if __name__ == "__main__":
    main()
