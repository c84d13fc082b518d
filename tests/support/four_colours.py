"""A network that knows four colours, takes any size, and whose class activation maps follow from its pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = ("red", "green", "blue", "yellow")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
CELL, SIDE = 4, 32
# What a pixel (r, g, b), 0 to 1, says of each colour before the ReLU: weights, then a constant.
OF_PIXEL = ((1.0, -1.0, -1.0, 0.0), (-1.0, 1.0, -1.0, 0.0), (-1.0, -1.0, 1.0, 0.0), (1.0, 1.0, -1.0, -1.0))
# What each class makes of the colours: mostly its own.
OF_CLASS = ((10.0, 2.0, 1.0, 3.0), (2.0, 10.0, 1.0, 3.0), (1.0, 3.0, 10.0, 1.0), (3.0, 3.0, 1.0, 10.0))


class FourColours(nn.Module):
    """Means over cells of 4x4 pixels, a ReLU, the mean of all cells, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, CELL, stride=CELL)
        self.fc = nn.Linear(4, 4)
        pixel = torch.tensor(OF_PIXEL)
        with torch.no_grad():
            self.conv.weight.copy_(pixel[:, :3, None, None].expand(4, 3, CELL, CELL) / CELL**2)
            self.conv.bias.copy_(pixel[:, 3])  # type: ignore[union-attr]
            self.fc.weight.copy_(torch.tensor(OF_CLASS))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.conv(x))
        return self.fc(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class OfOneSize(FourColours):
    """The same, but it looks at 8 x 8 cells."""

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.conv(x)).flatten(2)
        return self.fc((features @ torch.full((64, 1), 1 / 64)).flatten(1))  # type: ignore[no-any-return]


def make() -> FourColours:
    return FourColours().eval()


def make_of_one_size() -> OfOneSize:
    return OfOneSize().eval()
