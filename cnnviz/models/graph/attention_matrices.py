"""Attention by operations that can be read: the matrix of each attention layer as a node of the graph.

Fused kernels and ``nn.MultiheadAttention`` never show the matrix softmax(Q K^T / sqrt(d)). In our trace they are
replaced by the operations that they stand for; the network itself, its flags and its kernels are not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.attention import AttentionWatch
from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.places import Places
from cnnviz.models.graph.tokens import gradients_on_probe
from cnnviz.models.graph.trace import Graph, probed

# Largest share by which a score may change when fused attention is written out.
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class AttentionLayers:
    """The attention of a network whose every layer relates all tokens of one grid.

    Attributes:
        matrices: Nodes of the matrices [N, heads, L, L], first layer first.
        places: Where the image's places are among the L tokens.
        residuals: The tokens [N, L, C] behind each layer's block, where the residual path passes.
        read: Which of the L tokens the head reads: the class token, or all that are averaged.
    """

    matrices: tuple[fx.Node, ...]
    places: Places
    residuals: tuple[fx.Node, ...]
    read: Tensor


def written_out(graph: Graph) -> None:
    """Replace fused attention in a trace by matrix products and a softmax, once.

    Raises:
        CnnvizError: It is given something that has no such form here (a causal mask, grouped queries).
    """
    if graph.remembered.get("written out"):
        return
    before = _scores(graph)
    for node in list(graph.module.graph.nodes):
        operation = graph.operation(node)
        if operation.name == "scaled_dot_product_attention":
            _write_out_function(graph, node)
        elif isinstance(operation.module, nn.MultiheadAttention):
            _write_out_module(graph, node, operation.module)
    shapes, bundles = probed(graph)
    graph.shapes.update(shapes)
    graph.bundles.update(bundles)
    graph.remembered.clear()
    graph.remembered["written out"] = True
    graph._chain, graph.axes, graph.places = None, None, None
    after = _scores(graph)
    if (
        before is not None
        and after is not None
        and not bool((after - before).abs().max() <= _SAME * before.abs().max().clamp_min(1e-6))
    ):
        raise CnnvizError("Attention written out gives other scores than the network's.", "Use gradcam.")


def _scores(graph: Graph) -> Tensor | None:
    if graph.probe is None:
        return None
    kept: list[Tensor] = []

    class Reader(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n is graph.logits:
                kept.append(value)
            return value

    with torch.no_grad(), torch.random.fork_rng():
        Reader(graph.module, garbage_collect_values=True).run(graph.probe)
    return kept[0].float()


def _adder(graph: Graph, node: fx.Node) -> Callable[..., fx.Node]:
    def add(target: Any, *args: Any, method: bool = False) -> fx.Node:
        with graph.module.graph.inserting_before(node):
            made = graph.module.graph.create_node("call_method" if method else "call_function", target, args)
        made.meta.update({key: value for key, value in node.meta.items() if key == "nn_module_stack"})
        return made

    return add


def _attended(add: Callable[..., fx.Node], q: Any, k: Any, v: Any, scale: float, mask: Any) -> fx.Node:
    scores = add(torch.matmul, add(torch.mul, q, scale), add("transpose", k, -2, -1, method=True))
    if mask is not None:
        scores = add(masked, scores, mask)
    return add(torch.matmul, add(torch.softmax, scores, -1), v)


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores of attention with what a mask hides at minus infinity, or with what it adds."""
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def _write_out_function(graph: Graph, node: fx.Node) -> None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if given.get("is_causal") or given.get("enable_gqa"):
        raise CnnvizError("Causal attention and grouped queries are not written out.", "Use gradcam.")
    q = given["query"]
    scale = given.get("scale")
    add = _adder(graph, node)
    scale = scale if isinstance(scale, float) else 1 / math.sqrt(graph.shapes[q][-1])
    node.replace_all_uses_with(_attended(add, q, given["key"], given["value"], scale, given.get("attn_mask")))
    graph.module.graph.erase_node(node)


