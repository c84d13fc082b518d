"""What measuring maps costs: ``localize`` of six methods beside one of them, ``evaluate`` beside its forward passes.

    OMP_NUM_THREADS=1 python -m benchmarks.measuring PHOTOS --truth instances.json --json FILE

All runs are in one process, in turns, after one that warms it up, and without a cache. Of several rounds all are kept
and the best are compared. Times are of the processor, which other work on the machine changes less than those of the
clock. Of the six methods one more run says where the time goes: the own time of some functions, without that of others
in the table. Work that the network's library gives to threads of its own would be missing there: hence OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import load, save
from cnnviz.cli.app import main as cnnviz
from cnnviz.registry import lookup

ONE = "gradcam"
SIX = "gradcam,gradcam++,layercam,hirescam,xgradcam,eigencam"
PASSES = ("engine.session:Session.forward", "engine.session:Session.output_of", "engine.session:ForwardPass.rerun")
STAGES = {
    "network": PASSES,
    "methods": ("methods.explain:explain_batch",),
    "start": ("maps.explainer:Explainer.__init__",),
    "decoding": ("run.reading:Reading._decode",),
    "placing": ("geometry.placement:place", "maps.placing:on_photograph"),
    "statistics of maps": ("metrics.map_statistics:map_scores", "metrics.derived:regions_above"),
    "shares and levels": ("metrics.derived:shares", "metrics.derived:is_flat", "metrics.localization:levels"),
    "regions at all thresholds": ("metrics.localization_regions:regions",),
    "metrics themselves": ("metrics.chosen:MapMetrics.score",),
    "pictures": ("maps.box_picture:box_tile", "render.box_figure:box_figure"),
    "encoding": ("io.encode:encode",),
    "rest of a picture": ("maps.write_image:draw",),
    "figures of the run": ("metrics.chosen:summed_up", "metrics.chosen:gathered", "maps.explainer:Explainer.conclude"),
    "report and page": ("run.folder:RunFolder.close",),
}
EVALUATED = 24
METRICS = ("box_localization", "max_box_acc", "max_box_acc_v2", "pointing_game", "energy_pointing_game", "pxap")


class Clock:
    """Seconds of the processor by stage, in whatever thread."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open = threading.local()
        self._turn = threading.Lock()

    def timed(self, stage: str, function: Any) -> Any:
        """The function, whose time counts for the stage, but for that of others that it calls."""

        @functools.wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            inner: list[float] = self._open.__dict__.setdefault("inner", [])
            began = time.thread_time()
            inner.append(0.0)
            try:
                return function(*given, **named)
            finally:
                took = time.thread_time() - began
                own = took - inner.pop()
                if inner:
                    inner[-1] += took
                with self._turn:
                    self.seconds[stage] += own

        return wrapped

    @contextlib.contextmanager
    def on(self, stages: dict[str, tuple[str, ...]]) -> Iterator[None]:
        """The functions are timed in the block, wherever a module has them."""
        undo: list[tuple[Any, str, Any]] = []
        try:
            for stage, names in stages.items():
                for name in names:
                    module, _, path = name.partition(":")
                    holder: Any = importlib.import_module(f"cnnviz.{module.removeprefix('cnnviz.')}")
                    *classes, last = path.split(".")
                    for each in classes:
                        holder = getattr(holder, each)
                    function = getattr(holder, last)
                    timed = self.timed(stage, function)
                    places = [holder] if classes else [
                        own for key, own in list(sys.modules.items())
                        if key.startswith("cnnviz") and getattr(own, last, None) is function
                    ]  # fmt: skip
                    for place in places:
                        undo.append((place, last, function))
                        setattr(place, last, timed)
            yield
        finally:
            for place, last, function in undo:
                setattr(place, last, function)


def ran(command: str, photos: str, *options: str) -> dict[str, Any]:
    """One run: its seconds, and how many maps it made."""
    with tempfile.TemporaryDirectory() as folder:
        began, clock = time.process_time(), time.perf_counter()
        code = cnnviz([command, photos, *options, "-o", folder, "-q", "--no-cache"])
        used, clock = time.process_time() - began, time.perf_counter() - clock
        if code not in (0, 3):
            raise SystemExit(f"{command} {' '.join(options)}: exit code {code}")
        images = json.loads((Path(folder) / "report.json").read_text())["images"]
    maps = sum(len(each.get("explanations") or ()) for each in images)
    return {"processor_s": round(used, 2), "clock_s": round(clock, 2), "maps": maps, "images": len(images)}


def localize(photos: str, options: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Six methods beside one, with pictures and without; then where the time of the six goes."""
    ran("localize", photos, *options, "--method", SIX, "--limit", "8")
    for pictures in ([], ["--save", "none"]):
        runs: dict[str, list[dict[str, Any]]] = {ONE: [], SIX: []}
        for _ in range(rounds):
            for methods, own in runs.items():
                own.append(ran("localize", photos, *options, "--method", methods, *pictures))
        one, six = (min(each["processor_s"] for each in own) for own in runs.values())
        clock = Clock()
        entries = (lookup.find_metric(name).entry for name in METRICS)
        stages = {**STAGES, "metrics themselves": (*STAGES["metrics themselves"], *entries)}
        with clock.on(stages):
            whole = ran("localize", photos, *options, "--method", SIX, *pictures)
        spent = {stage: round(clock.seconds[stage], 2) for stage in stages}
        yield {
            "name": "localize",
            "save": "none" if pictures else "boxes",
            "one": runs[ONE],
            "six": runs[SIX],
            "six_over_one": round(six / one, 2),
            "stages_s": {**spent, "other": round(whole["processor_s"] - sum(spent.values()), 2)},
        }


def evaluate(photos: str) -> dict[str, Any]:
    """``evaluate --preset small`` beside the time that its forward passes take; without what one image takes."""
    rows = []
    for count in (1, 1 + EVALUATED):
        clock = Clock()
        with clock.on({"network": PASSES}):
            found = ran("evaluate", photos, "--method", ONE, "--preset", "small", "--limit", str(count))
        rows.append({**found, "passes_s": round(clock.seconds["network"], 2)})
    start, whole = rows
    ratio = (whole["processor_s"] - start["processor_s"]) / (whole["passes_s"] - start["passes_s"])
    return {"name": "evaluate --preset small", "one_image": start, "run": whole, "over_passes": round(ratio, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--truth", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=("localize", "evaluate"), default=("localize", "evaluate"))
    parser.add_argument("--json")
    given = parser.parse_args()
    rows = [row for row in load(given.json) if row["name"].split()[0] not in given.parts]
    truth = ["--truth", given.truth, "--truth-classes", "coco"]
    if "localize" in given.parts:
        for row in localize(given.photos, truth, given.rounds):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if "evaluate" in given.parts:
        rows.append(evaluate(given.photos))
        print(json.dumps(rows[-1]))
    save(given.json, rows)


if __name__ == "__main__":
    main()
