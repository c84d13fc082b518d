"""Operations that exporters wrote in several nodes, as the one module that they were: what a method has a rule for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from cnnviz.models.graph.operations import attribute
from cnnviz.models.onnx_files import parts


def fused(network: fx.GraphModule) -> fx.GraphModule:
    """Linear layers with their bias, hard sigmoids, SiLU, hard swish and GELU as modules; the network is changed.

    The module has the name of the last of the nodes in whose place it is; that of a linear layer keeps its own.
    """
    for node in list(network.graph.nodes):
        for found in (_hard_sigmoid, _gated, _gelu, _softmax):
            made = found(network, node)
            if made is not None:
                network.add_module(str(node.target), made[0])
                node.args = (made[1],)
                break
        else:
            _with_bias(network, node)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


_Match = tuple[nn.Module, fx.Node] | None


def _module(network: fx.GraphModule, node: Any) -> nn.Module | None:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return network.get_submodule(str(node.target)) if is_call else None


def _is(network: fx.GraphModule, node: Any, kind: type[nn.Module]) -> bool:
    """Whether a node is arithmetic of two values, of this kind."""
    return isinstance(_module(network, node), kind)


def _constant(network: fx.GraphModule, node: Any) -> Tensor | None:
    if isinstance(node, fx.Node) and node.op == "get_attr":
        value = attribute(network, str(node.target))
        return value if isinstance(value, Tensor) else None
    return None


def _number(network: fx.GraphModule, node: Any) -> float | None:
    value = _constant(network, node)
    return float(value.reshape(())) if value is not None and value.numel() == 1 else None


def _with_number(network: fx.GraphModule, node: Any, kind: type[nn.Module], number: float) -> fx.Node | None:
    """What a number is added to, multiplied with or divides, where a node does that."""
    if not _is(network, node, kind):
        return None
    first, second = node.args
    for value, other in ((first, second), (second, first)) if kind is not parts.Divide else ((first, second),):
        found = _number(network, other)
        if found is not None and math.isclose(found, number, rel_tol=1e-5) and isinstance(value, fx.Node):
            return value
    return None


def _hard_sigmoid(network: fx.GraphModule, node: fx.Node) -> _Match:
    """``relu6(x + 3) / 6``; or ``x relu6(x + 3) / 6``, a hard swish."""
    sixfold = _with_number(network, node, parts.Divide, 6.0) or _with_number(network, node, parts.Multiply, 1 / 6)
    if sixfold is None:
        return None
    x = _shifted(network, sixfold)
    if x is not None:
        return nn.Hardsigmoid(), x
    if _is(network, sixfold, parts.Multiply):
        for factor, clipped in (sixfold.args, sixfold.args[::-1]):
            if isinstance(factor, fx.Node) and _shifted(network, clipped) is factor:
                return nn.Hardswish(), factor
    return None


def _shifted(network: fx.GraphModule, clipped: Any) -> fx.Node | None:
    """The x of ``relu6(x + 3)``."""
    if not isinstance(_module(network, clipped), nn.ReLU6):
        return None
    return _with_number(network, clipped.args[0], parts.Add, 3.0)


def _gated(network: fx.GraphModule, node: fx.Node) -> _Match:
    """``x sigmoid(x)``, or with a hard sigmoid."""
    if not _is(network, node, parts.Multiply):
        return None
    for x, gate in (node.args, node.args[::-1]):
        made = {nn.Sigmoid: nn.SiLU, nn.Hardsigmoid: nn.Hardswish}.get(type(_module(network, gate)))
        if made is not None and isinstance(gate, fx.Node) and isinstance(x, fx.Node) and gate.args[0] is x:
            return made(), x
    return None


def _factors(network: fx.GraphModule, node: fx.Node) -> Iterator[Any]:
    """What is multiplied, through products that nobody else reads."""
    for each in node.args:
        if _is(network, each, parts.Multiply) and isinstance(each, fx.Node) and len(each.users) == 1:
            yield from _factors(network, each)
        else:
            yield each


def _gelu(network: fx.GraphModule, node: fx.Node) -> _Match:
    """``x (1 + erf(x / sqrt 2)) / 2``, multiplied in any order."""
    if not _is(network, node, parts.Multiply):
        return None
    factors = list(_factors(network, node))
    numbers = [found for each in factors if (found := _number(network, each)) is not None]
    others = [each for each in factors if _number(network, each) is None]
    if len(others) != 2 or not math.isclose(math.prod(numbers), 0.5, rel_tol=1e-5):
        return None
    for x, share in (others, others[::-1]):
        erf = _with_number(network, share, parts.Add, 1.0)
        if erf is None or type(_module(network, erf)).__name__ != "OnnxErf":
            continue
        scaled = erf.args[0]
        inner = _with_number(network, scaled, parts.Divide, math.sqrt(2))
        inner = inner or _with_number(network, scaled, parts.Multiply, math.sqrt(0.5))
        if inner is not None and inner is x:
            return nn.GELU(), inner
    return None


def _softmax(network: fx.GraphModule, node: fx.Node) -> _Match:
    """A softmax between a transpose and its inverse, as older exporters write one that is not over the last axis."""
    middle = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
    first = middle.all_input_nodes[0] if middle is not None and len(middle.all_input_nodes) == 1 else None
    softmax, before, after = _module(network, middle), _order(network, first), _order(network, node)
    if first is None or before is None or after is None or not isinstance(softmax, (nn.Softmax, nn.LogSoftmax)):
        return None
    if [before[axis] for axis in after] != list(range(len(before))) or softmax.dim is None:
        return None
    return type(softmax)(before[softmax.dim]), first.all_input_nodes[0]


def _order(network: fx.GraphModule, node: fx.Node | None) -> list[int] | None:
    module: Any = _module(network, node)
    return module.perm if type(module).__name__ == "OnnxTranspose" else None


def _with_bias(network: fx.GraphModule, node: fx.Node) -> None:
    """``x W + b`` as one linear layer."""
    if not _is(network, node, parts.Add):
        return
    for product, other in (node.args, node.args[::-1]):
        linear, bias = _module(network, product), _constant(network, other)
        if not isinstance(linear, nn.Linear) or linear.bias is not None or bias is None:
            continue
        if isinstance(product, fx.Node) and len(product.users) == 1 and bias.shape == (linear.out_features,):
            linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
            node.replace_all_uses_with(product)
            network.graph.erase_node(node)
            return