def _write_out_module(graph: Graph, node: fx.Node, module: nn.MultiheadAttention) -> None:
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    plain = module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
    masks = given.get("key_padding_mask") is not None or given.get("attn_mask") is not None
    items = [user for user in node.users if user.args[1:] == (0,)]
    idle = [user for user in node.users if user.args[1:] == (1,) and not user.users]
    if not plain or masks or len(items) + len(idle) != len(node.users) or not module.batch_first:
        raise CnnvizError(f"The attention of {node.target} is of a form that is not written out.", "Use gradcam.")
    add, width, heads = _adder(graph, node), module.embed_dim, module.num_heads

    def held(name: str) -> fx.Node:
        with graph.module.graph.inserting_before(node):
            return graph.module.graph.get_attr(f"{node.target}.{name}")

    weight = held("in_proj_weight")
    bias = None if module.in_proj_bias is None else held("in_proj_bias")
    parts = []
    for place, name in enumerate(("query", "key", "value")):
        rows = slice(place * width, (place + 1) * width)
        own = add(_rows, weight, rows.start, rows.stop)
        shift = None if bias is None else add(_rows, bias, rows.start, rows.stop)
        projected = add(F.linear, given[name], own, shift)
        apart = add("unflatten", projected, 2, (heads, width // heads), method=True)
        parts.append(add("transpose", apart, 1, 2, method=True))
    q, k, v = parts
    mixed = _attended(add, q, k, v, 1 / math.sqrt(width // heads), None)
    joined = add("flatten", add("transpose", mixed, 1, 2, method=True), 2, method=True)
    out_bias = None if module.out_proj.bias is None else held("out_proj.bias")
    result = add(F.linear, joined, held("out_proj.weight"), out_bias)
    for item in [*items, *idle]:
        item.replace_all_uses_with(result)
        graph.module.graph.erase_node(item)
    graph.module.graph.erase_node(node)


def _rows(weight: Tensor, start: int, stop: int) -> Tensor:
    return weight[start:stop]


def attention_layers(graph: Graph, model_name: str) -> AttentionLayers:
    """Every attention layer of a network in which each relates all tokens of one grid to each other.

    Raises:
        CnnvizError: There is none, or attention runs within windows, between fewer tokens, or in another form.
    """
    if not graph.attention:
        raise CnnvizError(f"{model_name} computes no self-attention.", "Use gradcam.")
    if "layers" not in graph.remembered:
        closed = _closed(graph)
        if closed:
            raise CnnvizError(
                f"{model_name}: attention runs in parts that cannot be traced ({len(closed)}, the first is "
                f"{closed[0].target}); a product of the other layers would leave these out.",
                "Use gradcam, or saliency --variant gradient_x_input.",
            )
        written_out(graph)
        graph.remembered["layers"] = _layers(graph, model_name)
    found: AttentionLayers = graph.remembered["layers"]
    return found


def _layers(graph: Graph, model_name: str) -> AttentionLayers:
    known, every = places_of(graph), _matrices(graph)
    # One query that gathers all tokens at the end is the head's pooling.
    layers = [node for node in every if graph.shapes[node][-2] > 1]
    whole = [node for node in layers if _is_whole(graph, node, known.get(node))]
    changed = [node for node in _softmaxes(graph) if node not in every and graph.shapes[node][-2] > 1]
    if layers and changed:
        raise CnnvizError(
            f"{model_name}: {len(changed)} of its {len(changed) + len(layers)} matrices of attention do not multiply "
            f"values as they are (gates, or heads that are mixed): {changed[0].name} is the first; the product of the "
            "others would leave these layers out.",
            "Use gradcam, or saliency --variant gradient_x_input.",
        )
    if not layers:
        raise CnnvizError(
            f"{model_name}: its attention cannot be read: it runs in a part that cannot be traced, or has another form "
            "than softmax(Q K^T) V.",
            "Use gradcam, or saliency --variant gradient_x_input.",
        )
    grids = list(dict.fromkeys("x".join(map(str, known[node].grid)) for node in whole))
    if len(whole) == len(layers) and len(grids) > 1:
        raise CnnvizError(
            f"{model_name}: its {len(layers)} attention layers relate tokens of grids of {len(grids)} sizes "
            f"({', '.join(grids)}); matrices of different sizes have no product.",
            "Use gradcam, or saliency --variant gradient_x_input.",
        )
    if not whole or len(whole) != len(layers) or len({known[node] for node in whole}) != 1:
        odd = next((node for node in layers if node not in whole), None)
        shape = "" if odd is None else f" ({'x'.join(map(str, graph.shapes[odd][1:]))} in the first that does not)"
        raise CnnvizError(
            f"{model_name}: {len(whole)} of {len(layers)} attention layers relate all tokens of one grid to each "
            f"other{shape}; attention within windows, over channels or between grids has no such product.",
            "Use gradcam, or saliency --variant gradient_x_input.",
        )
    residuals = tuple(
        _residual_after(graph, node, after) for node, after in zip(whole, [*whole[1:], None], strict=True)
    )
    return AttentionLayers(tuple(whole), known[whole[0]], residuals, _read(graph, residuals[-1], known[whole[0]]))


def _closed(graph: Graph) -> list[fx.Node]:
    """Modules that stayed in one piece because they cannot be traced, and compute attention, on the probe."""
    modules = [node for node in graph.module.graph.nodes if node.op == "call_module"]
    kept = [(node, graph.module.get_submodule(str(node.target))) for node in modules]
    # PyTorch's own module of attention is written out.
    whole = {n for n, part in kept if any(part.children()) and not isinstance(part, nn.MultiheadAttention)}
    found: list[fx.Node] = []

    class Reader(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            if n not in whole:
                return super().run_node(n)
            with AttentionWatch() as watch:
                value = super().run_node(n)
            if watch.seen:
                found.append(n)
            return value

    if whole and graph.probe is not None:
        with torch.no_grad(), torch.random.fork_rng():
            Reader(graph.module, garbage_collect_values=True).run(graph.probe)
    return found


def _softmaxes(graph: Graph) -> list[fx.Node]:
    """Each softmax of four axes: of images, heads, and two of tokens."""
    nodes = [node for node in graph.module.graph.nodes if node in graph.shapes and len(graph.shapes[node]) == 4]
    return [node for node in nodes if graph.operation(node).kind == "softmax"]


def _matrices(graph: Graph) -> list[fx.Node]:
    """Each softmax whose result, but for dropout, multiplies values."""
    found = []
    for node in _softmaxes(graph):
        user = node
        while len(user.users) == 1 and graph.is_passive(next(iter(user.users))):
            user = next(iter(user.users))
        if any(graph.operation(each).kind == "matrix_product" and each.args[0] is user for each in user.users):
            found.append(node)
    other = sum(graph.operation(node).kind == "attention" for node in graph.module.graph.nodes)
    return found if not other else []


def _is_whole(graph: Graph, node: fx.Node, places: Places | None) -> bool:
    shape = graph.shapes[node]
    batch = graph.shapes[graph.input][0]
    return places is not None and places.merged and places.rows == 2 and shape[2] == shape[3] and shape[0] == batch


def _residual_after(graph: Graph, node: fx.Node, following: fx.Node | None) -> fx.Node:
    """The last sum on the chain behind a layer and before the next: what its block adds up to."""
    order = {each: place for place, each in enumerate(graph.module.graph.nodes)}
    end = order[following] if following is not None else len(order)
    found = [
        each
        for each in graph.chain()
        if order[node] < order[each] < end
        and graph.operation(each).kind == "addition"
        and graph.shapes[each][1:-1] == graph.shapes[node][2:3]
    ]
    if not found:
        raise CnnvizError("No residual path leads around the attention layers.", "Use gradcam.")
    return found[-1]


def _read(graph: Graph, node: fx.Node, places: Places) -> Tensor:
    """Which tokens [L] of the last residual have a gradient of the scores, on the probe."""
    gradient = gradients_on_probe(graph, node)
    length = places.cells + places.before + places.after
    if gradient is None:
        read = torch.zeros(length, dtype=torch.bool)
        read[places.before : places.before + places.cells] = True
        return read
    return gradient[0].flatten(1).any(1).cpu()
