"""A small segmentation network of shores, and its training: seconds on one core."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from shore_scenes import CLASSES
from torch import Tensor, nn


class Shore(nn.Module):
    """Convolutions at full, half and a quarter of the size, and scores that are enlarged with what the first saw."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.fine = _Step(3, width)
        self.middle = _Step(width, 2 * width)
        self.coarse = nn.Sequential(_Step(2 * width, 3 * width), _Step(3 * width, 3 * width))
        self.mix = _Step(4 * width, 2 * width)
        self.scores = nn.Conv2d(2 * width, len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.coarse(F.max_pool2d(self.middle(F.max_pool2d(fine, 2)), 2))
        return self.scores(self.mix(torch.cat([F.interpolate(coarse, scale_factor=4.0, mode="nearest"), fine], 1)))


class _Step(nn.Sequential):
    """A convolution of 3x3 with batch normalisation and a ReLU."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def build() -> Shore:
    """For ``--model shore_network.py:build``."""
    return Shore()


def fitted(data: tuple[NDArray[np.uint8], NDArray[np.int64]], epochs: int, seed: int = 0) -> Shore:
    """A network trained on pictures [N, H, W, 3] and the classes of their pixels [N, H, W]."""
    torch.manual_seed(seed)
    network = Shore().train()
    pixels, wanted = _pixels(data[0]), torch.from_numpy(data[1])
    count = len(pixels)
    weight = torch.tensor([1.0, 1.0, 3.0, 3.0])
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, epochs * -(-count // 16))
    for _ in range(epochs):
        for batch in torch.randperm(count).split(16):
            optimizer.zero_grad()
            F.cross_entropy(network(pixels[batch]), wanted[batch], weight=weight).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def iou(network: Shore, data: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> dict[str, float]:
    """Intersection over union of each class, over all pixels."""
    with torch.no_grad():
        said = network(_pixels(data[0])).argmax(1).numpy()
    found = {}
    for index, name in enumerate(CLASSES):
        one, other = said == index, data[1] == index
        found[name] = float((one & other).sum() / max(1, (one | other).sum()))
    return found


def _pixels(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5
