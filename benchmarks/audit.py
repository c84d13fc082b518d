"""What an audit costs, what a repeat costs, and how often a policy that holds is called violated.

python -m benchmarks.audit cost PHOTOS --truth instances.json --json benchmarks/results/audit.json
python -m benchmarks.audit alarms --json benchmarks/results/audit.json

``cost`` repeats the photographs until there are so many, each under a name of its own, and audits them with ``inside``,
``avoid`` and ``counterfactual``, several times with one cache, and once without one and with pictures as JPEG, in
processes of their own. Beside it stand the passes that this needs: as many maps as there are images, and the passes of
changed photographs, by ``cnnviz.explain`` on batches that lie ready. Times are of the processor, which other work on a
shared machine changes little, and of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cnnviz
from benchmarks.timing import machine
from cnnviz.metrics.tests import binomial_p, t_p

POLICY = """\
version: 1
model: {{name: {model}, weights: {weights}}}
images: {images}
truth: truth.json
truth_labels: any
target: pred
only: all
options: {{image_format: {pictures}}}
checks:
  - {{kind: inside, min_energy: 0.05}}
  - {{kind: avoid, region: background, max_energy: 0.98}}
  - {{kind: counterfactual, replace: background, with: shuffle, max_flips: 0.98}}
"""
NETWORKS = {"efficientnet_lite0": "DEFAULT", "resnet50": "none"}
BATCH = 16


def repeated(photos: Path, truth: Path, folder: Path, count: int) -> None:
    """So many photographs, and their annotations: ``data/`` and ``truth.json``; ``one/`` has the first alone."""
    known = json.loads(truth.read_text("utf-8"))
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in known["annotations"]:
        by_image.setdefault(row["image_id"], []).append(row)
    (folder / "data").mkdir()
    (folder / "one").mkdir()
    images, annotations = [], []
    for number in range(count):
        image = known["images"][number % len(known["images"])]
        name = f"{number:04d}.jpg"
        shutil.copy(photos / image["file_name"], folder / "data" / name)
        images.append({**image, "id": number, "file_name": name})
        for row in by_image.get(image["id"], ()):
            annotations.append({**row, "id": len(annotations), "image_id": number})
    shutil.copy(folder / "data" / "0000.jpg", folder / "one" / "0000.jpg")
    found = {"images": images, "annotations": annotations, "categories": known["categories"]}
    (folder / "truth.json").write_text(json.dumps(found))


def audited(policy: Path, out: Path, cache: Path | None) -> dict[str, Any]:
    """One audit in a process of its own: seconds of the processor and of the clock, and its report's summary."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    line = [sys.executable, "-m", "cnnviz", "audit", str(policy), "-o", str(out), "-q", "--overwrite"]
    line += ["--no-cache"] if cache is None else ["--cache", str(cache)]
    code = subprocess.run(line, check=False).returncode
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code not in (0, 1):
        raise RuntimeError(f"{' '.join(line)} ended with {code}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads((out / "report.json").read_text("utf-8"))["summary"]
    return {"processor_s": round(used, 2), "clock_s": round(clock, 2), "summary": summary}


def seconds_per_pass(model: str, weights: str) -> float:
    """Seconds of the processor that one map of one image takes, on batches that lie ready; the best of several."""
    loaded = cnnviz.load_model(model, weights=None if weights == "none" else weights)
    batch = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    best = float("inf")
    for _ in range(6):
        began = time.process_time()
        cnnviz.explain(loaded, batch, method="gradcam")
        best = min(best, (time.process_time() - began) / BATCH)
    return best


def cost(photos: Path, truth: Path, count: int, networks: Sequence[str]) -> dict[str, Any]:
    """The table of ``cost``, by network."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        repeated(photos, truth, folder, count)
        for model in networks:
            weights = NETWORKS[model]
            for name, images, pictures in (("data", "data", "png"), ("one", "one", "png"), ("jpg", "data", "jpg")):
                text = POLICY.format(model=model, weights=weights, images=images, pictures=pictures)
                (folder / f"{model}-{name}.yaml").write_text(text)
            kept = folder / f"cache-{model}"
            start = audited(folder / f"{model}-one.yaml", folder / "out-one", folder / f"none-{model}")
            first = audited(folder / f"{model}-data.yaml", folder / "out", kept)
            repeats = [audited(folder / f"{model}-data.yaml", folder / "out", kept) for _ in range(3)]
            again = min(repeats, key=lambda each: float(each["processor_s"]))
            jpg = audited(folder / f"{model}-jpg.yaml", folder / "out", None)
            passes = count + first["summary"]["audit"]["passes"]
            need = passes * seconds_per_pass(model, weights)
            work_s = first["processor_s"] - start["processor_s"]
            found[model] = {
                "images": count,
                "passes": passes,
                "passes_processor_s": round(need, 2),
                "start_processor_s": start["processor_s"],
                "first_processor_s": first["processor_s"],
                "repeat_processor_s": again["processor_s"],
                "first_clock_s": first["clock_s"],
                "repeat_clock_s": again["clock_s"],
                "from_cache": again["summary"]["cache"],
                "work_over_passes": round(work_s / need, 3),
                "work_over_passes_jpg": round((jpg["processor_s"] - start["processor_s"]) / need, 3),
                "first_over_repeat": round(first["processor_s"] / again["processor_s"], 1),
                "first_over_repeat_clock": round(first["clock_s"] / again["clock_s"], 1),
            }
            print(model, json.dumps(found[model]), flush=True)
    return found


def alarms(policies: int, groups: int = 100, images: int = 20, false_alarm: float = 0.01) -> dict[str, Any]:
    """How many of so many policies with eight checks on 100 classes, of which everything just holds, are violated.

    Holm's procedure calls any violated where the smallest p of all is at most the rate over their number. Of the means
    of a check only those of the six smallest t are looked at: no other has the smallest p.
    """
    rng, called = np.random.default_rng(0), 0
    binomial = cache(lambda hits, rate, below: binomial_p(hits, images, rate, below=below))
    for _ in range(policies):
        least = []
        for low, (kind, allowed, at_least, values) in _measures(rng, groups, images):
            if kind == "rate":
                least.append(min(binomial(int(hits), allowed, at_least) for hits in values.sum(1)))
                continue
            most = 1 - allowed if at_least else allowed - low
            beyond = (1 if at_least else -1) * (values - allowed)
            order = np.argsort(beyond.mean(1) / beyond.std(1, ddof=1))
            least.append(min(t_p(beyond[group], most) or 0.0 for group in order[:6]))
        called += min(least) <= false_alarm / (len(least) * groups)
    return {
        "policies": policies, "checks": 8, "groups": groups, "images_a_group": images, "false_alarm": false_alarm,
        "called_violated": called, "rate": called / policies,
    }  # fmt: skip


def _measures(rng: np.random.Generator, groups: int, images: int) -> list[tuple[float, Any]]:
    """Eight statements whose truth lies exactly on what is allowed: rates, and means of bounded values, some skewed."""
    shape = (groups, images)
    return [
        (0.0, ("rate", 0.8, True, rng.random(shape) < 0.8)),  # pointing
        (0.0, ("rate", 0.1, False, rng.random(shape) < 0.1)),  # flips
        (0.0, ("rate", 0.95, True, rng.random(shape) < 0.95)),  # accuracy
        (0.0, ("mean", 0.5, True, rng.beta(2, 2, shape))),  # energy inside
        (0.0, ("mean", 0.1, False, rng.beta(1, 9, shape))),  # energy in a region
        (0.0, ("mean", 0.3, True, rng.beta(0.6, 1.4, shape))),  # energy inside, mostly none
        (-1.0, ("mean", 0.8, True, 2 * rng.beta(9, 1, shape) - 1)),  # similarity
        (-1.0, ("mean", 0.1, False, 2 * rng.beta(5.5, 4.5, shape) - 1)),  # drop
    ]


def main() -> None:
    """As the top of the file says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cost", "alarms"))
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--policies", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a repeat would compile this package each time
    if given.what == "cost":
        found = cost(given.photos, given.truth, given.images, given.networks)
    else:
        found = alarms(given.policies)
    print(json.dumps(found, indent=1))
    if given.json is not None:
        known = json.loads(given.json.read_text()) if given.json.exists() else {}
        before = known.get(given.what, {}) if given.what == "cost" else {}
        found = {**known, "machine": machine(), given.what: {**before, **found}}
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
