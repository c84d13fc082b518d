"""Runs of ``top-patches`` over dots of known places, and networks that like one colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnviz import pipeline
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from tests.support.runs import TINY, Quiet

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
    reporter = Quiet()
    settings = RunSettings(
        command="top-patches",
        inputs=(str(inputs),),
        model=model,
        target=TargetSettings(
            method="top-patches",
            layers=options.pop("layers", ("3",)),
            params={"patch_gradient": "none", **options.pop("p", {})},
        ),
        runtime=RuntimeSettings(batch_size=options.pop("batch", 4), seed=options.pop("seed", 0)),
        output=OutputSettings(out=str(out), overwrite=True),
    )
    pipeline.run(settings, reporter)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report, reporter


def dotted(root: Path, colour: tuple[int, int, int], name: str, corner: tuple[int, int]) -> None:
    """A grey picture of 200 x 160 with one square of 14 pixels."""
    picture = np.full((160, 200, 3), 90, np.uint8)
    picture[corner[1] : corner[1] + 14, corner[0] : corner[0] + 14] = colour
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(root / name)
