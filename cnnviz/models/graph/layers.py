"""Which tensor a layer name means, and which one is explained when nobody names one.

The default target is the tensor that feeds the head, activation included: on the chain of nodes that every path
from the image to the logits passes through, the last map of the image before it is collapsed to a vector (global
pooling or flattening), with pooling and dropout skipped. Named layers mean the output of that module's call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, fx

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.axes import axes_of, is_map
from cnnviz.models.graph.dense import chain_to, encoder_chain, is_dense
from cnnviz.models.graph.layer_names import name_of, unknown_layer
from cnnviz.models.graph.levels import head_levels
from cnnviz.models.graph.operations import attribute
from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.places import Places
from cnnviz.models.graph.tokens import default_tokens, layout_of, named_tokens, note_on_tokens, origin_of, token_stages
from cnnviz.models.graph.trace import Graph, ancestors, descendants

Stage = TypeVar("Stage")
# Share of a map's cells that a convolution without padding keeps along an axis; a fully connected layer keeps fewer.
_LEAST_KEPT = 0.6
_WITHOUT_LAYER = "Use occlusion, saliency or guided, which need no layer."


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
        layout: Where the places lie in the tensor that the node shows as a map, in a network with attention; None
            elsewhere.
    """

    name: str
    channels: int
    size: tuple[int, int]
    stride: tuple[float, float]
    pre_activation: bool
    node: fx.Node | None = None
    call: int = 0
    layout: Places | None = None


def refuse_attention(name: str) -> CnnvizError:
    return CnnvizError(
        f"{name} computes self-attention, and cannot be traced: where its tokens lie in the image is not known.",
        "Use occlusion, saliency or rise, which need no layer, or name a convolution with --layer.",
    )


def default_node(graph: Graph, model_name: str) -> fx.Node:
    """The tensor that feeds the head.

    Raises:
        CnnvizError: The network's head is not fed by a spatial feature map.
    """
    if graph.boxes and graph.units is None:
        return head_levels(graph, model_name)[-1]
    if is_dense(graph) and (encoder := encoder_chain(graph)):
        return encoder[-1]
    if graph.attention:
        return default_tokens(graph, model_name)
    chain = graph.chain()
    if graph.units is not None and graph.is_spatial(graph.units):
        return _before_units(graph, chain, graph.units, model_name)
    last = _index_before_collapse(graph, chain)
    if last is None:
        raise _no_default(graph, chain, model_name)
    node = _back_over_pools(graph, chain, last)
    # An output that is not class scores has no class maps: a vector is often the mean of the last features.
    return node if graph.vector else _before_class_maps(graph, chain, node)


def _no_default(graph: Graph, chain: Sequence[fx.Node], model_name: str) -> CnnvizError:
    """What to say where no map of the image feeds the head: the tensor that does, and what speaks against it."""
    fed = _no_map_among(graph, chain[1:])
    if fed is None:
        return CnnvizError(
            f"{model_name}: no spatial feature map [N, C, h, w] feeds the head.",
            "Name a convolutional layer with --layer; `cnnviz layers` lists them.",
        )
    return CnnvizError(
        f"{model_name}: the head is fed by {fed}, and by no map of a convolution before it.",
        "Use occlusion, saliency or guided, which need no layer, or name an earlier layer with --layer.",
    )


def _no_map_among(graph: Graph, nodes: Sequence[fx.Node]) -> str | None:
    """The last tensor with four axes that is not a map of the image, in words, with what speaks against it."""
    for node in reversed(nodes):
        shape = graph.shapes[node]
        if graph.is_spatial(node) and shape[2:] != (1, 1) and (objection := axes_of(graph).objection(node)):
            name, _ = name_of(graph, node)
            return f"{list(shape)} behind {name}, which is not a map of the image ({objection})"
    return None


