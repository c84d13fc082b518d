"""The weights that a convolution or a linear layer computes with, and the layer with other weights.

A subclass may do what its parent does (timm's ``Linear``), pad the image first (``Conv2dSame``), or make its weights
from the parameters at each call (weight standardisation, spectral normalisation). What counts is the one call of
``conv2d`` or ``linear`` that it ends in: its weights are read there, and replaced there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnviz.engine.prepare.rows import EvenRows
from cnnviz.models.graph.operations import operation_of_function, operation_of_module

_NAMES = ("input", "weight", "bias")


class _Watch(TorchFunctionMode):
    """Follows a layer from its input to the one call that has weights; ``replace`` makes that call's weights."""

    def __init__(self, x: Tensor, replace: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.calls = 0
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.result: Tensor | None = None
        self._inputs, self._replace = [x], replace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        operation = operation_of_function(func)
        if operation.kind == "padding":
            value = func(*args, **given)
            if any(args[0] is known for known in self._inputs):
                self._inputs.append(value)
            return value
        if not (operation.is_convolution or operation.kind == "linear"):
            return func(*args, **given)
        named = dict(zip(_NAMES, args, strict=False)) | {k: v for k, v in given.items() if k in _NAMES}
        rest = {k: v for k, v in given.items() if k not in _NAMES}
        self.calls += any(named["input"] is known for known in self._inputs)
        self.weight, self.bias = self._replace(named["weight"], named.get("bias"))
        self.result = func(named["input"], self.weight, self.bias, *args[3:], **rest)
        return self.result


def in_use(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias that a convolution or linear layer applies to ``x``.

    None where it is not one such call on its (padded) input whose result it returns, or where the weights depend on
    the input.
    """
    layer = operation_of_module(module)
    plain = not layer.subclassed or isinstance(module, EvenRows)
    if plain and not hasattr(module, "parametrizations") and "weight" in module._parameters:
        # These apply the weights that they hold: they are not run once more to find out.
        weight, bias = layer.tensor("weight"), layer.tensor("bias")
        assert weight is not None
        return weight.detach(), None if bias is None else bias.detach()
    probe = x.detach().requires_grad_()
    with torch.enable_grad(), _Watch(probe, lambda weight, bias: (weight, bias)) as watch:
        value = module(probe)
    if watch.calls != 1 or value is not watch.result or watch.weight is None:
        return None
    for part in (watch.weight, watch.bias):
        if part is not None and part.requires_grad and _depends(part, probe):
            return None
    return watch.weight.detach(), None if watch.bias is None else watch.bias.detach()


def _depends(value: Tensor, source: Tensor) -> bool:
    return torch.autograd.grad(value.sum(), source, retain_graph=True, allow_unused=True)[0] is not None


def with_weights(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes of ``x`` with other weights; the module is only run, never written to."""
    with _Watch(x, lambda *_: (weight, bias)):
        result: Tensor = module(x)
    return result
