"""A small U-Net (Ronneberger, Fischer and Brox, MICCAI 2015), and how it is trained on the drawn roads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import road_scenes as scenes
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.45, 0.25


class Twice(nn.Sequential):
    """Two convolutions of 3x3, each with batch normalisation and a ReLU."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """Three steps down by maximum, three up by repetition, with a skip at each.

    Args:
        width: Channels of the first step; they double with each.
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        sizes = [width * 2**step for step in range(4)]
        self.down = nn.ModuleList(Twice(into, out) for into, out in zip([3, *sizes[:-1]], sizes, strict=True))
        self.up = nn.ModuleList(Twice(sizes[step] + sizes[step + 1], sizes[step]) for step in (2, 1, 0))
        self.scores = nn.Conv2d(width, len(scenes.CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.down[0](x)]
        for step in range(1, 4):
            found.append(self.down[step](F.max_pool2d(found[-1], 2)))
        y = found[3]
        for place, step in enumerate((2, 1, 0)):
            y = self.up[place](torch.cat([F.interpolate(y, scale_factor=2.0, mode="nearest"), found[step]], 1))
        return self.scores(y)


def build() -> UNet:
    """The network of the full form."""
    return UNet(12)


def build_small() -> UNet:
    """That of the small form."""
    return UNet(6)


@dataclass(frozen=True)
class Training:
    """How it is trained.

    Attributes:
        pictures: How many are drawn to learn from.
        epochs: How often each is seen.
        batch: Pictures in a step.
        rate: The highest learning rate; it rises and falls once (Smith and Topin 2019).
    """

    pictures: int
    epochs: int
    batch: int = 8
    rate: float = 8e-3


def pictures(seeds: range, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pictures as the network takes them [N, 3, H, W], and the class of each pixel [N, H, W]."""
    drawn = [scenes.scene(seed, size) for seed in seeds]
    rgb = torch.stack([torch.from_numpy(rgb) for rgb, _ in drawn]).permute(0, 3, 1, 2).float() / 255
    return (rgb - MEAN) / STD, torch.stack([torch.from_numpy(classes).long() for _, classes in drawn])


def class_weights(classes: Tensor) -> Tensor:
    """One over the square root of each class's share of the pixels, of mean 1: cracks are a thousandth of them."""
    shares = torch.bincount(classes.flatten(), minlength=len(scenes.CLASSES)).float() / classes.numel()
    weights = shares.clamp_min(1e-4).rsqrt()
    return weights / weights.mean()


def trained(
    make: Callable[[], UNet], how: Training, size: tuple[int, int], told: Callable[[str], None] = print
) -> UNet:
    """The network, trained from seed 0 on pictures of seeds from 0 up, mirrored by chance."""
    torch.manual_seed(0)
    network, (inputs, classes) = make(), pictures(range(how.pictures), size)
    weights = class_weights(classes)
    steps = how.epochs * -(-len(inputs) // how.batch)
    adam = torch.optim.AdamW(network.parameters(), lr=how.rate, weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, how.rate, total_steps=steps)
    began = time.perf_counter()
    for epoch in range(how.epochs):
        total = 0.0
        for rows in torch.randperm(len(inputs)).split(how.batch):
            x, y = inputs[rows], classes[rows]
            if torch.rand(()) < 0.5:
                x, y = x.flip(-1), y.flip(-1)
            loss = F.cross_entropy(network(x), y, weights)
            adam.zero_grad()
            loss.backward()
            adam.step()
            rates.step()
            total += float(loss.detach()) * len(rows)
        told(f"epoch {epoch + 1} of {how.epochs}: loss {total / len(inputs):.3f}, {time.perf_counter() - began:.0f} s")
    return network.eval()


def intersection_over_union(network: UNet, seeds: range, size: tuple[int, int]) -> dict[str, float]:
    """Of each class over all pixels of some pictures: pixels that both call it, over those that either does."""
    inputs, classes = pictures(seeds, size)
    with torch.no_grad():
        said = torch.cat([network(part).argmax(1) for part in inputs.split(16)])
    found = {}
    for index, label in enumerate(scenes.CLASSES):
        both, either = ((said == index) & (classes == index)).sum(), ((said == index) | (classes == index)).sum()
        found[label] = float(both / either.clamp_min(1))
    return found
