"""Networks that break what a tool takes for granted; ``--model tests.support.odd_networks:NAME``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class _TwoInputs(_Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x * mask)


class _Exits(_Base):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(0)


class _NoClasses(_Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :0]


class _NoRows(_Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:0]


class _Random(_Base):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.5, training=True)


class _OverTheBatch(_Base):
    def features(self, x: Tensor) -> Tensor:
        a = super().features(x)
        return a - a.mean(dim=0, keepdim=True) + a.mean()


class _Detached(_Base):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x).detach()


def two_inputs() -> nn.Module:
    return _TwoInputs()


def exits() -> nn.Module:
    return _Exits()


def no_classes() -> nn.Module:
    return _NoClasses()


def no_rows() -> nn.Module:
    return _NoRows()


def is_random() -> nn.Module:
    return _Random()


def over_the_batch() -> nn.Module:
    return _OverTheBatch()


def detached() -> nn.Module:
    return _Detached()


def exits_itself() -> nn.Module:
    raise SystemExit(0)
