"""The gallery of 10,000 images in headless Chromium: how long it takes to write, to open, to filter and to order.

    python -m benchmarks.gallery --json benchmarks/results/gallery.json

A record is that of a usual run: five predictions of 1,000 classes, one map with eight scores, a truth. The page is
opened afresh for each round. A filter is timed in the page: from the change of a control to the second frame that is
drawn after it, when the new cards are on the screen.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from benchmarks.timing import save
from cnnviz.io.store import Store
from cnnviz.report.gallery import Gallery
from cnnviz.run.gallery import GalleryRun, write_gallery

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
)
CLASSES = 1000
SCORES = ("min", "max", "mean", "energy_in_box", "entropy", "area_above_half", "energy", "gap")
# Control by its label, and what is put there: selections change, texts are typed whole.
FILTERS = (
    ("outcome", "wrong"), ("truth", "class 17"), ("predicted", "class 18"), ("search", "class 4 0001"),
    ("score", "energy"), ("least", "0.25"), ("most", "0.5"), ("sort", "path"), ("sort", "-probability"),
    ("search", ""), ("outcome", ""),
)  # fmt: skip
_TIMED = """([label, value]) => new Promise((done) => {
  const control = document.querySelector(`[aria-label="${label}"]`);
  const begun = performance.now();
  control.value = value;
  control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
})"""


def records(count: int) -> Iterator[dict[str, Any]]:
    """Records as a run leaves them."""
    chance = random.Random(0)
    for number in range(count):
        ranked = chance.sample(range(CLASSES), 5)
        truth = ranked[0] if chance.random() < 0.8 else ranked[1]
        shares = sorted((chance.random() for _ in ranked), reverse=True)
        predictions = [
            {"class_index": k, "label": f"class {k}", "probability": share / sum(shares), "logit": 9 * share}
            for k, share in zip(ranked, shares, strict=True)
        ]
        explanation = {
            "method": "gradcam", "layer": "layer4", "target": predictions[0],
            "files": {"overlay": f"images/{number % 64}.png", "heatmap": f"images/{number % 64}.png"},
            "scores": {**{name: chance.random() for name in SCORES}, "box_xywh": [1, 2, 30, 40]},
        }  # fmt: skip
        yield {
            "path": f"/data/imagenet/val/class {truth}/ILSVRC2012_val_{number:08d}.JPEG", "name": f"{number:08d}.JPEG",
            "width": 500, "height": 375, "label": f"class {truth}", "predictions": predictions,
            "explanations": [explanation], "error": None, "outcome": "correct" if truth == ranked[0] else "wrong",
            "true_classes": [{"class_index": truth, "label": f"class {truth}"}],
        }  # fmt: skip


def write(folder: Path, count: int) -> float:
    """Seconds that the page takes to be written."""
    (folder / "images").mkdir()
    noise = np.random.default_rng(0)
    for number in range(64):
        picture = noise.integers(0, 255, (375, 500, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), cv2.GaussianBlur(picture, (0, 0), 9))
    head = Gallery("cnnviz gradcam", "cnnviz gradcam /data/imagenet/val", "resnet50", [("images", str(count))])
    begun = time.perf_counter()
    write_gallery(Store(str(folder)), "cnnviz gradcam", [GalleryRun(head, records(count), "cnnviz gradcam")])
    return time.perf_counter() - begun


def measured(page_file: Path, rounds: int) -> dict[str, Any]:
    """Seconds to open, milliseconds of each filter, and what the console said."""
    opened, filters, said = [], {f"{name}={value}": list[float]() for name, value in FILTERS}, list[str]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        version = browser.version
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            begun = time.perf_counter()
            page.goto(page_file.as_uri())
            page.locator(".card img").first.wait_for()
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            opened.append(time.perf_counter() - begun)
            # The first cards' pictures are decoded before anybody moves a control.
            page.evaluate("Promise.all([...document.images].filter((i) => i.complete).map((i) => i.decode()))")
            for name, value in FILTERS:
                filters[f"{name}={value}"].append(page.evaluate(_TIMED, [name, value]))
            context.close()
        browser.close()
    return {
        "chromium": version,
        "rounds": rounds,
        "open_seconds": {"median": round(statistics.median(opened), 3), "largest": round(max(opened), 3)},
        "filter_milliseconds": {
            name: {"median": round(statistics.median(times), 1), "largest": round(max(times), 1)}
            for name, times in filters.items()
        },
        "console": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = write(folder, asked.count)
        data = sum(path.stat().st_size for path in (folder / "gallery").iterdir())
        found = {
            "images": asked.count,
            "write_seconds": round(seconds, 2),
            "bytes_of_page": (folder / "index.html").stat().st_size,
            "bytes_of_gallery": data,
            **measured(folder / "index.html", asked.rounds),
        }
    print(found)
    if asked.json:
        save(asked.json, [found])


if __name__ == "__main__":
    main()