def _before_units(graph: Graph, chain: Sequence[fx.Node], units: fx.Node, model_name: str) -> fx.Node:
    """The coarsest map that the units of a layer are computed from by a convolution, the last of equals.

    The layer's own output would do for nothing: the gradient of a unit there is 1 at itself.
    """
    above, found = ancestors([units]), list[fx.Node]()
    for node in chain[1:] if units not in chain else chain[1 : chain.index(units)]:
        between = (descendants([node]) & above) | {units}
        usable = is_map(graph, node) and not graph.is_pool(node) and not graph.is_passive(node)
        if (
            usable
            and any(graph.operation(n).is_convolution for n in between)
            and _has_convolution(graph, chain[0], node)
        ):
            found.append(node)
    if not found:
        name, _ = name_of(graph, units)
        raise CnnvizError(
            f"{model_name}: no map lies below layer {name}, from which its units could be explained.",
            "Explain them at the image, with guided, saliency or occlusion, or name a layer with --layer.",
        )
    fewest = min(graph.shapes[node][2] * graph.shapes[node][3] for node in found)
    return [node for node in found if graph.shapes[node][2] * graph.shapes[node][3] == fewest][-1]


def _index_before_collapse(graph: Graph, chain: Sequence[fx.Node]) -> int | None:
    """Index in ``chain`` of the last map of the image before the first collapse; None when there is none."""
    seen: list[int] = []
    for index, node in enumerate(chain):
        shape = graph.shapes[node]
        if seen:
            before = graph.shapes[chain[seen[-1]]]
            single = len(shape) == 4 and shape[2:] == (1, 1) and before[2:] != (1, 1)
            if graph.is_global_pool(node) or single or len(shape) == 2:
                spatial = _last_map(graph, chain, seen)
                if spatial is None or not _has_convolution(graph, chain[0], chain[spatial]):
                    return None
                return spatial if _reads_positions(graph, chain[spatial], node) else None
        if len(shape) == 4 and index > 0:
            seen.append(index)
    return None


def _last_map(graph: Graph, chain: Sequence[fx.Node], seen: Sequence[int]) -> int | None:
    """The last of these places in the chain that is a map, before a fully connected layer in the form of a convolution.

    Such a layer (7x7, no padding, on a map of 7x7) leaves a few cells in the middle of a map that is a little larger.
    """
    maps = [place for place in seen if is_map(graph, chain[place])]
    for before, after in reversed(list(pairwise(maps))):
        if _is_dense(graph, chain[before], chain[after]):
            return before
    return maps[-1] if maps else None


def _is_dense(graph: Graph, before: fx.Node, node: fx.Node) -> bool:
    """Whether a module keeps far fewer cells of the map before it than its strides would."""
    module = graph.submodule(node)
    if module is None or not _has_weights(graph, node):
        return False
    strides = [getattr(part, "stride", 1) for part in module.modules()]
    most = math.prod(max(stride) if isinstance(stride, tuple) else stride for stride in strides if stride)
    sizes = zip(graph.shapes[before][2:], graph.shapes[node][2:], strict=True)
    return any(new < _LEAST_KEPT * old / most for old, new in sizes)


def _reads_positions(graph: Graph, start: fx.Node, end: fx.Node) -> bool:
    """Whether what lies between the last map and the vector leaves the positions apart until they are collapsed.

    Weights that mix what has no place in the image any more mean that the network reads tokens (a mixer), not this
    map. Normalisations, layers that have channels last and those of a vector do not; recurrent layers are a head.
    """
    weighted = [n for n in descendants([start]) & ancestors([end]) - {end} if _has_weights(graph, n)]
    return all(_is_harmless(graph, n) or _of_vector(graph, n) or axes_of(graph).placed(n) for n in weighted)


def _of_vector(graph: Graph, node: fx.Node) -> bool:
    shapes = [graph.shapes[source] for source in graph.inputs_of(node)]
    return all(len(shape) == 2 or set(shape[2:]) == {1} for shape in shapes)


def _is_harmless(graph: Graph, node: fx.Node) -> bool:
    return graph.operation(node).kind in {"normalisation", "scaling", "recurrent"}


