"""A small network and its state, wrapped as tools write it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from cnnviz.models.loading.checkpoint import read_checkpoint
from cnnviz.models.loading.checkpoint_fit import load_checkpoint


class Net(nn.Module):
    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return out


def net(seed: int, num_classes: int = 5) -> Net:
    torch.manual_seed(seed)
    module = Net(num_classes)
    torch.nn.init.normal_(module.features[1].running_mean)  # type: ignore[arg-type]
    return module.eval()


def state(seed: int = 1, num_classes: int = 5) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(net(seed, num_classes).state_dict())


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((prefix + key, value) for key, value in tensors.items())


def fills(path: Path) -> tuple[str, ...]:
    """Load into a network with other weights; every tensor must be the saved one. Returns the notes."""
    module = net(2)
    notes = load_checkpoint(read_checkpoint(path), module)
    expected = state()
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())
    return notes
