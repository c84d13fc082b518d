"""What a method computes does not depend on how a network spells its operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cnnviz
from tests.support import networks as nets


class Spelled(nets.Body):
    """A body whose head is any function of its last maps and of itself."""

    def __init__(self, head: Callable[[Tensor, nets.Body], Tensor]) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x), self)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


HEADS: dict[str, Callable[[Tensor, nets.Body], Tensor]] = {
    "F.linear": lambda a, net: F.linear(a.mean((2, 3)), net.fc.weight, net.fc.bias),
    "mean over axis=": lambda a, net: net.fc(a.mean(axis=(-1, -2))),
    "unsqueezed": lambda a, net: net.fc(a.mean((2, 3)).unsqueeze(1).squeeze(1)),
    "F.dropout1d": lambda a, net: net.fc(F.dropout1d(a.mean((2, 3)), training=False)),
}


@pytest.mark.parametrize("spelling", HEADS)
def test_cam_reads_a_head_in_any_spelling(spelling: str) -> None:
    network, x = nets.seeded(lambda: Spelled(HEADS[spelling]))(), nets.images(2, (32, 32))
    with torch.no_grad():
        expected = torch.einsum("c,nchw->nhw", network.fc.weight[2], network.maps(x))
    close(cnnviz.explain(network, x, method="cam", target=2).raw, expected)
