"""What images of many sizes cost in Python: one session that is checked at each size, against one for each size.

    python -m benchmarks.shapes --json benchmarks/results/shapes.json

Twenty sizes that come once each, one image of noise at a time, on one thread. ``alone`` prepares the network anew for
each size and keeps the last eight, as cnnviz did before it shared sessions. Each way runs in a process of its own.
Times are seconds that the processor worked: ``first`` and ``each_new`` (median) of a size that was not seen before,
``again`` of one that was, ``own`` of the network's own forward pass at that size. ``grown_mib`` is what the
process takes more after the last size than after the first.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import cnnviz
from benchmarks.family_networks import calibrate
from benchmarks.timing import machine, save
from cnnviz.engine import kept_sessions
from cnnviz.engine import runtime as rt

SIZES = [(224 + 16 * (7 * i % 11), 224 + 16 * (5 * i % 13)) for i in range(20)]
NETWORKS = {"efficientnet_lite0": "gradcam", "resnet50": "gradcam", "vit": "saliency"}


def vit() -> torch.nn.Module:
    """A network with attention that takes any multiple of 16; it is explained by hooks."""
    import timm

    torch.manual_seed(0)
    made: torch.nn.Module = timm.create_model("vit_small_patch16_224", dynamic_img_size=True)
    return made


def network(name: str) -> Any:
    """The model of a row, with random calibrated weights where none are bundled."""
    if name == "efficientnet_lite0":
        return cnnviz.load_model(name)
    if name == "vit":
        return cnnviz.load_model(f"{Path(__file__).resolve()}:vit")
    model = cnnviz.load_model(name, weights=None)
    calibrate(model.module, (224, 224))
    return model


def worked(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def resident() -> int:
    """MiB that this process has in memory."""
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


def measured(name: str, way: str) -> dict[str, Any]:
    """One row: a network whose sizes come once each."""
    if way == "alone":
        kept_sessions.output_at = lambda *asked: None
    model, method = network(name), NETWORKS[name]
    images = [torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(0)) for size in SIZES]
    with rt.threads(1):
        first = worked(lambda: cnnviz.explain(model, images[0], method))
        before = resident()
        new = [worked(lambda x=x: cnnviz.explain(model, x, method)) for x in images[1:]]
        grown = resident() - before
        again = min(worked(lambda: cnnviz.explain(model, images[-1], method)) for _ in range(5))
        with torch.no_grad():
            own = min(worked(lambda: model.module(images[-1])) for _ in range(5))
    seconds = {"first": first, "each_new": statistics.median(new), "all": first + sum(new), "again": again, "own": own}
    return {
        "model": name, "method": method, "way": way, "sessions": len(model._sessions.all()),
        **{key: round(value, 4) for key, value in seconds.items()}, "grown_mib": grown,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, help="a network and a way: that row alone, in this process")
    parser.add_argument("--json")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(*given.one)))
        return
    print(machine())
    rows = []
    for name in NETWORKS:
        for way in ("shared", "alone"):
            words = [sys.executable, "-m", "benchmarks.shapes", "--one", name, way]
            rows.append(json.loads(subprocess.check_output(words, text=True).splitlines()[-1]))
            print(rows[-1], flush=True)
    save(given.json, rows)


if __name__ == "__main__":
    main()
