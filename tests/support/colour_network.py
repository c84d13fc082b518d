"""A network that sees colours: class k is how much of channel k there is, so that its class activation map is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = ("red", "green", "blue")
SIDE, CELL = 64, 4


class Colours(nn.Module):
    """Means of each channel over cells of 4x4 pixels, then over all cells: the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, CELL, stride=CELL)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, CELL, CELL) / CELL**2)
            self.conv.bias.zero_()  # type: ignore[union-attr]
            self.fc.weight.copy_(10 * torch.eye(3))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(x))).flatten(1))  # type: ignore[no-any-return]


def make() -> Colours:
    return Colours()
