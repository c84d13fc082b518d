"""Which tensor a layer name means, and which one is explained when nobody names one.

The default target is the tensor that feeds the head, activation included: on the chain of nodes that every path
from the image to the logits passes through, the last spatial one before the map is collapsed to a vector (global
pooling or flattening), with pooling and dropout skipped. Named layers mean the output of that module's call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import fx, nn

from cnnviz.errors import CnnvizError, nearest
from cnnviz.models.graph import Graph

Stage = TypeVar("Stage")


@dataclass(frozen=True)
class LayerRef:
    """A tensor of the network.

    Attributes:
        name: Module path as in ``named_modules``; ``name:k`` for call k of a module that runs several times.
        channels: Channels C of the tensor [N, C, h, w].
        size: Height and width (h, w) at the probe's input size.
        stride: Input pixels a cell, (vertical, horizontal), at the probe's input size.
        pre_activation: Whether an activation follows directly (and is not included).
        node: The tensor's node in the graph; None where the network could not be traced.
        call: Which call of the module, from 0.
    """

    name: str
    channels: int
    size: tuple[int, int]
    stride: tuple[float, float]
    pre_activation: bool
    node: fx.Node | None = None
    call: int = 0


def _refuse_attention(name: str) -> CnnvizError:
    return CnnvizError(
        f"{name} computes self-attention: it is a transformer or a hybrid, not a convolutional network.",
        "Class activation maps need a convolutional one. Choose such a model, or name a convolution with --layer.",
    )


def default_node(graph: Graph, model_name: str) -> fx.Node:
    """The tensor that feeds the head.

    Raises:
        CnnvizError: A transformer, or a network whose head is not fed by a spatial feature map.
    """
    if graph.attention:
        raise _refuse_attention(model_name)
    chain = graph.chain()
    last = _index_before_collapse(graph, chain)
    if last is None:
        raise CnnvizError(
            f"{model_name}: no spatial feature map [N, C, h, w] feeds the head.",
            "Name a convolutional layer with --layer; `cnnviz layers` lists them.",
        )
    node = _back_over_pools(graph, chain, last)
    return _before_class_maps(graph, chain, node)


def _index_before_collapse(graph: Graph, chain: Sequence[fx.Node]) -> int | None:
    """Index in ``chain`` of the last spatial node before the first collapse; None when there is none."""
    spatial: int | None = None
    for index, node in enumerate(chain):
        shape = graph.shapes[node]
        if spatial is not None:
            before = graph.shapes[chain[spatial]]
            single = len(shape) == 4 and shape[2:] == (1, 1) and before[2:] != (1, 1)
            if graph.is_global_pool(node) or single or len(shape) == 2:
                # Weights between the last map and a vector mean that the head reads tokens, not this map.
                read = [n for n in chain[spatial + 1 : index] if _has_weights(graph, n)]
                convolved = _has_convolution(graph, chain[0], chain[spatial])
                return spatial if convolved and not read else None
        if len(shape) == 4 and index > 0:
            spatial = index
    return None


def _has_convolution(graph: Graph, start: fx.Node, node: fx.Node) -> bool:
    """Whether a convolution lies between the image and ``node``."""
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current in seen or current is start:
            continue
        seen.add(current)
        if _is_convolution(graph, current):
            return True
        stack.extend(graph.inputs_of(current))
    return False


def _is_convolution(graph: Graph, node: fx.Node) -> bool:
    module = graph.submodule(node)
    if module is None:
        return getattr(node.target, "__name__", "") in {"conv2d", "_convolution"}
    return isinstance(module, nn.modules.conv._ConvNd)


def _back_over_pools(graph: Graph, chain: Sequence[fx.Node], index: int) -> fx.Node:
    start = index
    while index > 1 and (graph.is_pool(chain[index]) or graph.is_passive(chain[index])):
        index -= 1
    return chain[index] if index > 0 and graph.is_spatial(chain[index]) else chain[start]


def _before_class_maps(graph: Graph, chain: Sequence[fx.Node], node: fx.Node) -> fx.Node:
    """Step back over a 1x1-convolution classifier (SqueezeNet): its output are class maps, not features."""
    index = chain.index(node)
    after = chain[index + 1 : chain.index(graph.logits) + 1]
    weightless = all(not _has_weights(graph, n) for n in after)
    while index > 0 and (graph.is_activation(chain[index]) or graph.is_passive(chain[index])):
        index -= 1
    module = graph.submodule(chain[index])
    classes = graph.shapes[graph.logits][-1]
    if not (weightless and isinstance(module, nn.Conv2d) and module.out_channels == classes and classes > 1):
        return node
    return _back_over_pools(graph, chain, index - 1)


def _has_weights(graph: Graph, node: fx.Node) -> bool:
    module = graph.submodule(node)
    if module is not None:
        return next(module.parameters(), None) is not None
    return any(n.op == "get_attr" for n in node.all_input_nodes)


def stages(graph: Graph, model_name: str) -> list[fx.Node]:
    """Convolutional stages: the last feature map of each resolution that every path passes through, input first."""
    target = default_node(graph, model_name)
    chain = graph.chain()
    found: dict[tuple[int, ...], fx.Node] = {}
    for node in chain[1 : chain.index(target) + 1]:
        usable = graph.is_spatial(node) and not graph.is_pool(node) and not graph.is_passive(node)
        if usable and _has_convolution(graph, chain[0], node):
            found[graph.shapes[node][2:]] = node
    found[graph.shapes[target][2:]] = target
    return list(found.values())


def name_of(graph: Graph, node: fx.Node) -> tuple[str, int]:
    """Module path and call index by which people know the tensor ``node``.

    The outermost module that returned this very tensor (``layer4`` rather than ``layer4.1.relu``); for a functional
    activation the module before it; otherwise the nearest module upstream.
    """
    current = node
    while True:
        owners = [
            (path, calls.index(current)) for path, calls in graph.calls.items() if current in calls and path
        ]
        if owners:
            return min(owners, key=lambda owner: (owner[0].count("."), len(owner[0])))
        upstream = graph.inputs_of(current)
        if not upstream:
            return str(node.name), 0
        current = upstream[0]


def reference(graph: Graph, node: fx.Node, name: str | None = None, call: int | None = None) -> LayerRef:
    """Describe a spatial node of the graph."""
    known, index = name_of(graph, node)
    shape, source = graph.shapes[node], graph.shapes[graph.input]
    path = name or known
    chosen = index if call is None else call
    if len(graph.calls.get(path, ())) > 1:
        path = f"{path}:{chosen}"
    return LayerRef(
        name=path,
        channels=shape[1],
        size=(shape[2], shape[3]),
        stride=(source[2] / shape[2], source[3] / shape[3]),
        pre_activation=any(graph.is_activation(user) for user in node.users)
        and not graph.is_activation(node),
        node=node,
        call=chosen,
    )


def resolve(graph: Graph, layer: str | None, model_name: str) -> LayerRef:
    """The tensor that ``--layer`` means.

    Args:
        graph: The traced network.
        layer: A module path, ``path:k`` for its call k, a negative stage index, or None for the default.
        model_name: For messages.

    Raises:
        CnnvizError: Unknown name (with near matches), a layer without spatial output, or a transformer.
    """
    if layer is None:
        return reference(graph, default_node(graph, model_name))
    text = layer.strip()
    if text.lstrip("-").isdigit() and text not in graph.calls:  # "3" may be the name of a Sequential's part
        return reference(graph, stage_at(stages(graph, model_name), int(text), model_name))
    path, _, suffix = text.partition(":")
    call = int(suffix) if suffix.isdigit() else None
    calls = graph.calls.get(path)
    if not calls or (suffix and call is None):
        raise unknown_layer(
            layer, [p for p, nodes in graph.calls.items() if p and graph.is_spatial(nodes[-1])]
        )
    if call is not None and call >= len(calls):
        raise unknown_call(path, suffix, len(calls))
    chosen = len(calls) - 1 if call is None else call
    node = calls[chosen]
    if not graph.is_spatial(node):
        raise not_spatial(layer, graph.shapes.get(node))
    if graph.attention and not _is_convolution(graph, node):
        raise _refuse_attention(model_name)
    return reference(graph, node, path, chosen)


def stage_at(found: Sequence[Stage], index: int, model_name: str) -> Stage:
    """The convolutional stage that a negative index means."""
    if not -len(found) <= index < 0:
        raise CnnvizError(
            f"--layer {index}: {model_name} has {len(found)} convolutional stages.",
            f"Count from the end: -1 (the default) to -{len(found)}.",
        )
    return found[index]


def unknown_call(path: str, call: str, count: int) -> CnnvizError:
    return CnnvizError(f"{path} runs {count} time(s); there is no call {call}.", f"Use {path}:0 to {path}:{count - 1}.")


def unknown_layer(layer: str, known: Sequence[str]) -> CnnvizError:
    close = nearest(layer, known)
    shown = ", ".join(known[-6:])
    return CnnvizError(f"There is no layer {layer!r}.", close or f"The last spatial layers are {shown}.")


def not_spatial(layer: str, shape: tuple[int, ...] | None) -> CnnvizError:
    return CnnvizError(
        f"Layer {layer!r} has output {list(shape or ())}; a class activation map needs [N, C, h, w].",
        "Name a convolutional layer before the pooling, or leave --layer out.",
    )
