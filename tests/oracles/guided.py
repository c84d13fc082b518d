"""Guided, deconvnet and plain rules in float64: networks written out with an autograd function of their own."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support import kinds_of_networks as kinds


class _Ruled(torch.autograd.Function):
    """min(max(x, 0), limit) with a backward rule, straight from figure 1 of Springenberg et al."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit, ctx.rule = limit, rule
        return x.clamp(0, limit)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        active = ((x > 0) & (x < ctx.limit)).to(g)
        positive = (g > 0).to(g)
        kept = {"backprop": g * active, "deconvnet": g * positive, "guided": g * active * positive}
        return kept[ctx.rule], None, None


class Ruled(nn.Module):
    """As a module, in place of any ReLU."""

    def __init__(self, rule: str, limit: float = math.inf) -> None:
        super().__init__()
        self.rule, self.limit = rule, limit

    def forward(self, x: Tensor) -> Tensor:
        return _Ruled.apply(x, self.limit, self.rule)


class _RuledSiLU(torch.autograd.Function):
    """The extended rule: rectify what arrives, then SiLU's own derivative (guided) or nothing (deconvnet)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule = rule
        return x / (1 + torch.exp(-x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = 1 / (1 + torch.exp(-x))
        slope = s * (1 + x * (1 - s))
        positive = (g > 0).to(g)
        return {"backprop": g * slope, "deconvnet": g * positive, "guided": g * positive * slope}[ctx.rule], None


class RuledSiLU(nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return _RuledSiLU.apply(x, self.rule)


def forward(network: nn.Module, x: Tensor, act: nn.Module) -> Tensor:
    """The logits of a network of tests/support/kinds_of_networks.py, written out."""
    if isinstance(network, kinds.Plain):
        x = network.pool(act(network.one(x)))
        x = act(network.two(x)).mean((2, 3))
        return network.head(act(network.hidden(x)))
    if isinstance(network, kinds.Residual):
        x = act(network.norm(network.one(x)))
        return network.head(act(network.two(x) + x).mean((2, 3)))
    if isinstance(network, kinds.Concat):
        x = act(network.one(x))
        x = torch.cat([x, act(network.two(x))], 1)
        return network.head(F.avg_pool2d(x, 2).mean((2, 3)))
    one, _, two, _, three, *_, head = network.body
    return head(three(act(two(act(one(x))))).mean((2, 3)))


def gradient(kind: str, image: Tensor, class_index: int, rule: str) -> Tensor:
    """[C, H, W] of one image [C, H, W]."""
    network = copy.deepcopy(kinds.make(kind)).double()
    if kind == "silu":
        act: nn.Module = RuledSiLU(rule)
    else:
        act = Ruled(rule, 6.0 if kind in {"relu6", "depthwise"} else math.inf)
    leaf = image.double()[None].requires_grad_()
    logits = forward(network, leaf, act)
    torch.testing.assert_close(logits.detach(), network(image.double()[None]).detach())
    logits[0, class_index].backward()
    assert leaf.grad is not None
    return leaf.grad[0]


def with_ruled_modules(network: nn.Module, rule: str) -> nn.Module:
    """A float64 copy in which every ``nn.ReLU`` and ``nn.ReLU6`` follows the rule."""
    found = copy.deepcopy(network).double().eval()
    for module in list(found.modules()):
        for name, child in list(module.named_children()):
            if type(child) in (nn.ReLU, nn.ReLU6):
                setattr(module, name, Ruled(rule, 6.0 if type(child) is nn.ReLU6 else math.inf))
    return found
