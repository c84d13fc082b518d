"""Networks that are run for the shapes alone: what fails there is said once, in our words."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.any_size import stride_at_any_size
from cnnviz.models.graph.without_values import without_values

LOG = logging.getLogger("torch._subclasses.fake_tensor")


class WithGrid(nn.Module):
    """Puts coordinates of one size beside its maps, as many detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.register_buffer("grid", torch.zeros(1, 2, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.grid], dim=1).mean((2, 3))


class Kept(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_what_fails_at_another_size_is_told_once(kept: Kept) -> None:
    LOG.addHandler(kept)
    try:
        with pytest.raises(CnnvizError, match="grid takes inputs of 32 x 32 pixels only"):
            stride_at_any_size(WithGrid(), "grid", (3, 32, 32))
    finally:
        LOG.removeHandler(kept)
    assert kept.said == []


def test_behind_it_pytorch_logs_as_before(kept: Kept) -> None:
    LOG.addHandler(kept)
    try:
        with without_values():
            assert torch.empty(2, 3).sum(0).shape == (3,)
        LOG.error("something else")
    finally:
        LOG.removeHandler(kept)
    assert kept.said == ["something else"]
