"""Grad-CAM, compute only: a plain forward pass, cnnviz and the other tools, side by side.

    python -m benchmarks.gradcam --json benchmarks/results/gradcam.json

Figures are shares of the time of a plain eager fp32 forward pass over the same batch in the same process; and of one
in a process of its own, as in a script that does nothing else: there glibc gives the memory of large tensors back after
each pass, and a pass takes longer than beside backward passes, whose memory it keeps.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import cnnviz
from benchmarks.timing import in_turns, load, machine, save

MODELS = ("resnet50", "vgg16", "mobilenet_v2", "efficientnet_lite0")
PLAIN_LAYERS = {"resnet50": "layer4", "vgg16": "features.29", "mobilenet_v2": "features", "efficientnet_lite0": "bn2"}


def ours(model: cnnviz.Model, batch: Tensor, precision: str, compile_mode: str) -> Callable[[], Any]:
    target = list(range(len(batch)))
    return lambda: cnnviz.explain(model, batch, target=target, precision=precision, compile=compile_mode)


def grad_cam(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(model=module, target_layers=[module.get_submodule(layer)])
    targets = [ClassifierOutputTarget(i) for i in range(len(batch))]
    return lambda: cam(input_tensor=batch, targets=targets)


def torchcam(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
    from torchcam.methods import GradCAM

    targets = list(range(len(batch)))

    def run() -> Any:
        with GradCAM(module, target_layer=layer) as extractor:
            return extractor(targets, module(batch))

    return run


def captum(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(module, module.get_submodule(layer))
    targets = list(range(len(batch)))

    def run() -> Any:
        found = method.attribute(batch, target=targets, relu_attributions=True)
        return LayerAttribution.interpolate(found, tuple(batch.shape[2:]), "bilinear")

    return run


def _forward(name: str, batch: Tensor) -> Callable[[], Any]:
    # The others want gradients enabled and may leave traces: each gets its own network.
    return _without_gradients(_fresh(name), batch)


def _without_gradients(network: Callable[[Tensor], Any], batch: Tensor) -> Callable[[], Any]:
    def forward() -> Any:
        with torch.no_grad():
            return network(batch)

    return forward


def _fresh(name: str) -> nn.Module:
    return cnnviz.load_model(name, weights=_weights(name)).module.requires_grad_(True)


def _weights(name: str) -> str | None:
    return "DEFAULT" if name == "efficientnet_lite0" else None


def _batch(count: int) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def forward_alone(name: str, count: int, rounds: int) -> float:
    """Best time of the forward pass in seconds; called in a process that does nothing else."""
    warnings.filterwarnings("ignore")
    return in_turns({"forward": _forward(name, _batch(count))}, rounds)["forward"]


def candidates(name: str, count: int, *, compiled: bool) -> dict[str, Callable[[], Any]]:
    """Everything that is timed for one model and batch size."""
    model, batch, layer = cnnviz.load_model(name, weights=_weights(name)), _batch(count), PLAIN_LAYERS[name]
    found: dict[str, Callable[[], Any]] = {
        "forward": _forward(name, batch),
        "cnnviz fp32": ours(model, batch, "fp32", "off"),
        "cnnviz bf16": ours(model, batch, "bf16", "off"),
    }
    half = _fresh(name).to(torch.bfloat16).to(memory_format=torch.channels_last)
    pixels = batch.to(torch.bfloat16).to(memory_format=torch.channels_last)
    found["forward bf16"] = _without_gradients(half, pixels)
    if compiled:
        found["forward fp32 compiled"] = _without_gradients(torch.compile(_fresh(name)), batch)
        found["forward bf16 compiled"] = _without_gradients(torch.compile(half), pixels)
        found["cnnviz fp32 compiled"] = ours(model, batch, "fp32", "on")
        found["cnnviz bf16 compiled"] = ours(model, batch, "bf16", "on")
    for peer, make in (("pytorch-grad-cam", grad_cam), ("torchcam", torchcam), ("captum", captum)):
        try:
            found[peer] = make(_fresh(name), layer, batch)
        except ImportError:
            print(f"{peer} is not installed: pip install 'cnnviz[bench]'")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(machine())
    rows = [
        row
        for row in load(given.json)
        if (row["model"], row["batch"]) not in itertools.product(given.models, given.batch)
    ]
    for name in given.models:
        for count in given.batch:
            with multiprocessing.get_context("spawn").Pool(1) as own:
                alone = own.apply(forward_alone, (name, count, given.rounds))
            times = in_turns(candidates(name, count, compiled=not given.no_compile), given.rounds)
            base = times["forward"]
            shares = {key: round(value / base, 3) for key, value in times.items()}
            of_alone = {key: round(value / alone, 3) for key, value in times.items()}
            seconds = {"forward_seconds": round(base, 5), "forward_alone_seconds": round(alone, 5)}
            of_both = {"share_of_forward": shares, "share_of_forward_alone": of_alone}
            rows.append({"model": name, "batch": count, **seconds, **of_both})
            print(f"\n{name}, batch {count}: forward {base * 1000:.1f} ms, alone {alone * 1000:.1f} ms")
            for key, share in shares.items():
                print(f"  {key:24s} {share:6.3f} {of_alone[key]:6.3f}")
            torch._dynamo.reset()
            save(given.json, rows)


if __name__ == "__main__":
    main()
