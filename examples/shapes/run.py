"""What maps of the shape transformer say of 200 pictures: python examples/shapes/run.py

own, other: share of a map's energy on the red object and on the other one, each a tenth of the picture.
peak: how often the strongest pixel lies on the red object, or no more than half a patch (4 pixels) beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from network import PATCH, draw, network

import cnnviz

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("chefer", {}),
    ("gradient_rollout", {}),
    ("legrad", {}),
    ("rollout", {}),
    ("hirescam", {}),
    ("gradcam", {}),
    ("lrp", {"rule": "attnlrp"}),
    ("gradient_x_input", {}),
)


def figures(count: int) -> dict[str, dict[str, float]]:
    """For each method: own, other, peak; for ``network`` its accuracy, for ``chance`` what an even map would get."""
    module = network()
    pictures, classes, masks = draw(count, torch.Generator().manual_seed(5))
    pixels = 2 * pictures - 1
    own, other = masks[:, 0].float(), masks[:, 1].float()
    near = F.max_pool2d(own[:, None], PATCH + 1, 1, PATCH // 2)[:, 0]
    with torch.no_grad():
        right = float((module(pixels).argmax(1) == classes).float().mean())
    chance = {"own": float(own.mean()), "other": float(other.mean()), "peak": float(near.mean())}
    found: dict[str, dict[str, float]] = {"network": {"accuracy": right}, "chance": chance}
    for method, options in METHODS:
        maps = cnnviz.explain(module, pixels, method=method, target=classes, **options).maps
        if method in {"lrp", "gradient_x_input"}:  # single pixels: what matters is how much there is in a patch
            summed = F.avg_pool2d(maps.abs()[:, None], PATCH)
            maps = F.interpolate(summed, scale_factor=PATCH, mode="bilinear")[:, 0]
        found[method] = {"own": _energy(maps, own), "other": _energy(maps, other), "peak": _peak(maps, near)}
    return found


def _energy(maps: Tensor, mask: Tensor) -> float:
    return float(((maps * mask).sum((1, 2)) / maps.sum((1, 2)).clamp_min(1e-12)).mean())


def _peak(maps: Tensor, mask: Tensor) -> float:
    return float(mask.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True)).mean())


if __name__ == "__main__":
    for name, values in figures(200).items():
        print(f"{name:18}", "  ".join(f"{key} {value:.2f}" for key, value in values.items()))
