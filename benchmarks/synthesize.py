"""Steps of ``cnnviz synthesize`` beside bare forward and backward steps; ten classes within the default steps.

    python -m benchmarks.synthesize --json benchmarks/results/synthesize.json
    python -m benchmarks.synthesize --only-classes --second resnet50      # what another network says of the pictures

A bare step is a forward pass of the eager module over the batch and the gradient of a logit at the pixels, nothing
else, in the same process. ``rate`` is the time of a bare step over the time of a step of the ascent with its default
options: the Fourier transform, views, penalties, Adam. ``prepared`` is the bare step of the prepared network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import cnnviz
from benchmarks.timing import in_turns, load, machine, save
from cnnviz import pipeline
from cnnviz.io.store import Store
from cnnviz.models.loading.load import load as load_model
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.registry import lookup
from cnnviz.registry.image_makers import SynthesizeOptions
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from cnnviz.studies.synthesize.study import Synthesize

CLASSES = (1, 7, 292, 340, 779, 949, 953, 967, 980, 985)
"""Goldfish, cock, tiger, zebra, school bus, strawberry, pineapple, espresso, volcano, daisy."""


class Silent:
    def start(self, total: int | None) -> None: ...

    def advance(self, record: Any) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


def asked(classes: tuple[str, ...], out: str, **params: Any) -> RunSettings:
    return RunSettings(
        command="synthesize",
        inputs=(),
        target=TargetSettings(method="synthesize", params=params, classes=classes),
        runtime=RuntimeSettings(seed=0),
        output=OutputSettings(out=out, overwrite=True),
    )


def candidates(count: int, steps: int, folder: str) -> dict[str, Callable[[], Any]]:
    """``steps`` steps of each kind for a batch of ``count`` images."""
    settings = asked(("340",), folder, steps=steps, images=count, diversity=0.0)
    params = lookup.find_entry("synthesize").resolve_params(settings.target.params)
    assert isinstance(params, SynthesizeOptions)
    prepared = PreparedModel(settings, Synthesize.cut(settings, params), None, lambda text: None)
    study = Synthesize(prepared, params, Store(folder))
    objective, seeds = study._objective(study.rows), [row.seed for row in study.rows]
    module = load_model(ModelSpec()).module.eval().requires_grad_(False)
    batch = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def bare() -> None:
        for _ in range(steps):
            leaf = batch.clone().requires_grad_()
            torch.autograd.grad(module(leaf)[:, 340].sum(), leaf)

    def prepared() -> None:
        for _ in range(steps):
            reading = study.maker.reader.read(batch)
            assert reading.logits is not None
            reading.gradient(reading.logits[:, 340].sum())

    return {"bare": bare, "prepared": prepared, "synthesize": lambda: study.maker.make(objective, seeds)}


def ten_classes(folder: str, second: Any) -> dict[str, Any]:
    """The probability of each class in the picture made for it, as written, with all options at their defaults.

    ``second`` is another network, or None: ``rank`` is the number of classes that it finds likelier in the file.
    """
    began = time.perf_counter()
    pipeline.run(asked(tuple(map(str, CLASSES)), folder, each=True), Silent())
    seconds = (time.perf_counter() - began) / len(CLASSES)
    report = json.loads((Path(folder) / "report.json").read_text())
    found, ranks = {}, {}
    for index, row in zip(CLASSES, report["synthesized"], strict=True):
        said = {score["class_index"]: score["probability"] for score in row["synthesized_predictions"]}
        found[row["objective"]] = round(said.get(index, 0.0), 5)
        if second is not None:
            pixels = np.asarray(Image.open(Path(folder) / row["files"]["image"]).convert("RGB"))
            spec = second.loaded.preprocess
            with torch.no_grad():
                logits = second.module(normalize(prepare(pixels, spec)[0][None], spec))[0]
            ranks[row["objective"]] = int((logits > logits[index]).sum())
    result = {"steps": report["summary"]["steps"], "probability": found, "least": min(found.values())}
    if ranks:
        result["second"] = {"model": second.loaded.name, "rank": ranks, **_hits(ranks)}
    return {**result, "seconds_an_image": round(seconds, 1)}


def _hits(ranks: dict[str, int]) -> dict[str, int]:
    return {"top1": sum(rank < 1 for rank in ranks.values()), "top5": sum(rank < 5 for rank in ranks.values())}


def _second(given: argparse.Namespace) -> Any:
    if given.second is None:
        return None
    options: dict[str, Any] = {"checkpoint": given.second_checkpoint}
    if given.second_mean and given.second_std:
        options.update(mean=tuple(given.second_mean), std=tuple(given.second_std))
    return cnnviz.load_model(given.second, weights=None if given.second_checkpoint else "DEFAULT", **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-classes", action="store_true")
    parser.add_argument("--only-classes", action="store_true")
    parser.add_argument("--second", help="another network, as --model names it, that looks at the pictures")
    parser.add_argument("--second-checkpoint")
    parser.add_argument("--second-mean", type=float, nargs=3)
    parser.add_argument("--second-std", type=float, nargs=3)
    parser.add_argument("--json")
    given = parser.parse_args()
    print(machine())
    rows = [row for row in load(given.json) if row.get("batch") not in given.batch]
    for count in () if given.only_classes else given.batch:
        with tempfile.TemporaryDirectory() as folder:
            times = in_turns(candidates(count, given.steps, folder), given.rounds)
        milliseconds = {name: round(1000 * value / given.steps, 2) for name, value in times.items()}
        rates = {f"rate_of_{name}": round(times[name] / times["synthesize"], 3) for name in ("bare", "prepared")}
        rows.append({"model": "efficientnet_lite0", "batch": count, "milliseconds_a_step": milliseconds, **rates})
        print(rows[-1])
        save(given.json, rows)
    if not given.no_classes:
        rows = [row for row in rows if "least" not in row]
        with tempfile.TemporaryDirectory() as folder:
            rows.append(ten_classes(folder, _second(given)))
        print(rows[-1])
        save(given.json, rows)


if __name__ == "__main__":
    main()