def _has_convolution(graph: Graph, start: fx.Node, node: fx.Node) -> bool:
    """Whether a convolution lies between the image and ``node``."""
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current in seen or current is start:
            continue
        seen.add(current)
        if graph.operation(current).is_convolution:
            return True
        stack.extend(graph.inputs_of(current))
    return False


def _back_over_pools(graph: Graph, chain: Sequence[fx.Node], index: int) -> fx.Node:
    start = index
    while index > 1 and (graph.is_pool(chain[index]) or graph.is_passive(chain[index])):
        index -= 1
    return chain[index] if index > 0 and is_map(graph, chain[index]) else chain[start]


def _before_class_maps(graph: Graph, chain: Sequence[fx.Node], node: fx.Node) -> fx.Node:
    """Step back over a 1x1-convolution classifier (SqueezeNet): its output are class maps, not features."""
    index = chain.index(node)
    after = chain[index + 1 : chain.index(graph.logits) + 1]
    weightless = all(not _has_weights(graph, n) for n in after)
    while index > 0 and (graph.is_activation(chain[index]) or graph.is_passive(chain[index])):
        index -= 1
    classes = graph.shapes[graph.logits][-1]
    makes_classes = graph.operation(chain[index]).name == "conv2d" and graph.shapes[chain[index]][1] == classes
    if not (weightless and makes_classes and classes > 1):
        return node
    return _back_over_pools(graph, chain, index - 1)


def _has_weights(graph: Graph, node: fx.Node) -> bool:
    module = graph.submodule(node)
    if module is not None:
        return next(module.parameters(), None) is not None
    return any(n.op == "get_attr" and not _is_index(graph, n) for n in node.all_input_nodes)


def _is_index(graph: Graph, node: fx.Node) -> bool:
    value = attribute(graph.module, str(node.target))
    return isinstance(value, Tensor) and not value.is_floating_point()


def stages(graph: Graph, model_name: str) -> list[fx.Node]:
    """Convolutional stages: the last feature map of each resolution that every path passes through, input first."""
    target = default_node(graph, model_name)
    if graph.attention and not (graph.boxes or is_dense(graph)):
        return token_stages(graph, model_name)
    chain = encoder_chain(graph) if is_dense(graph) else graph.chain()
    if graph.boxes:
        chain = chain_to(graph, [target])
    found: dict[tuple[int, ...], fx.Node] = {}
    for node in chain[1 : chain.index(target) + 1]:
        usable = graph.is_spatial(node) and not graph.is_pool(node) and not graph.is_passive(node)
        if usable and _has_convolution(graph, chain[0], node) and is_map(graph, node):
            found[graph.shapes[node][2:]] = node
    found[graph.shapes[target][2:]] = target
    return list(found.values())


def reference(graph: Graph, node: fx.Node, name: str | None = None, call: int | None = None) -> LayerRef:
    """Describe a spatial node of the graph."""
    origin = origin_of(graph, node)
    known, index = name_of(graph, origin)
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
        pre_activation=any(graph.is_activation(user) for user in node.users) and not graph.is_activation(node),
        node=node,
        call=chosen,
        layout=layout_of(graph, node),
    )


def resolve(graph: Graph, layer: str | None, model_name: str) -> LayerRef:
    """The tensor that ``--layer`` means.

    Args:
        graph: The traced network.
        layer: A module path, ``path:k`` for its call k, a negative stage index, or None for the default.
        model_name: For messages.

    Raises:
        CnnvizError: Unknown name (with near matches), a layer without spatial output, or one whose
            places do not reach the score.
    """
    if layer is None:
        return reference(graph, default_node(graph, model_name))
    node, path, chosen = called_node(graph, layer, model_name)
    if path is None:
        return reference(graph, node)
    if graph.attention and (node in places_of(graph) or not graph.operation(node).is_convolution):
        return reference(graph, named_tokens(graph, node, layer, model_name), path, chosen)
    if not graph.is_spatial(node):
        raise not_spatial(layer, graph.shapes.get(node), _last_layer(graph, model_name))
    if objection := axes_of(graph).objection(node):
        raise no_map(layer, graph.shapes[node], objection, _map_before(graph, node))
    return reference(graph, node, path, chosen)


