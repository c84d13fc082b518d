"""Runs of ``top-patches`` over dots of known places, and networks that like one colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnviz.settings import ModelSpec
from tests.support.runs import TINY, Quiet, ran

NETWORKS = '''
import torch
from torch import nn


class Fixed(nn.Module):
    """Unit 0 likes red, unit 1 likes blue, unit 2 never fires."""

    def __init__(self, asks=False, bound=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.act = nn.ReLU6() if bound else nn.ReLU()
        self.fc = nn.Linear(3, 2)
        self.asks = asks
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, -1000.0]))
            self.conv.weight[0] += torch.tensor([1.0, -1.0, -1.0])[:, None, None]
            self.conv.weight[1] += torch.tensor([-1.0, -1.0, 1.0])[:, None, None]

    def forward(self, x):
        if self.asks and float(x.sum()) > 1e9:
            x = -x
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def fixed():
    return Fixed()


def asking():
    return Fixed(asks=True)


def bounded():
    return Fixed(bound=True)
'''

CORNERS = {"red": [(40, 30), (150, 120), (90, 70), (60, 110)], "blue": [(120, 40), (100, 100), (70, 60)]}


def run(inputs: Path, out: Path, model: ModelSpec = TINY, **options: Any) -> tuple[dict[str, Any], Quiet]:
    """The report of ``top-patches`` with the options ``p``, and what was told."""
    asked: dict[str, Any] = {"batch_size": options.pop("batch", 4), "layers": ("3",)}
    asked["params"] = {"patch_gradient": "none", **options.pop("p", {})}
    report, _, told = ran("top-patches", [inputs], out, model=model, overwrite=True, **{**asked, **options})
    return report, told


def dotted(root: Path, colour: tuple[int, int, int], name: str, corner: tuple[int, int]) -> None:
    """A grey picture of 200 x 160 with one square of 14 pixels."""
    picture = np.full((160, 200, 3), 90, np.uint8)
    picture[corner[1] : corner[1] + 14, corner[0] : corner[0] + 14] = colour
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(root / name)
