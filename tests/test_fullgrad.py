"""FullGrad on networks that spell their layers in odd ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz


def test_functions_that_are_given_no_bias() -> None:

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.conv2d(torch.relu(self.c(x)), torch.ones(4, 4, 1, 1), bias=None).mean((2, 3)))

    result = cnnviz.explain(Odd().eval(), torch.randn(2, 3, 12, 14), "fullgrad", target=1)
    assert max(map(abs, result.scores["completeness_gap"])) < 1e-6
