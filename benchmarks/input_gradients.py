"""The gradient at the image in float32 and in bf16, beside captum's, and how near each is to that in float64.

    python -m benchmarks.input_gradients --json benchmarks/results/input_gradients.json

Saliency of the same classes of the same batch by ``cnnviz.explain`` and by captum, on one thread, in turns; processor
seconds, the best of several rounds. Networks have random weights and normalisations that fit them, the bundled one its
own. ``agreement`` is the least correlation of a map with that of the plain modules in float64, over the sample images.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

import cnnviz
from benchmarks.occlusion import network
from benchmarks.timing import load, machine, save
from cnnviz.engine.precision import correlation
from cnnviz.io.decode import decode

MODELS = ("resnet50", "efficientnet_lite0")
PRECISIONS = ("fp32", "bf16")
SAMPLES = Path(__file__).resolve().parent.parent / "sample_images"


def photographs(model: cnnviz.Model, count: int) -> Tensor:
    """Sample images as the network wants them, again and again: [count, 3, H, W]."""
    found = [model.transform(decode(path.read_bytes()).rgb) for path in sorted(SAMPLES.glob("*.jpg"))]
    return torch.stack([found[place % len(found)] for place in range(count)])


def fitted(name: str) -> cnnviz.Model:
    """The bundled network, or one with random weights that fit it."""
    if name == "efficientnet_lite0":
        return cnnviz.load_model(name)
    model = cnnviz.load_model(name, weights=None)
    model.module.load_state_dict(network(name).state_dict())
    return model


def of_plain(module: nn.Module, batch: Tensor, targets: list[int]) -> Tensor:
    """Saliency by autograd alone, image by image, [N, H, W]."""
    found = []
    for image, target in zip(batch.split(1), targets, strict=True):
        leaf = image.clone().requires_grad_()
        found.append(torch.autograd.grad(module(leaf)[0, target], leaf)[0].abs().amax(1))
    return torch.cat(found)


def best(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Processor seconds of each call, in turns, after one that does not count."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if turn:
                found[name] = min(found[name], time.process_time() - began)
    return found


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """One row."""
    model = fitted(name)
    module, batch = model.module, photographs(model, count)
    targets = module(batch).argmax(1).tolist()
    peer = captum.attr.Saliency(copy.deepcopy(module).requires_grad_(True))
    calls: dict[str, Callable[[], Any]] = {"captum": lambda: peer.attribute(batch, target=targets)}
    for precision in PRECISIONS:
        calls[precision] = functools.partial(cnnviz.explain, model, batch, "saliency", targets, precision=precision)
    seconds = best(calls, rounds)
    distinct = slice(len(list(SAMPLES.glob("*.jpg"))))
    exact = of_plain(copy.deepcopy(module).double(), batch[distinct].double(), targets[distinct])
    maps = {"plain fp32": of_plain(module, batch[distinct], targets[distinct])}
    maps.update({precision: calls[precision]().raw[distinct].abs().amax(1) for precision in PRECISIONS})
    return {
        "model": name,
        "batch": count,
        "seconds": {key: round(value, 4) for key, value in seconds.items()},
        "times": {key: round(seconds["captum"] / seconds[key], 2) for key in PRECISIONS},
        "agreement": {
            key: round(min(correlation(a, b) for a, b in zip(found, exact, strict=True)), 5)
            for key, found in maps.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(machine())
    rows = load(given.json)
    for name, count in itertools.product(given.models, given.batch):
        row = measure(name, count, given.rounds)
        rows = [r for r in rows if (r["model"], r["batch"]) != (name, count)] + [row]
        print(row, flush=True)
        save(given.json, rows)


if __name__ == "__main__":
    main()
