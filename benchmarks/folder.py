"""The whole command on a folder of photographs, against what its stages would allow if they overlapped perfectly.

    python -m benchmarks.folder --source PHOTOS --json benchmarks/results/folder.json
    python -m benchmarks.folder --large --json benchmarks/results/folder.json   # memory of large photographs

Stages are measured alone, single-threaded, by the time of the processor, which other jobs of the machine lengthen less
than the clock's. With t = the sum of their seconds an image, the bound is cores / t; the rate of a quiet machine is
estimated as cores / (the processor's seconds an image of the whole run), beside what the clock said.
Memory of large photographs: the peak of a run above that of the same run over one picture of 64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.timing import load, machine, save
from cnnviz import pipeline
from cnnviz.io.decode import decode
from cnnviz.io.freed_memory import keep_freed_memory
from cnnviz.io.sources import find_images, read_bytes
from cnnviz.io.store import Store
from cnnviz.maps.explainer import Explainer
from cnnviz.maps.write_image import draw
from cnnviz.models.preprocess import prepare
from cnnviz.run import counting
from cnnviz.run.images import DecodedImage
from cnnviz.settings import OutputSettings, RunSettings, RuntimeSettings

SIZE = (500, 375)
PRECISIONS = ("fp32", "bf16")
# Number, width, height, format, and how many MiB above idle a run of them may take.
LARGE = ((96, 4000, 3000, "jpg", 1536), (24, 12000, 9000, "jpg", 2560), (8, 7000, 7000, "png", 1536))
LARGE_WORKERS = 16


class Silent(counting.Silent):
    """A reporter that says nothing, and knows what the processor did between the first image and the last."""

    def __init__(self) -> None:
        self.processor_seconds = 0.0

    def start(self, total: int | None) -> None:
        self.processor_seconds = -time.process_time()

    def note(self, text: str) -> None:
        print(f"note: {text}")

    def finish(self) -> None:
        self.processor_seconds += time.process_time()


def make_folder(source: Path, folder: Path, count: int) -> None:
    """``count`` different JPEGs of 500x375: crops of the photographs in ``source``, mirrored and re-lit."""
    rng = np.random.default_rng(0)
    photos = [
        decode(read_bytes(ref)).rgb for ref in find_images([str(source)]) if ref.uri.lower().endswith(("jpg", "jpeg"))
    ]
    folder.mkdir(parents=True)
    for index in range(count):
        rgb = photos[index % len(photos)]
        scale = rng.uniform(0.75, 1.0)
        height, width = (int(side * scale) for side in rgb.shape[:2])
        top, left = rng.integers(0, rgb.shape[0] - height + 1), rng.integers(0, rgb.shape[1] - width + 1)
        crop = rgb[top : top + height, left : left + width, :: (-1 if index % 2 else 1)]
        crop = cv2.resize(
            np.ascontiguousarray(crop[:, :: (-1 if index % 3 == 0 else 1)]), SIZE, interpolation=cv2.INTER_AREA
        )
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), crop, [cv2.IMWRITE_JPEG_QUALITY, 92])


def per_image(run: Callable[[Any], Any], items: list[Any], size: int = 1) -> float:
    """Best seconds of the processor an image of three passes."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for item in items:
            run(item)
        best = min(best, (time.process_time() - began) / (len(items) * size))
    return best


