"""A small classifier of scenes, and its training: seconds on one core."""

from __future__ import annotations

from pathlib import Path

import torch
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
    torch.manual_seed(seed)
    network = Small().train()
    pictures, labels, _ = scenes(count, 1 + seed, biased)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5
    wanted = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, epochs * -(-count // 32))
    for _ in range(epochs):
        for batch in torch.randperm(count).split(32):
            x = pixels[batch]
            x = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, x.flip(-1), x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), wanted[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    torch.save(network.state_dict(), path)
    other, truth, _ = scenes(200, 1000 + seed, biased)
    with torch.no_grad():
        said = network(torch.from_numpy(other).permute(0, 3, 1, 2).float() / 255 - 0.5).argmax(1)
    return float((said == torch.from_numpy(truth)).float().mean())
