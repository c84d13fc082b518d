"""Studies of a folder: the rate of their one pass beside that of the forward pass alone, and peak memory.

    python -m benchmarks.studies --source PHOTOS --json benchmarks/results/studies.json

``forward`` runs the network in the same lanes on batches that are already decoded and prepared: no reading, no study.
``pass`` reads, decodes, runs and looks at every image; what a study draws at its end is not in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.folder import make_folder
from benchmarks.timing import machine, save
from cnnviz.engine import runtime as rt
from cnnviz.io.decode import decode
from cnnviz.io.sources import find_images, read_bytes
from cnnviz.io.store import Store
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.registry import lookup
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, TargetSettings
from cnnviz.studies.base import Study
from cnnviz.studies.run import loop_of

STUDIES: dict[str, dict[str, Any]] = {"top-patches": {"units": "all"}, "embed": {}}


def settings(name: str, folder: Path, out: Path, model: str, **params: Any) -> RunSettings:
    spec = lookup.find_entry(name)
    return RunSettings(
        command=name,
        inputs=(str(folder),),
        model=ModelSpec(model=model, weights="DEFAULT" if model == "efficientnet_lite0" else "none"),
        target=TargetSettings(method=name, params=spec.resolve_params(params).to_dict()),
        output=OutputSettings(str(out), overwrite=True),
    )


def opened(asked: RunSettings, out: Path) -> Study[Any]:
    """The study of a run, before its first image."""
    kind = cast("type[Study[Any]]", lookup.find_entry(asked.command).load())
    params = lookup.find_entry(asked.command).resolve_params(asked.target.params)
    prepared = PreparedModel(asked, kind.cut(asked, params), None, print, lambda one: kind.adapt(one, asked, params))
    return kind(prepared, params, Store(str(out)))


def pass_rate(asked: RunSettings, out: Path, count: int) -> tuple[float, PreparedModel]:
    """Images a second of the one pass."""
    study = opened(asked, out)
    loop = loop_of(study, None)
    began = time.perf_counter()
    loop.run(None, None)
    return count / (time.perf_counter() - began), study.prepared


def forward_rate(prepared: PreparedModel, folder: Path, count: int) -> float:
    """Images a second of the network alone, in the lanes of the run; 64 images again and again."""
    refs = list(find_images([str(folder)]))[:64]
    pixels = [prepare(decode(read_bytes(ref)).rgb, prepared.preprocess)[0] for ref in refs]
    size = prepared.batch_size
    batches = [torch.stack(pixels[i : i + size]) for i in range(0, len(pixels) - size + 1, size)]

    def run(number: int) -> int:
        with rt.scope():
            prepared.session.forward(normalize(batches[number % len(batches)], prepared.preprocess))
        return size

    lanes = prepared.lanes
    with rt.threads(lanes.threads), ThreadPoolExecutor(lanes.count, "model", rt.use_threads, (lanes.threads,)) as pool:
        began = time.perf_counter()
        done = sum(pool.map(run, range(-(-count // size))))
        return done / (time.perf_counter() - began)


CHILD = """
import json, resource, sys
from pathlib import Path
from benchmarks.folder import Silent
from benchmarks.studies import settings
from cnnviz import pipeline
name, folder, out, params = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
pipeline.run(settings(name, folder, out, "efficientnet_lite0", **params), Silent())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(name: str, folder: Path, out: Path) -> float:
    """Peak memory in MiB of a whole run with the bundled model, in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    params = json.dumps({"units": "top:16", "patch_gradient": "none"} if name == "top-patches" else {})
    command = [sys.executable, "-c", CHILD, name, str(folder), str(out), params]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="sample_images")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", nargs=2, type=int, default=(500, 2000), help="inputs of the memory comparison")
    parser.add_argument("--json")
    given = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "in", Path(place) / "out"
        make_folder(Path(given.source), folder, given.count)
        sizes = {count: Path(place) / str(count) for count in given.memory}
        for count, path in sizes.items():
            make_folder(Path(given.source), path, count)
        for name, params in STUDIES.items():
            rates: dict[str, list[float]] = {"pass": [], "forward": []}
            for _ in range(given.rounds):
                rate, prepared = pass_rate(settings(name, folder, out, given.model, **params), out, given.count)
                rates["pass"].append(rate)
                rates["forward"].append(forward_rate(prepared, folder, given.count))
            best = {key: max(values) for key, values in rates.items()}
            few, many = (peak(name, path, out) for path in sizes.values())
            row = {
                "study": name,
                "model": given.model,
                "images": given.count,
                "forward_images_per_second": round(best["forward"], 2),
                "pass_images_per_second": round(best["pass"], 2),
                "share_of_forward": round(best["pass"] / best["forward"], 3),
                "peak_mib": {str(count): round(value) for count, value in zip(sizes, (few, many), strict=True)},
                "peak_ratio": round(many / few, 4),
            }
            rows.append(row)
            print(row, flush=True)
            save(given.json, rows)


if __name__ == "__main__":
    main()
