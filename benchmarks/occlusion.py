"""Occlusion: cnnviz beside captum, in one process, in turns.

    python -m benchmarks.occlusion [--models resnet18,...] [--precisions fp32,bf16] [--photographs] [--json FILE]

One image of 224 x 224, a window of 32, a stride of 8 (625 positions), one target logit, random weights with
calibrated batch normalisation. cnnviz runs all windows. captum's ``Occlusion``, at its best
``perturbations_per_eval`` of those tried, and the whole network for each window take the same time for every window
and run 49 of them, from which the time of all follows. The best of several rounds counts; of cnnviz the second of two
runs in a row, as the images of a folder follow one another: turned from one precision to the other, oneDNN prepares
each shape anew. Times are processor seconds of one thread by default, which other users of the machine disturb least;
``--wall`` takes the clock and all threads. captum lets the last window hang over the edge; at this size no window
does, so the grids are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from captum.attr import Occlusion
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, resize, to_tensor

import cnnviz
from benchmarks import timing
from cnnviz.engine import runtime
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.methods.perturbation.incremental.windows import occluded_logits
from cnnviz.methods.perturbation.occlusion import place_windows

MODELS = "resnet18,resnet50,vgg16,mobilenet_v2,efficientnet_lite0,densenet121"
REACH = {
    "resnet18": (4, 15),
    "resnet50": (6, 20),
    "vgg16": (11, 50),
    "mobilenet_v2": (12, 18),
    "efficientnet_lite0": (10, 18),
    "densenet121": (4, 12),
}
Clock = Callable[[], float]
SIZE, WINDOW, STRIDE, CLASS = 224, 32, 8, 7
# The whole network runs for every fourth window along both axes: 49 of the 625.
EVERY = 4
PHOTOGRAPHS = Path(__file__).resolve().parent.parent / "sample_images"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Unchecked(runtime.Runtime):
    """Any precision is taken: with random weights rounding says nothing, and only time is measured in bf16."""

    @property
    def tolerance(self) -> float:
        return 1.0


def network(name: str) -> nn.Module:
    """A network with random weights whose batch normalisation fits them; the bundled one with its own."""
    if name == "efficientnet_lite0":
        return cnnviz.load_model(name).module
    torch.manual_seed(0)
    module: nn.Module = getattr(torchvision.models, name)()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        module.train()(torch.randn(8, 3, SIZE, SIZE))
    return module.eval()


def peer(module: nn.Module, image: Tensor, count: int) -> None:
    """captum on some of the windows."""
    with torch.no_grad():
        Occlusion(module).attribute(
            image,
            sliding_window_shapes=(3, WINDOW, WINDOW),
            strides=(3, STRIDE * EVERY, STRIDE * EVERY),
            target=CLASS,
            perturbations_per_eval=count,
        )


def ours(module: nn.Module, name: str, image: Tensor, precision: str, every: int = 0) -> Callable[[], Tensor]:
    """What gives the drops [rows, cols]; with ``every`` by the whole network for one window in so many an axis."""
    unchecked, options = Unchecked(torch.device("cpu"), precision), SessionOptions(Cut.before_classifier())
    session = prepare(module, name, (3, SIZE, SIZE), unchecked, options)
    stride, how = (STRIDE * every, "off") if every else (STRIDE, "on")
    windows = place_windows((SIZE, SIZE), (WINDOW, WINDOW), (stride, stride))

    def run() -> Tensor:
        with runtime.scope():
            clean, occluded = occluded_logits(session, image, windows, torch.zeros_like(image), how)
        drops: Tensor = (clean[:, None] - occluded)[0, :, CLASS].unflatten(0, (len(windows.rows), -1))
        return drops

    return run


def in_turns(
    candidates: dict[str, Callable[[], Any]], clock: Clock, rounds: int, again: Collection[str] = ()
) -> dict[str, float]:
    """The best time of each over some rounds; all have run before, those of ``again`` just before."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            if name in again:
                run()
            began = clock()
            run()
            best[name] = min(best[name], clock() - began)
    return best


