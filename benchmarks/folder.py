"""The whole command on a folder of photographs, against what its stages would allow if they overlapped perfectly.

    python -m benchmarks.folder --source PHOTOS --json benchmarks/results/folder.json

Stages are measured alone, single-threaded. With t = the sum of their seconds an image, the bound is cores / t.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.timing import machine, save
from cnnviz import pipeline
from cnnviz.drawing import draw
from cnnviz.explainer import Explainer
from cnnviz.io.decode import decode
from cnnviz.io.sources import find_images, read_bytes
from cnnviz.io.writer import Store
from cnnviz.models.preprocess import prepare
from cnnviz.settings import OutputSettings, RunSettings
from cnnviz.subject import Loaded

SIZE = (500, 375)


class Silent:
    """A reporter that says nothing."""

    def start(self, total: int | None) -> None: ...

    def advance(self, record: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None:
        print(f"note: {text}")

    def finish(self) -> None: ...


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
    """Best seconds an image of three passes."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for item in items:
            run(item)
        best = min(best, (time.perf_counter() - began) / (len(items) * size))
    return best


def stages(folder: Path, settings: RunSettings, out: Path) -> dict[str, float]:
    """Single-threaded seconds an image of each stage."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    explainer = Explainer(settings, None, print)
    refs = list(find_images([str(folder)]))[:64]
    data = [read_bytes(ref) for ref in refs]
    images = [decode(item).rgb for item in data]
    ready = [prepare(rgb, explainer.preprocess) for rgb in images]
    loaded = [Loaded(*parts, *done) for *parts, done in zip(refs, images, ready, strict=True)]
    batches = [loaded[i : i + 16] for i in range(0, len(loaded), 16)]
    explained = [row for batch in batches for row in explainer.explain(batch)]
    store = Store(str(out))
    how = pipeline._drawn(settings, explainer, store, None)
    nothing = dataclasses.replace(how, save=frozenset())
    drawn = per_image(lambda row: draw(row, nothing), explained)
    return {
        "read and decode": per_image(lambda ref: decode(read_bytes(ref)), refs),
        "preprocess": per_image(lambda rgb: prepare(rgb, explainer.preprocess), images),
        "model": per_image(explainer.explain, batches, 16),
        "place and measure": drawn,
        "draw, encode, write": per_image(lambda row: draw(row, how), explained) - drawn,
    }


CHILD = """
import json, resource, sys, time
from benchmarks.folder import Silent, run_settings
from cnnviz import pipeline
result = pipeline.run(run_settings(sys.argv[1], sys.argv[2]), Silent())
print(json.dumps({"rate": result.summary["images_per_second"], "seconds": result.summary["seconds"],
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def run_settings(folder: str | Path, out: str | Path) -> RunSettings:
    return RunSettings("gradcam", (str(folder),), output=OutputSettings(str(out)))


def child(folder: Path, out: Path) -> dict[str, float]:
    """One run in a process of its own."""
    import json

    shutil.rmtree(out, ignore_errors=True)
    printed = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(out)], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="sample_images")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--many", type=int, default=2000, help="inputs of the memory comparison; 0 leaves it out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json")
    given = parser.parse_args()
    cores = machine()["cores"]
    with tempfile.TemporaryDirectory() as place:
        few, many, out = Path(place) / "few", Path(place) / "many", Path(place) / "out"
        make_folder(Path(given.source), few, given.count)
        runs = [child(few, out) for _ in range(given.runs)]
        times = stages(few, run_settings(few, out), Path(place) / "alone")
        bound = cores / sum(times.values())
        best = max(runs, key=lambda run: run["rate"])
        row: dict[str, Any] = {
            "images": given.count,
            "milliseconds_an_image_alone": {name: round(seconds * 1000, 2) for name, seconds in times.items()},
            "bound_images_per_second": round(bound, 1),
            "reached_images_per_second": best["rate"],
            "share_of_bound": round(best["rate"] / bound, 3),
            "peak_mib": round(best["peak_mib"], 1),
        }
        if given.many:
            make_folder(Path(given.source), many, given.many)
            larger = child(many, out)
            row[f"peak_mib_{given.many}"] = round(larger["peak_mib"], 1)
            row["peak_ratio"] = round(larger["peak_mib"] / best["peak_mib"], 4)
        for name, value in row.items():
            print(f"{name:32s} {value}")
        save(given.json, [row])


if __name__ == "__main__":
    main()
