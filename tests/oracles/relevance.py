"""LRP and excitation backprop in float64, layer by layer with dense matrices, straight from the papers' formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support import kinds_of_networks as kinds

Array = NDArray[np.float64]


def divide(a: Array, b: Array) -> Array:
    return np.where(np.abs(b) > 0, a / np.where(np.abs(b) > 0, b, 1), 0)


@dataclass
class Layer:
    """y = a W + b, with where it stands."""

    weight: Array
    bias: Array
    reach: Array
    kind: str  # "conv" | "linear" | "pool"
    first: bool = False
    last: bool = False


def dense(module: Callable[[Tensor], Tensor], shape: tuple[int, ...], kind: str, first: bool = False) -> Layer:
    """The matrix of an affine function of [1, *shape], column by column."""
    size = int(np.prod(shape))
    with torch.no_grad():
        zero = module(torch.zeros(1, *shape, dtype=torch.float64))
        columns = module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - zero
    weight = columns.reshape(size, -1).numpy()
    return Layer(weight, zero.reshape(-1).numpy(), (np.abs(weight) > 1e-12).astype(float), kind, first)


@dataclass
class Rule:
    """``name``: epsilon, alpha-beta, composite, excitation or dual."""

    name: str
    epsilon: float = 1e-6
    alpha: float = 2.0
    ignore_bias: bool = False

    def back(self, layer: Layer, a: Array, out: Array) -> Array:
        """R of the inputs from R of the outputs."""
        a, excitation = a.reshape(-1), self.name in {"excitation", "dual"}
        if layer.kind == "pool":
            z = (np.maximum(a, 0) if excitation else a)[:, None] * layer.weight
            return (z * divide(out, z.sum(0))).sum(1)
        if excitation:
            sign = -1 if self.name == "dual" and layer.last else 1
            z = np.maximum(a, 0)[:, None] * np.maximum(sign * layer.weight, 0)
            return (z * divide(out, z.sum(0))).sum(1)
        bias = 0 * layer.bias if self.ignore_bias else layer.bias
        z = a[:, None] * layer.weight
        if self.name == "composite" and layer.kind == "conv":
            if layer.first:
                return (layer.reach * divide(out, layer.reach.sum(0))).sum(1)
            return self._alpha_beta(z, bias, out, 1.0)
        if self.name == "alpha-beta":
            return self._alpha_beta(z, bias, out, self.alpha)
        total = z.sum(0) + bias
        return (z / (total + self.epsilon * np.where(total >= 0, 1, -1)) * out).sum(1)

    @staticmethod
    def _alpha_beta(z: Array, bias: Array, out: Array, alpha: float) -> Array:
        high, low = np.maximum(z, 0), np.minimum(z, 0)
        plus = divide(high, high.sum(0) + np.maximum(bias, 0))
        minus = divide(low, low.sum(0) + np.minimum(bias, 0))
        return ((alpha * plus - (alpha - 1) * minus) * out).sum(1)

    def add(self, a: Array, b: Array, out: Array) -> tuple[Array, Array]:
        if self.name in {"excitation", "dual"}:
            a, b = np.maximum(a, 0), np.maximum(b, 0)
        return divide(a * out, a + b), divide(b * out, a + b)


def relevance(kind: str, image: Tensor, class_index: int, rule: Rule, at: str = "image") -> tuple[Array, float]:
    """R [C, h, w] at the image (or at the first activation, ``at="hidden"``) and the logit.

    Starts with the logit for LRP, with 1 for excitation backprop.
    """
    network = copy.deepcopy(kinds.make(kind)).double()
    x = image.double()[None]
    shape = tuple(image.shape)
    norm = network.norm if isinstance(network, kinds.Residual) else nn.Identity()
    body = network.body if isinstance(network, kinds.Depthwise) else None
    stem = body[0] if body is not None else network.one
    one = dense(lambda t: norm(stem(t)), shape, "conv", first=True)
    with torch.no_grad():
        pre = norm(stem(x))
        z = network(x)[0]
    start = np.zeros(len(z))
    start[class_index] = 1.0 if rule.name in {"excitation", "dual"} else float(z[class_index])
    act: Callable[[Tensor], Tensor] = _activation(kind)
    hidden = act(pre)
    back = {"Plain": _plain, "Residual": _residual, "Concat": _concat, "Depthwise": _depthwise}[type(network).__name__]
    with torch.no_grad():
        found = back(network, hidden, act, rule, start)
    if at == "image":
        return rule.back(one, x.numpy(), found).reshape(shape), float(z[class_index])
    return found.reshape(hidden.shape[1:]), float(z[class_index])


def _activation(kind: str) -> Callable[[Tensor], Tensor]:
    if kind == "silu":
        return lambda t: t / (1 + torch.exp(-t))
    limit = 6.0 if kind in {"relu6", "depthwise"} else float("inf")
    return lambda t: t.clamp(0, limit)


def _shape(t: Tensor) -> tuple[int, ...]:
    return tuple(t.shape[1:])


def _top(module: nn.Linear) -> Layer:
    layer = dense(module, (module.in_features,), "linear")
    layer.last = True
    return layer


def _plain(network: kinds.Plain, h: Tensor, act: Callable[[Tensor], Tensor], rule: Rule, out: Array) -> Array:
    pooled = network.pool(h)
    a = act(network.two(pooled))
    m = a.mean((2, 3))
    b = act(network.hidden(m))
    out = rule.back(_top(network.head), b.numpy(), out)
    out = rule.back(dense(network.hidden, (8,), "linear"), m.numpy(), out)
    out = rule.back(dense(lambda t: t.mean((2, 3)), _shape(a), "pool"), a.numpy(), out)
    out = rule.back(dense(network.two, _shape(pooled), "conv"), pooled.numpy(), out)
    if isinstance(network.pool, nn.MaxPool2d):
        _, places = F.max_pool2d(h, 2, return_indices=True)
        found = np.zeros(h[0].numel()).reshape(h.shape[1], -1)
        for channel in range(h.shape[1]):
            np.add.at(found[channel], places[0, channel].reshape(-1).numpy(), out.reshape(h.shape[1], -1)[channel])
        out = found.reshape(-1)
    return out


def _residual(network: kinds.Residual, h: Tensor, act: Callable[[Tensor], Tensor], rule: Rule, out: Array) -> Array:
    branch = network.two(h)
    a = act(branch + h)
    out = rule.back(_top(network.head), a.mean((2, 3)).numpy(), out)
    out = rule.back(dense(lambda t: t.mean((2, 3)), _shape(a), "pool"), a.numpy(), out)
    left, right = rule.add(branch.reshape(-1).numpy(), h.reshape(-1).numpy(), out)
    return rule.back(dense(network.two, _shape(h), "conv"), h.numpy(), left) + right


def _concat(network: kinds.Concat, h: Tensor, act: Callable[[Tensor], Tensor], rule: Rule, out: Array) -> Array:
    other = act(network.two(h))
    joined = torch.cat([h, other], 1)
    pool: Callable[[Tensor], Tensor] = lambda t: F.avg_pool2d(t, 2).mean((2, 3))  # noqa: E731
    out = rule.back(_top(network.head), pool(joined).numpy(), out)
    out = rule.back(dense(pool, _shape(joined), "pool"), joined.numpy(), out)
    size = h[0].numel()
    return out[:size] + rule.back(dense(network.two, _shape(h), "conv"), h.numpy(), out[size:])


def _depthwise(network: kinds.Depthwise, h: Tensor, act: Callable[[Tensor], Tensor], rule: Rule, out: Array) -> Array:
    _, _, two, _, three, *_, head = network.body
    a = act(two(h))
    b = three(a)
    m = b.mean((2, 3))
    out = rule.back(_top(head), m.numpy(), out)
    out = rule.back(dense(lambda t: t.mean((2, 3)), _shape(b), "pool"), b.numpy(), out)
    out = rule.back(dense(three, _shape(a), "conv"), a.numpy(), out)
    return rule.back(dense(two, _shape(h), "conv"), h.numpy(), out)
