"""A small seeded classifier that commands can load with ``--model tests/support/tiny_model.py:make``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def make(num_classes: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(3)
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


def make_wide(num_classes: int = 5) -> nn.Module:
    """With a convolution of 3 x 3 that is wide enough to be computed with fewer products."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(4)
        return nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 16, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, num_classes),
        ).eval()


def make_bgr() -> nn.Module:
    """The same network for images in B, G, R."""
    network = make()
    network[0].weight.data = network[0].weight.data.flip(1)
    return network


def _of_one_channel(channel: int) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        network[0].weight.zero_()[0, channel].fill_(0.2)
        network[0].bias.fill_(1.0)
    return network.eval()


def make_red_first() -> nn.Module:
    """The first class is the brightness of its first channel."""
    return _of_one_channel(0)


def make_red_last() -> nn.Module:
    """The first class is the brightness of its last channel."""
    return _of_one_channel(2)


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
        torch.default_generator.manual_seed(4)
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


def _cancelling(difference: float, offset: float, constant: float) -> nn.Module:
    """Pairs of channels that are nearly equal, of which the next layer takes the difference."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        first, second, last = nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.Conv2d(8, 4, 1), nn.Linear(4, 5)
    with torch.no_grad():
        first.weight[1::2] = (1 + difference) * first.weight[::2]
        first.bias.fill_(offset)
        second.weight.zero_()
        for channel in range(4):
            second.weight[channel, 2 * channel : 2 * channel + 2, 0, 0] = torch.tensor([1.0, -1.0])
        second.bias.zero_()
        last.bias += constant
    return nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def make_cancelling(num_classes: int = 5) -> nn.Module:
    """What is left of the gradient is lost in bf16; a constant keeps the scores where they are."""
    return _cancelling(1e-3, 0.0, 100.0)


def make_scores_that_cancel(num_classes: int = 5) -> nn.Module:
    """What is left of the scores is lost in bf16, too."""
    return _cancelling(0.3, 1000.0, 0.0)


class _Spread(nn.Module):
    """Divides by how far the values of an image are apart."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.maps, self.head = network[:5], network[5:]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x) / (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)))


def make_undefined_of_one_colour(num_classes: int = 30) -> nn.Module:
    """Its scores of an image of one grey are not finite."""
    return _Spread(make(num_classes)).eval()


def _no_room(module: nn.Module, given: tuple[Tensor, ...]) -> None:
    if len(given[0]) > 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.17 GiB.")


def make_hungry(num_classes: int = 5) -> nn.Module:
    """The same network, for which a card has room for three images at once."""
    network = make(num_classes)
    network[3].register_forward_pre_hook(_no_room)
    return network
