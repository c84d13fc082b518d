"""Networks of torchvision and timm with cheap random weights, and any network as ``load_model`` would return it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


@lru_cache(maxsize=1)
def _noise() -> Tensor:
    # A prime length: rows of a weight do not repeat.
    return torch.rand(1_000_003, generator=torch.Generator().manual_seed(3)) * 2 - 1


@contextlib.contextmanager
def _without_init() -> Iterator[None]:
    """Building a library network spends most of its time on random numbers that ``fill`` replaces."""

    def skip(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor

    names = "uniform_ normal_ trunc_normal_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_ orthogonal_"
    with contextlib.ExitStack() as stack:
        for name in names.split():
            stack.enter_context(mock.patch.object(nn.init, name, skip))
        for name in ("normal_", "uniform_"):
            stack.enter_context(mock.patch.object(Tensor, name, skip))
        yield


def fill(network: nn.Module) -> nn.Module:
    """Weights of He's variance and norms that are no identities, cheaper than drawing each; evaluation mode."""
    noise, start = _noise(), 0
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            size = parameter.numel()
            begin = start % 1000
            flat = noise[begin : begin + size] if size <= len(noise) - begin else noise.repeat(-(-size // len(noise)))
            values = flat[:size].view(parameter.shape)
            if parameter.dim() > 1:
                parameter.copy_(values).mul_(math.sqrt(6.0 / max(1, parameter[0].numel())))
            elif name.endswith("weight"):
                parameter.copy_(values).mul_(0.3).add_(0.7)
            else:
                parameter.copy_(values).mul_(0.2)
            start += 37
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                module.running_mean.copy_(noise[: module.num_features]).mul_(0.2)
                module.running_var.copy_(noise[: module.num_features]).mul_(0.3).add_(1)
    return network.eval().requires_grad_(False)


def torchvision_network(name: str, classes: int = 12, **more: Any) -> nn.Module:
    """A torchvision classifier with cheap random weights, in evaluation mode; ``more`` are its own options.

    VGG's and AlexNet's hidden layers, most of their numbers, are made narrow.
    """
    import torchvision.models as zoo

    options: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in {"googlenet", "inception_v3"} or name.startswith("vgg"):
        options["init_weights"] = False
    if name in {"googlenet", "inception_v3"}:
        options["aux_logits"] = True
    options.update(more)
    wide = name.startswith("vgg") or name == "alexnet"
    with _without_init(), mock.patch.object(nn.Linear, "__init__", _narrow) if wide else contextlib.nullcontext():
        network: nn.Module = zoo.get_model(name, **options)
    return fill(network)


_LINEAR = nn.Linear.__init__


def _narrow(self: nn.Linear, inputs: int, outputs: int, *args: Any, **kwargs: Any) -> None:
    _LINEAR(self, 32 if inputs == 4096 else inputs, 32 if outputs == 4096 else outputs, *args, **kwargs)


def timm_network(name: str, classes: int = 12, **options: Any) -> nn.Module:
    """A timm classifier with cheap random weights, in evaluation mode."""
    import timm

    with _without_init():
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    return fill(network)


def as_model(network: nn.Module, size: tuple[int, int] = (12, 16), classes: int = 4, name: str = "toy") -> Any:
    """A network as ``cnnviz.load_model`` hands one over: it keeps private, rewritten copies."""
    from cnnviz.api import Model
    from cnnviz.models.loading.load import LoadedModel
    from cnnviz.models.preprocess import Preprocess

    spec = Preprocess(
        input_size=(3, *size), resize=None, view="squash", mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear"
    )
    numbers = sum(p.numel() for p in network.parameters())
    labels = tuple(f"class {i}" for i in range(classes))
    return Model(LoadedModel(network, spec, labels, name, "factory", None, classes, numbers))
