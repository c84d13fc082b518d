"""A small seeded classifier that commands can load with ``--model tests/tiny_model.py:make``."""

from __future__ import annotations

import torch
from torch import nn


def make(num_classes: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, num_classes),
        ).eval()


def make_one_logit() -> nn.Module:
    return make(1)


def make_opposed() -> nn.Module:
    """Everything speaks for class 0 and against class 1."""
    network = make(2)
    with torch.no_grad():
        network[-1].weight.abs_()
        network[-1].weight[1].neg_()
    return network


def make_dead() -> nn.Module:
    """No unit of its last layer is ever active."""
    network = make(2)
    with torch.no_grad():
        network[3].bias.fill_(-1e3)
    return network


def make_for_one_size(num_classes: int = 5) -> nn.Module:
    """Flattens its last map: it takes 64 x 64 pixels only."""
    network = make(num_classes)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(*network[:5], nn.Flatten(), nn.Linear(12 * 8 * 8, num_classes)).eval()


class _Rounding(nn.Module):
    """Its input is quantised first: the gradient at the image is zero everywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(torch.round(x * 16) / 16)


def make_rounding(num_classes: int = 5) -> nn.Module:
    return _Rounding(make(num_classes)).eval()