def called_node(graph: Graph, layer: str, model_name: str) -> tuple[fx.Node, str | None, int]:
    """The tensor that a name means, its module path (None for a stage, which may have another name) and its call.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    text = layer.strip()
    if text.lstrip("-").isdigit() and text not in graph.calls:  # "3" may be the name of a Sequential's part
        return stage_at(stages(graph, model_name), int(text), model_name), None, 0
    path, _, suffix = text.partition(":")
    call = int(suffix) if suffix.isdigit() else None
    calls = graph.calls.get(path)
    if not calls or (suffix and call is None):
        raise unknown_layer(
            layer, [name for name, nodes in graph.calls.items() if name and _has_places(graph, nodes[-1])]
        )
    if call is not None and call >= len(calls):
        raise unknown_call(path, suffix, len(calls))
    chosen = len(calls) - 1 if call is None else call
    return calls[chosen], path, chosen


def _has_places(graph: Graph, node: fx.Node) -> bool:
    """Whether a layer may be named for its map: not global pooling, whose one cell says nothing of where."""
    return graph.is_spatial(node) and not (graph.is_pool(node) and tuple(graph.shapes[node][2:]) == (1, 1))


def _last_layer(graph: Graph, model_name: str) -> str | None:
    """The default layer by its name; None where the network has none."""
    try:
        return reference(graph, default_node(graph, model_name)).name
    except CnnvizError:
        return None


def _map_before(graph: Graph, node: fx.Node) -> str | None:
    """The nearest map of the image that ``node`` is computed from, as ``--layer`` names it."""
    above = ancestors([node]) - {node, graph.input}
    for candidate in reversed([n for n in graph.module.graph.nodes if n in above]):
        if is_map(graph, candidate) and _has_convolution(graph, graph.input, candidate):
            name, call = name_of(graph, candidate)
            return f"{name}:{call}" if len(graph.calls.get(name, ())) > 1 else name
    return None


def stepped_over(graph: Graph, layer: LayerRef) -> str | None:
    """What to tell where a tensor with four axes that is not a map of the image stands between a map and the head."""
    if graph.attention:
        return None if layer.node is None else note_on_tokens(graph, layer.node, layer.name)
    chain = graph.chain()
    after = chain[chain.index(layer.node) + 1 :] if layer.node in chain else []
    fed = _no_map_among(graph, after)
    return None if fed is None else f"the head is fed by {fed}: {layer.name} before it is explained"


def stage_at(found: Sequence[Stage], index: int, model_name: str) -> Stage:
    """The convolutional stage that a negative index means."""
    if not -len(found) <= index < 0:
        raise CnnvizError(
            f"--layer {index}: {model_name} has {len(found)} convolutional stages.",
            f"Count from the end: -1 (the default) to -{len(found)}.",
        )
    return found[index]


def unknown_call(path: str, call: str, count: int) -> CnnvizError:
    if count == 1:
        return CnnvizError(f"{path} runs once; there is no call {call}.", f"Use {path}.")
    return CnnvizError(f"{path} runs {count} times; there is no call {call}.", f"Use {path}:0 to {path}:{count - 1}.")


def not_spatial(layer: str, shape: tuple[int, ...] | None, last: str | None) -> CnnvizError:
    """What to say of a layer that has no positions; ``last`` is the last one that has, as ``--layer`` names it."""
    hint = f"Use --layer {last}, the last one that has a map." if last else _WITHOUT_LAYER
    return CnnvizError(f"Layer {layer!r} has output {list(shape or ())}, which is no map: expected [N, C, h, w].", hint)


def no_map(layer: str, shape: tuple[int, ...], objection: str, instead: str | None) -> CnnvizError:
    """What to say of a tensor with four axes that is not a map of the image."""
    hint = f"Use --layer {instead}, the last map before it." if instead else _WITHOUT_LAYER
    return CnnvizError(f"Layer {layer!r} has output {list(shape)}, which is not a map of the image: {objection}.", hint)
