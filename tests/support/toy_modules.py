"""The modules behind the toys of ``networks``: each has one trap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Body(nn.Module):
    """conv -> ReLU -> conv (the last one, "conv"), and a linear layer "fc" for the mean of its maps."""

    def __init__(self, channels: int = 6, classes: int = 4, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.fc = nn.Linear(channels, classes)

    def maps(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.stem(x)))

    def pooled(self, a: Tensor) -> Tensor:
        return self.fc(a.mean((2, 3)))


class Plain(Body):
    """The activation is a module of choice; the middle is called once."""

    def __init__(self, act: nn.Module, **options: int) -> None:
        super().__init__(**options)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.act(self.maps(x)))


class FunctionalInPlace(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(F.relu(self.maps(x), inplace=True))


class AddInPlace(Body):
    """``+=`` right after the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.stem(x))
        y = self.conv(low)
        y += low
        return self.pooled(F.relu(y))


class Residual(Body):
    """A block whose shortcut goes around the cut, with batch normalisations and one ReLU module for all."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        low = self.relu(self.stem(x))
        y = self.relu(self.norm(self.conv(low)))
        y = self.norm2(self.conv2(y))
        y += low
        return self.pooled(self.relu(y))


class ConvNorm(Body):
    """Convolution, batch normalisation, ReLU, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(F.relu(self.norm2(self.conv(F.relu(self.norm1(self.stem(x)))))))


class Concat(Body):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(6, 2, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.stem(x))
        return self.pooled(torch.cat([F.relu(self.conv(low)), torch.sigmoid(self.side(low))], 1))


class MaxHead(Body):
    """Global max pooling before the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(F.relu(self.maps(x))).flatten(1))


class Dense(nn.Module):
    """As DenseNet ends: the module ``features`` closes with a normalisation, an in-place ReLU function follows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.features = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5))
        self.classifier = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(self.stem(x)), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))


class Reused(Body):
    """One activation module in the stem and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.act(self.conv(self.act(self.stem(x)))))


class Deep(Body):
    """A head that is not linear: a further convolution, a pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Conv2d(6, 5, 3)
        self.hidden, self.fc = nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(torch.relu(self.after(F.relu(self.maps(x)))), 2)
        return self.fc(torch.tanh(self.hidden(y.mean((2, 3)))))


class ValueDependent(Body):
    """Control flow on values: no symbolic trace exists."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.maps(x))
        if float(y.detach().abs().sum()) < 0:
            y = -y
        return self.pooled(y)


@dataclass
class Scores:
    """What transformers' models return: an object with ``.logits``."""

    logits: Tensor
    hidden: Tensor


class Output(Body):
    """Returns its class scores in a container of choice."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any], classes: int = 4) -> None:
        super().__init__(classes=classes)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        a = F.relu(self.maps(x))
        return self.pack(self.pooled(a), a)
