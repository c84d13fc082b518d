"""Segmentation networks whose predictions are known, and one with all that an encoder and a decoder have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = ("background", "red", "green", "blue")
SIDE, CELL = 64, 4


class ColourSegments(nn.Module):
    """A class for each colour: the mean of its channel over cells of 4x4 pixels, a little blurred, then enlarged.

    Where nothing is coloured the background, whose score is 0.3 everywhere, is ahead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 3, CELL, stride=CELL)
        self.mix = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        self.scores = nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.encoder.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, CELL, CELL) / CELL**2)
            self.encoder.bias.zero_()  # type: ignore[union-attr]
            kernel = torch.full((3, 1, 3, 3), 0.02)
            kernel[:, :, 1, 1] = 0.84
            self.mix.weight.copy_(kernel)
            self.scores.weight.zero_()
            self.scores.weight[1:, :, 0, 0] = torch.eye(3)
            self.scores.bias.copy_(torch.tensor([0.3, 0.0, 0.0, 0.0]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        cells = self.scores(self.mix(torch.relu(self.encoder(x))))
        return {"out": F.interpolate(cells, x.shape[-2:], mode="nearest")}


def make() -> ColourSegments:
    return ColourSegments()


class UNet(nn.Module):
    """Two steps down, two up, with skips. Leaky rectifiers: the gradient reaches all of it."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(8, 10, 3, stride=2, padding=1)
        self.inside = nn.Conv2d(10, 10, 3, padding=1)
        self.up1, self.up2 = nn.Conv2d(18, 8, 3, padding=1), nn.Conv2d(14, 6, 3, padding=1)
        self.top = nn.Conv2d(6, classes, 1)
        self.act = nn.LeakyReLU(0.1)

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = self.act(self.down1(x))
        two = self.act(self.down2(one))
        return one, two, self.act(self.inside(self.act(self.bottom(two))))

    def decoded(self, one: Tensor, two: Tensor, a: Tensor) -> Tensor:
        b = self.act(self.up1(torch.cat([F.interpolate(a, two.shape[-2:]), two], 1)))
        c = self.act(self.up2(torch.cat([F.interpolate(b, one.shape[-2:]), one], 1)))
        return self.top(c)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.decoded(*self.encoded(x))


def unet(classes: int = 3, seed: int = 0) -> UNet:
    """With random weights, and a bias with which every class is found somewhere."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = UNet(classes).eval()
        network.top.bias -= network(torch.randn(4, 3, 24, 32)).mean((0, 2, 3))  # type: ignore[operator]
        return network
