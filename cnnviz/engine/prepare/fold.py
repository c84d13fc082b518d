"""Rewrites of a private copy of the network that leave its values alone and make it faster.

``fold_batch_norm`` merges a batch normalisation into the convolution before it. In evaluation mode

    BN(W * x + b) = (g W) * x + g (b - mean) + beta,    g = gamma / sqrt(var + eps),

which is exact up to rounding. Captured tensors are protected: nothing is folded across them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cnnviz.models.graph.functionalize import copy_with
from cnnviz.models.graph.operations import operation_of

# Operations whose result is a new tensor.
_MAKING = frozenset({"convolution", "linear", "normalisation", "addition", "concatenation"})


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
        module: The private copy, whose graph is rewritten in place (new convolutions are registered beside the old);
            its code is not: what is cut from it gets its own.
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
    operation = operation_of(module, node)
    if operation.name != "batch_norm" or operation.arguments["training"] is not False:
        return None
    norm, values = operation.module, dict(operation.arguments)
    if norm is not None:
        if type(norm).forward not in {_BatchNorm.forward, nn.SyncBatchNorm.forward}:
            return None
        values |= {key: getattr(norm, key) for key in ("weight", "bias")}
    held = (values["running_mean"], values["running_var"])
    computed = any(isinstance(values[key], fx.Node) for key in ("weight", "bias"))
    return Norm(values) if not computed and all(isinstance(value, torch.Tensor) for value in held) else None


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
        operation = operation_of(module, node)
        target = operation.module if operation.kind == "activation" else None
        fresh = operation_of(module, source).kind in _MAKING
        if fresh and target is not None and hasattr(target, "inplace"):
            node.target = add_submodule(module, f"{node.name}_in_place", copy_with(target, inplace=True))
    module.recompile()
