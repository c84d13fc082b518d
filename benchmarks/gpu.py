"""Grad-CAM on a graphics card: beside the bare forward pass, beside the maps of the processor, and out of memory.

    python -m benchmarks.gpu PHOTOS --json benchmarks/results/gpu.json

``share`` is the rate of maps over that of a bare forward pass of the same batch in the same precision (channels last,
no gradients); ``folder`` the rate of ``cnnviz gradcam`` on photographs of a folder, start left out, beside that of the
bare pass. ``difference`` is the largest of a map from that of the processor in float32, over the map's maximum. With
``--device cpu`` all of it runs without a card, which shows that it works and says nothing about cards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import cnnviz
from benchmarks.timing import in_turns, save
from cnnviz.cli.app import main as command
from cnnviz.engine.runtime import device_name, wait

MODELS = ("resnet50", "efficientnet_lite0")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def loaded(name: str) -> cnnviz.Model:
    """The bundled network with its weights, others with random ones."""
    return cnnviz.load_model(name) if name == "efficientnet_lite0" else cnnviz.load_model(name, weights=None)


def bare(name: str, batch: Tensor, precision: str, device: torch.device) -> Callable[[], Any]:
    """A forward pass as one writes it."""
    module = loaded(name).module.to(device, DTYPES[precision], memory_format=torch.channels_last)
    pixels = batch.to(device, DTYPES[precision], memory_format=torch.channels_last)

    def run() -> None:
        with torch.no_grad():
            module(pixels)
        wait(device)

    return run


def measured(name: str, count: int, precision: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """A row: the rates, and how far the maps are from those of the processor."""
    batch = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model, target, there = loaded(name), list(range(count)), batch.to(device)

    def maps(where: str, exact: str) -> Tensor:
        found = cnnviz.explain(model, there if where != "cpu" else batch, target=target, device=where, precision=exact)
        wait(device)
        return found.raw.cpu()

    calls = {"bare": bare(name, batch, precision, device), "cnnviz": lambda: maps(str(device), precision)}
    times = in_turns(calls, rounds)
    few = slice(0, min(count, 8))
    here, want = maps(str(device), precision)[few], maps("cpu", "fp32")[few]
    largest = want.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return {
        "model": name,
        "batch": count,
        "precision": precision,
        "device": device_name(str(device)),
        "bare_per_second": round(count / times["bare"], 1),
        "maps_per_second": round(count / times["cnnviz"], 1),
        "share": round(times["bare"] / times["cnnviz"], 3),
        "difference": float(((here - want).abs() / largest).max()),
    }


def folder(photos: str, precision: str, device: torch.device) -> dict[str, Any]:
    """The rate on a folder."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--device", str(device), "--precision", precision, "-o", out, "--overwrite", "-q", "--no-cache"]
        if command(["gradcam", photos, *options]) not in (0, 3):
            raise SystemExit("gradcam failed")
        report = json.loads((Path(out) / "report.json").read_text())
    return {"name": "folder", "precision": precision, "images_per_second": report["summary"]["images_per_second"]}


def out_of_memory(device: torch.device) -> dict[str, Any]:
    """A batch for which the card has no room: it is halved until it has, and every image has its map."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    # About 90 MB of activations an image where gradients reach it.
    count = min(int(1.5 * free / 90e6), 2000) if free else 4
    with tempfile.TemporaryDirectory() as out:
        for number in range(count):
            noise = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
            Image.fromarray(noise.numpy()).save(Path(out) / f"{number}.png")
        options = [
            "--save",
            "none",
            "--batch-size",
            str(count),
            "--device",
            str(device),
            "-o",
            f"{out}/maps",
            "--no-cache",
        ]
        code = command(["saliency", out, "-m", "resnet50", "--weights", "none", *options])
        summary = json.loads((Path(out) / "maps" / "report.json").read_text())["summary"]
    return {"name": "out of memory", "images": count, "explained": summary["explained"], "exit_code": code}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    given = parser.parse_args()
    device, rows = torch.device(given.device), []
    for precision in DTYPES:
        for name in given.models:
            for count in given.batch:
                rows.append(measured(name, count, precision, device, given.rounds))
                print(rows[-1], flush=True)
        rows.append(folder(given.photos, precision, device))
        print(rows[-1], flush=True)
    rows.append(out_of_memory(device))
    print(rows[-1], flush=True)
    save(given.json, rows)


if __name__ == "__main__":
    main()
