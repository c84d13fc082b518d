"""A grey network of one channel, trained here on scikit-learn's digits: what commands are tried on beside RGB."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from cnnviz.settings import ModelSpec


def make() -> nn.Module:
    """Untrained, for [N, 1, 8, 8]; commands load it with ``--model tests/support/digits.py:make``."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 48),
            nn.ReLU(),
            nn.Linear(48, 10),
        )


def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 [1797, 8, 8], dark to bright, and their digits."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs pip install 'cnnviz[embed]'")
    images, labels = datasets.load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    return grey, labels.astype(np.int64)


@lru_cache(maxsize=1)
def _trained() -> nn.Module:
    images, labels = load()
    pixels = torch.from_numpy(images[:1300]).float().div(255.0).unsqueeze(1)
    wanted = torch.from_numpy(labels[:1300])
    module = make().train()
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        for _ in range(8):
            for batch in torch.randperm(len(pixels)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(module(pixels[batch]), wanted[batch]).backward()
                optimiser.step()
    return module.eval()


def trained(folder: Path) -> ModelSpec:
    """The trained network as the commands take it; its weights are written to ``folder``."""
    path = folder / "digits.pt"
    torch.save(_trained().state_dict(), path)
    return ModelSpec(
        model=f"{Path(__file__)}:make", checkpoint=str(path), input_size=(1, 8, 8), resize=8, mean=(0.0,), std=(1.0,)
    )


def write(folder: Path, count: int) -> Path:
    """``count`` digits that were not trained on, as PNG files in a folder a digit."""
    images, labels = load()
    for place in range(1300, 1300 + count):
        under = folder / str(labels[place])
        under.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[place]).save(under / f"{place}.png")
    return folder
