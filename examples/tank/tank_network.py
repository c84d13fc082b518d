"""A small classifier of scenes, and its training: seconds on one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tank_scenes import scenes
from torch import Tensor, nn


class Small(nn.Module):
    """Three convolutions, global average pooling, a linear layer."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 48)):
            parts += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            parts += [nn.MaxPool2d(2)] if after < 48 else []
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Linear(48, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def build(num_classes: int = 2) -> Small:
    """For ``--model tank_network.py:build``."""
    return Small(num_classes)


def train(path: Path, biased: bool, count: int = 800, epochs: int = 6, seed: int = 0) -> float:
    """Train on scenes, write the weights, and return the accuracy on other scenes of the same kind."""
    network = fitted(scenes(count, 1 + seed, biased)[:2], epochs, seed)
    torch.save(network.state_dict(), path)
    return accuracy(network, scenes(200, 1000 + seed, biased)[:2])


def fitted(data: tuple[NDArray[np.uint8], NDArray[np.int64]], epochs: int, seed: int, mirrored: float = 0.5) -> Small:
    """A network trained on pictures [N, H, W, 3] and their classes [N]; ``mirrored``: the share shown in a mirror."""
    torch.manual_seed(seed)
    network = Small().train()
    pixels, wanted = _pixels(data[0]), torch.from_numpy(data[1])
    count = len(pixels)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, epochs * -(-count // 32))
    for _ in range(epochs):
        for batch in torch.randperm(count).split(32):
            x = pixels[batch]
            x = torch.where(torch.rand(len(batch), 1, 1, 1) < mirrored, x.flip(-1), x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), wanted[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: Small, data: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> float:
    """The share of pictures that it is right with."""
    with torch.no_grad():
        said = network(_pixels(data[0])).argmax(1)
    return float((said == torch.from_numpy(data[1])).float().mean())


def _pixels(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5
