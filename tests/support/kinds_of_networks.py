"""Small seeded networks, one for each way of writing an activation or joining branches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(nn.Module):
    """Two convolutions with an activation of choice, a max-pool or none, a mean, a linear layer."""

    def __init__(self, after: Callable[[Tensor], Tensor], *, pool: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.two = nn.Conv2d(6, 8, 3, stride=2, bias=bias)
        self.hidden = nn.Linear(8, 10, bias=bias)
        self.head = nn.Linear(10, 4, bias=bias)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.after(self.one(x)))
        x = self.after(self.two(x)).mean((2, 3))
        return self.head(self.after(self.hidden(x)))


class Residual(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, padding=1, bias=bias)
        self.head = nn.Linear(6, 4, bias=bias)
        self.relu = nn.ReLU(inplace=True)
        if not bias:
            self.norm.bias = None
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        if bias:
            nn.init.uniform_(self.norm.running_mean, -0.2, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.one(x)))
        x = self.relu(self.two(x) + x)
        return self.head(x.mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), nn.ReLU6(),
            nn.Conv2d(6, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Concat(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.two = nn.Conv2d(4, 5, 3, padding=1, bias=bias)
        self.head = nn.Linear(9, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        x = torch.cat([x, F.relu(self.two(x))], 1)
        return self.head(F.avg_pool2d(x, 2).mean((2, 3)))


_MAKERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Plain(nn.ReLU()),
    "in-place": lambda: Plain(nn.ReLU(inplace=True)),
    "functional": lambda: Plain(F.relu),
    "method": lambda: Plain(lambda t: t.relu_()),
    "clamp": lambda: Plain(lambda t: t.clamp(min=0)),
    "relu6": lambda: Plain(nn.ReLU6()),
    "silu": lambda: Plain(nn.SiLU()),
    "max-pool": lambda: Plain(nn.ReLU(), pool=True),
    "no bias": lambda: Plain(nn.ReLU(), pool=True, bias=False),
    "residual": Residual,
    "residual, no bias": lambda: Residual(bias=False),
    "depthwise": Depthwise,
    "concat": Concat,
    "concat, no bias": lambda: Concat(bias=False),
}
KINDS = tuple(_MAKERS)


def make(kind: str) -> nn.Module:
    """The network of a kind, with the same weights at every call; about half of its units are active."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        network = _MAKERS[kind]().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    # Activations that ReLU6 clips, too.
                    nn.init.normal_(parameter, std=2.0 / parameter[0].numel() ** 0.5)
    return network


def images(count: int = 2, size: tuple[int, int] = (8, 10), seed: int = 0) -> Tensor:
    return 2 * torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(seed))
