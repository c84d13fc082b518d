"""What the examination of a network before its first image costs (``model.checks`` of the report).

    python -m benchmarks.examination --json benchmarks/results/examination.json

For a method at the last layer, one at the image and FullGrad, which looks at every layer: the best of several
examinations of a network that is loaded and prepared, on one thread. ``seconds`` is by the clock, ``processor_seconds``
what the thread was given of it (a busy machine changes it less), ``forward`` a forward pass over one image likewise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import cnnviz
from benchmarks.timing import machine, save
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import cut_for
from cnnviz.engine.examine import Wanted, examine
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.registry import lookup

METHODS = ("gradcam", "guided", "fullgrad")


def best(run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Least time by the clock, and least time of this thread, over so many runs."""
    clock = processor = float("inf")
    for _ in range(rounds):
        began, given = time.perf_counter(), time.thread_time()
        run()
        clock, processor = min(clock, time.perf_counter() - began), min(processor, time.thread_time() - given)
    return {"seconds": round(clock, 4), "processor_seconds": round(processor, 4)}


def measured(model: Any, method: str, rounds: int) -> dict[str, Any]:
    spec = lookup.find_method(method)
    shape = model.loaded.preprocess.input_size
    probe = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    options = SessionOptions(cut_for(spec, spec.resolve_params({}), ()))
    with open_session(model.module, model.loaded.name, shape, rt.resolve("cpu"), options) as session:

        def examination() -> None:
            session.forget()
            examine(session, probe, Wanted(method, True))

        examination()
        return {
            "model": model.loaded.name,
            "method": method,
            **best(examination, rounds),
            "forward": best(lambda: session.forward(probe), rounds),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json")
    given = parser.parse_args()
    print(machine())
    model, rows = cnnviz.load_model(given.model), []
    with rt.threads(1):
        for method in METHODS:
            rows.append(measured(model, method, given.rounds))
            print(rows[-1], flush=True)
    save(given.json, rows)


if __name__ == "__main__":
    main()
