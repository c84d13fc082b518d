"""Rewrites of a private copy of the network that leave its values alone and make it faster.

``fold_batch_norm`` merges a batch normalisation into the convolution before it. In evaluation mode

    BN(W * x + b) = (g W) * x + g (b - mean) + beta,    g = gamma / sqrt(var + eps),

which is exact up to rounding. Captured tensors are protected: nothing is folded across them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cnnviz.models.graph.functionalize import copy_with
from cnnviz.models.graph.operations import function_name
from cnnviz.models.graph.trace import ACTIVATION_NAMES


def add_submodule(root: fx.GraphModule, hint: str, module: nn.Module) -> str:
    """Register a new module under a fresh flat name and return it."""
    name, count = hint, 0
    while hasattr(root, name):
        count += 1
        name = f"{hint}_{count}"
    root.add_module(name, module)
    return name


def fold_batch_norm(module: fx.GraphModule, protected: Collection[fx.Node]) -> int:
    """Fold every evaluation-mode batch normalisation that directly follows a convolution. Returns how many.

    Args:
        module: The private copy, rewritten in place (new convolutions are registered beside the old).
        protected: Nodes whose values must stay as they are.
    """
    folded = 0
    for node in list(module.graph.nodes):
        norm = batch_norm(module, node)
        if norm is None:
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source in protected or len(source.users) != 1:
            continue
        conv = foldable_convolution(module, source)
        if conv is None or calls_of(module, source) != 1:
            continue
        source.target = add_submodule(module, f"{source.name}_folded", _folded(conv, norm))
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
        folded += 1
    module.graph.lint()
    module.recompile()
    return folded


def calls_of(module: fx.GraphModule, node: fx.Node) -> int:
    return sum(1 for n in module.graph.nodes if n.op == "call_module" and n.target == node.target)


def foldable_convolution(module: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """The convolution of a node, when its weight is what it convolves with (no weight standardisation)."""
    if node.op != "call_module":
        return None
    conv = module.get_submodule(str(node.target))
    if not isinstance(conv, nn.Conv2d) or hasattr(conv, "parametrizations"):
        return None
    plain = type(conv).forward is nn.Conv2d.forward or type(conv).__name__ == "Conv2dSame"
    return conv if plain and not conv._forward_pre_hooks and not conv._forward_hooks else None


class Norm:
    """The five numbers of a batch normalisation, whichever way it is called."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.mean, self.var = values["running_mean"], values["running_var"]
        self.weight, self.bias, self.eps = values["weight"], values["bias"], values["eps"]


def batch_norm(module: fx.GraphModule, node: fx.Node) -> Norm | None:
    """The evaluation-mode batch normalisation that a node computes."""
    if node.op == "call_module":
        norm = module.get_submodule(str(node.target))
        known = isinstance(norm, _BatchNorm) and type(norm).forward in {_BatchNorm.forward, nn.SyncBatchNorm.forward}
        if not known or norm.running_mean is None or norm.training:
            return None
        return Norm({k: getattr(norm, k) for k in ("running_mean", "running_var", "weight", "bias", "eps")})
    if node.op == "call_function" and function_name(node) == "batch_norm":
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        values: dict[str, Any] = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
        values.update(dict(zip(names, node.args, strict=False)))
        values.update(node.kwargs)
        if values["training"] is not False:
            return None
        for key in ("running_mean", "running_var", "weight", "bias"):
            value = values[key]
            if isinstance(value, fx.Node):
                if value.op != "get_attr":
                    return None
                values[key] = attribute(module, str(value.target))
        return Norm(values) if isinstance(values["running_mean"], torch.Tensor) else None
    return None


def attribute(module: nn.Module, path: str) -> Any:
    """What a dotted path names."""
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _folded(conv: nn.Conv2d, norm: Norm) -> nn.Conv2d:
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, norm.mean, norm.var, norm.eps, norm.weight, norm.bias)
    twin = conv.__new__(type(conv))
    twin.__dict__ = {**conv.__dict__, "_parameters": dict(conv._parameters)}
    twin.weight = nn.Parameter(weight.detach(), requires_grad=False)
    twin.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return twin


def in_place_where_safe(module: fx.GraphModule, kept: Collection[fx.Node]) -> None:
    """Let activations overwrite a convolution's result that nobody else reads: saves a pass over memory."""
    for node in module.graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source in kept or len(source.users) != 1:
            continue
        fresh = source.op == "call_module" and isinstance(
            module.get_submodule(str(source.target)), (nn.Conv2d, nn.BatchNorm2d)
        )
        fresh = fresh or source.target in {operator.add, torch.add, torch.cat}
        if fresh and node.op == "call_module":
            target = module.get_submodule(str(node.target))
            if hasattr(target, "inplace") and type(target).__name__.lower() in ACTIVATION_NAMES:
                name = add_submodule(module, f"{node.name}_in_place", copy_with(target, inplace=True))
                node.target = name
    module.recompile()