def stages(folder: Path, settings: RunSettings, out: Path) -> dict[str, float]:
    """Single-threaded seconds an image of each stage."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    explainer = Explainer(settings, None, print)
    refs = list(find_images([str(folder)]))[:64]
    data = [read_bytes(ref) for ref in refs]
    images = [decode(item).rgb for item in data]
    ready = [prepare(rgb, explainer.prepared.preprocess) for rgb in images]
    loaded = [DecodedImage(*parts, *done) for *parts, done in zip(refs, images, ready, strict=True)]
    size = explainer.prepared.batch_size
    batches = [loaded[i : i + size] for i in range(0, len(loaded), size)]
    explained = [row for batch in batches for row in explainer.explain(batch)]
    store = Store(str(out))
    how = pipeline.output_style(settings, explainer, store, None)
    nothing = dataclasses.replace(how, save=frozenset())
    drawn = per_image(lambda row: draw(row, nothing), explained)
    return {
        "read and decode": per_image(lambda ref: decode(read_bytes(ref)), refs),
        "preprocess": per_image(lambda rgb: prepare(rgb, explainer.prepared.preprocess), images),
        "model": per_image(explainer.explain, batches, size),
        "place and measure": drawn,
        "draw, encode, write": per_image(lambda row: draw(row, how), explained) - drawn,
    }


CHILD = """
import json, resource, sys, time
from benchmarks.folder import Silent, run_settings
from cnnviz import pipeline
from cnnviz.io.freed_memory import keep_freed_memory
keep_freed_memory()  # as the command does
reporter = Silent()
result = pipeline.run(run_settings(sys.argv[1], sys.argv[2], int(sys.argv[3]) or None, sys.argv[4]), reporter)
print(json.dumps({"rate": result.summary["images_per_second"], "seconds": result.summary["seconds"],
                  "processor": reporter.processor_seconds / result.summary["inputs"],
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def run_settings(
    folder: str | Path, out: str | Path, workers: int | None = None, precision: str = "fp32"
) -> RunSettings:
    runtime = RuntimeSettings(workers=workers, precision=precision)
    return RunSettings("gradcam", (str(folder),), runtime=runtime, output=OutputSettings(str(out)))


def make_large(folder: Path, kind: tuple[int, int, int, str]) -> None:
    """One photograph and links to it: what is measured is memory. A PNG is flat with transparency: few bytes."""
    count, width, height, suffix = kind
    folder.mkdir(parents=True)
    first = folder / f"000.{suffix}"
    if suffix == "png":
        flat = np.full((height, width, 4), (120, 60, 200, 128), np.uint8)
        cv2.imwrite(str(first), flat, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    else:
        coarse = np.random.default_rng(0).integers(0, 255, (height // 50, width // 50, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(first), smooth, [cv2.IMWRITE_JPEG_QUALITY, 92])
    for index in range(1, count):
        (folder / f"{index:03d}.{suffix}").hardlink_to(first)


def large(place: Path) -> list[dict[str, Any]]:
    """Peak memory over folders of large photographs, above idle."""
    make_large(place / "idle", (1, 64, 64, "jpg"))
    idle = child(place / "idle", place / "out", LARGE_WORKERS)["peak_mib"]
    rows = []
    for count, width, height, suffix, allowed in LARGE:
        folder = place / f"{width}"
        make_large(folder, (count, width, height, suffix))
        run = child(folder, place / "out", LARGE_WORKERS)
        row = {
            "images": count,
            "size": f"{width}x{height}",
            "format": suffix,
            "workers": LARGE_WORKERS,
            "idle_mib": round(idle, 1),
            "above_idle_mib": round(run["peak_mib"] - idle, 1),
            "allowed_mib": allowed,
            "seconds": run["seconds"],
        }
        print(row, flush=True)
        rows.append(row)
        shutil.rmtree(folder)
    return rows


def child(folder: Path, out: Path, workers: int = 0, precision: str = "fp32") -> dict[str, float]:
    """One run in a process of its own."""
    import json

    shutil.rmtree(out, ignore_errors=True)
    printed = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(out), str(workers), precision],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="sample_images")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--many", type=int, default=2000, help="inputs of the memory comparison; 0 leaves it out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="only the memory of large photographs")
    parser.add_argument("--json")
    given = parser.parse_args()
    keep_freed_memory()  # as the command does
    if given.large:
        with tempfile.TemporaryDirectory() as place:
            kept = [row for row in load(given.json) if "above_idle_mib" not in row]
            save(given.json, [*kept, *({**row, "machine": machine()} for row in large(Path(place)))])
        return
    with tempfile.TemporaryDirectory() as place:
        rows = measured(Path(place), given)
    kept = [old for old in load(given.json) if "above_idle_mib" in old]
    save(given.json, [*rows, *kept])


def measured(place: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each precision; their runs take turns."""
    cores = machine()["cores"]
    few, many, out = place / "few", place / "many", place / "out"
    make_folder(Path(given.source), few, given.count)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in PRECISIONS}
    for _ in range(given.runs):
        for name, own in runs.items():
            own.append(child(few, out, precision=name))
    rows = []
    for name, own in runs.items():
        times = stages(few, run_settings(few, out, precision=name), place / "alone")
        bound = cores / sum(times.values())
        processor = min(run["processor"] for run in own)
        row: dict[str, Any] = {
            "precision": name,
            "images": given.count,
            "processor_milliseconds_an_image_alone": {key: round(value * 1000, 2) for key, value in times.items()},
            "bound_images_per_second": round(bound, 1),
            "processor_milliseconds_an_image": round(1000 * processor, 2),
            "quiet_images_per_second": round(cores / processor, 1),
            "share_of_bound": round(cores / processor / bound, 3),
            "reached_images_per_second": max(run["rate"] for run in own),
            "load_average": round(os.getloadavg()[1], 1),
            "peak_mib": round(max(run["peak_mib"] for run in own), 1),
        }
        if given.many and name == PRECISIONS[0]:
            make_folder(Path(given.source), many, given.many)
            larger = child(many, out)
            row[f"peak_mib_{given.many}"] = round(larger["peak_mib"], 1)
            row["peak_ratio"] = round(larger["peak_mib"] / row["peak_mib"], 4)
        for key, value in row.items():
            print(f"{key:32s} {value}", flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