def measure(name: str, precisions: list[str], clock: Clock, evals: list[int], rounds: int) -> dict[str, Any]:
    """One row."""
    module = network(name)
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    runs = {precision: ours(module, name, image, precision) for precision in precisions}
    drops = {precision: run()[::EVERY, ::EVERY].flatten() for precision, run in runs.items()}
    whole = ours(module, name, image, "fp32", EVERY)
    exact = whole().flatten()
    tried = in_turns({str(count): partial(peer, module, image, count) for count in evals}, clock, 2)
    count = int(min(tried, key=lambda key: tried[key]))
    best = in_turns({"captum": partial(peer, module, image, count), "dense": whole, **runs}, clock, rounds, runs)
    best["captum"] = min(best["captum"], tried[str(count)])
    # captum asks for the image itself too; the whole network is asked for it once as well.
    all_of = (1 + 625) / (1 + len(exact))
    row: dict[str, Any] = {"model": name, "captum_s": best["captum"] * all_of, "captum_perturbations_per_eval": count}
    row["dense_s"] = best["dense"] * all_of
    for precision in precisions:
        pair = torch.stack([drops[precision], exact])
        row[precision] = {
            "s": best[precision],
            "times_captum": row["captum_s"] / best[precision],
            "times_dense_fp32": row["dense_s"] / best[precision],
            "reach": REACH[name][0 if precision == "fp32" else 1],
            "largest_difference": float((pair[0] - pair[1]).abs().max() / exact.abs().max()),
            "correlation": float(torch.corrcoef(pair)[0, 1]),
        }
    return row


def agreement() -> list[dict[str, Any]]:
    """How well the bundled network's drops in bf16 go with those in float32, on the photographs of the repository."""
    loaded = cnnviz.load_model("efficientnet_lite0")
    shape, cut = (3, SIZE, SIZE), SessionOptions(Cut.before_classifier())
    resolved = {name: runtime.resolve("cpu", name) for name in ("fp32", "bf16")}
    sessions = {name: prepare(loaded.module, "efficientnet_lite0", shape, how, cut) for name, how in resolved.items()}
    windows = place_windows((SIZE, SIZE), (WINDOW, WINDOW), (STRIDE, STRIDE))
    rows = []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        with Image.open(path) as photograph:
            pixels = to_tensor(center_crop(resize(photograph.convert("RGB"), 256), SIZE))
        image = ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None])[None]
        found = {}
        for name, session in sessions.items():
            with runtime.scope():
                clean, occluded = occluded_logits(session, image, windows, torch.zeros_like(image), "on")
            found[name] = (clean, clean[:, None] - occluded)
        best = int(found["fp32"][0].argmax())
        drops = torch.stack([found[name][1][0, :, best] for name in ("fp32", "bf16")])
        rows.append({"photograph": path.name, "class": best, "correlation": float(torch.corrcoef(drops)[0, 1])})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--evals", default="1,4,16", help="perturbations_per_eval to try")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts")
    parser.add_argument("--wall", action="store_true", help="wall time on all threads")
    parser.add_argument("--photographs", action="store_true", help="also compare bf16 with fp32 on photographs")
    parser.add_argument("--json", help="also write the rows here; goes on where it was")
    args = parser.parse_args()
    if not args.wall:
        torch.set_num_threads(1)
    clock = time.perf_counter if args.wall else time.process_time
    rows: list[dict[str, Any]] = timing.load(args.json)
    for name in args.models.split(","):
        evals = [int(count) for count in args.evals.split(",")]
        row = measure(name, args.precisions.split(","), clock, evals, args.rounds)
        print(json.dumps(row), flush=True)
        rows = [*(known for known in rows if known["model"] != name), row]
        save(args, rows)
    if args.photographs:
        save(args, rows, agreement())


def save(args: argparse.Namespace, rows: list[dict[str, Any]], photographs: list[dict[str, Any]] | None = None) -> None:
    """Write what there is by now; what an earlier run measured of other networks is kept."""
    if not args.json:
        return
    before = json.loads(Path(args.json).read_text()) if Path(args.json).is_file() else {}
    order = MODELS.split(",")
    found = {
        "machine": {
            **timing.machine(),
            "threads": torch.get_num_threads(),
            "clock": "wall" if args.wall else "processor",
        },
        "rows": sorted(rows, key=lambda row: order.index(row["model"])),
        "photographs": photographs or before.get("photographs", []),
    }
    Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
