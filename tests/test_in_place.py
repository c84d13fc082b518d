"""Every spelling of an in-place activation after the explained layer, against the same network written without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz


def _changed(y: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    change(y)
    return y


SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "F.relu positional, result unused": (lambda y: _changed(y, lambda t: F.relu(t, True)), F.relu),
    "F.relu keyword": (lambda y: F.relu(y, inplace=True), F.relu),
    "method, result unused": (lambda y: _changed(y, Tensor.relu_), F.relu),
    "torch.relu_": (lambda y: _changed(y, torch.relu_), F.relu),
    "F.leaky_relu_": (lambda y: _changed(y, lambda t: F.leaky_relu_(t, 0.1)), lambda y: F.leaky_relu(y, 0.1)),
    "clamp_": (lambda y: _changed(y, lambda t: t.clamp_(0, 0.3)), lambda y: y.clamp(0, 0.3)),
    "hardtanh positional": (lambda y: F.hardtanh(y, 0.0, 0.3, True), lambda y: F.hardtanh(y, 0.0, 0.3)),
    "silu": (lambda y: _changed(y, lambda t: F.silu(t, True)), F.silu),
    "imul, read before and after": (lambda y: _twice(y, in_place=True), lambda y: _twice(y, in_place=False)),
    "module": (nn.ReLU(inplace=True), F.relu),
}


def _twice(y: Tensor, *, in_place: bool) -> Tensor:
    before = y.mean(dim=1, keepdim=True)
    if in_place:
        y *= 0.5
    else:
        y = y * 0.5
    return F.relu(y) + before * y


class Net(nn.Module):
    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 4)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_in_place_after_the_layer(name: str, tracing: str) -> None:
    in_place, functional = SPELLINGS[name]
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    result = cnnviz.explain(Net(in_place), x, layer="conv", target=[1, 2], tracing=tracing)
    plain = Net(functional).double()
    activations = plain.conv(x.double()).detach().requires_grad_()
    logits = plain.head(functional(activations).mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], activations)
    expected = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).clamp_min(0)
    torch.testing.assert_close(result.logits.double(), logits.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.raw.double(), expected.detach(), rtol=1e-4, atol=1e-6)
