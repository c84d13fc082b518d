"""Networks with attention: which tensor is explained, and its tokens as a map [N, C, h, w].

A tensor whose places are tokens, or lie channels last, is explained through a view: nodes are added to the graph that
take the image's places out of it as a map, and put them back. The network computes what it did; the map is a node like
any other, at which it can be cut, and whatever explains a map explains tokens.

Not every tensor's patches reach the score. Where the head reads a class token alone, the patch tokens that the last
attention did not read any more lead nowhere, and their gradient is exactly zero: a probe tells.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.places import Places, of_places
from cnnviz.models.graph.trace import Graph, ancestors, descendants

# What mixes places, so that a map before it says more than the units or scores behind it.
_MIXING = frozenset({"convolution", "attention", "softmax", "matrix_product"})
MOVES = frozenset({"reshaping", "permutation", "index", "concatenation"})
"""Kinds of operations that change where places lie, and nothing else."""


def is_explainable(graph: Graph, node: fx.Node) -> bool:
    """Whether a tensor has a view as a map [N, C, h, w] of more than one cell."""
    places = places_of(graph).get(node)
    if places is None or places.cells < 2:
        return False
    rank = len(graph.shapes[node])
    if places.merged:
        return rank == 3 and places.rows in (1, 2)
    return rank == 4 and (places.rows, places.cols) in {(1, 2), (2, 3)}


def layout_of(graph: Graph, node: fx.Node) -> Places | None:
    """Where the places of a tensor lie that a view belongs to; None for other tensors."""
    origin = origin_of(graph, node)
    return places_of(graph).get(origin) if graph.attention else None


def origin_of(graph: Graph, node: fx.Node) -> fx.Node:
    """The tensor that a view shows as a map; any other node is its own."""
    return next((origin for origin, view in graph.views.items() if view is node), node)


def live(graph: Graph, nodes: Collection[fx.Node]) -> set[fx.Node]:
    """Those tensors whose places reach what is explained: the gradient there is not zero everywhere, on the probe."""
    places, wanted = places_of(graph), [node for node in nodes if node in places_of(graph)]
    if graph.probe is None:
        return set(wanted)
    ends = graph.chain()[1:]
    reader = _Reader(graph, {*wanted, *ends})
    image = graph.probe.detach().clone().requires_grad_()
    with torch.enable_grad(), torch.random.fork_rng():
        reader.run(image)
        known = [node for node in wanted if reader.kept[node].requires_grad]
        for end in reversed(ends):  # a last layer whose weights are zero lets nothing through, and tells nothing
            reached = _reached_from(reader.kept, end, known, places)
            if reached:
                return reached
    return set(wanted)


def _reached_from(
    values: Mapping[fx.Node, Tensor], end: fx.Node, nodes: Sequence[fx.Node], places: Mapping[fx.Node, Places]
) -> set[fx.Node]:
    """The nodes at whose places a weighted sum of the values of ``end`` has a gradient."""
    found = _gradients(values[end], [values[node] for node in nodes])
    return {
        node
        for node, gradient in zip(nodes, found, strict=bool(found))
        if node is not end and gradient is not None and bool(of_places(gradient, places[node]).any())
    }


def gradients_on_probe(graph: Graph, node: fx.Node) -> Tensor | None:
    """Gradient of the scores at a tensor, on the probe; None where none arrives."""
    if graph.probe is None:
        return None
    ends = [end for end in graph.chain()[1:] if end is not node]
    reader = _Reader(graph, {node, *ends})
    image = graph.probe.detach().clone().requires_grad_()
    with torch.enable_grad(), torch.random.fork_rng():
        reader.run(image)
        for end in reversed(ends):
            found = _gradients(reader.kept[end], [reader.kept[node]])
            if found and found[0] is not None and bool(found[0].any()):
                return found[0]
    return None


def _gradients(chosen: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Gradients of a weighted sum of a tensor's values; none where it has no gradient."""
    if not chosen.requires_grad:
        return []
    shares = torch.linspace(1, 2, chosen.numel(), device=chosen.device).reshape(chosen.shape)
    return torch.autograd.grad((chosen.float() * shares).sum(), leaves, retain_graph=True, allow_unused=True)


class _Reader(fx.Interpreter):
    """Runs the graph as it is now and keeps some of its tensors."""

    def __init__(self, graph: Graph, wanted: Collection[fx.Node]) -> None:
        super().__init__(graph.module, garbage_collect_values=True)
        self._wanted = wanted
        self.kept: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor):
            self.kept[n] = value
        return value


def _alive(graph: Graph) -> set[fx.Node]:
    """All explainable tensors whose places reach the score; found once for what is explained."""
    key = ("live", graph.logits)
    if key not in graph.remembered:
        graph.remembered[key] = live(graph, [node for node in places_of(graph) if is_explainable(graph, node)])
    found: set[fx.Node] = graph.remembered[key]
    return found


def default_tokens(graph: Graph, model_name: str) -> fx.Node:
    """The last tensor through which all that the image's places say reaches the score, as a map.

    On the chain of tensors that every path passes through it is the last with a gradient at its places. Where only the
    attention behind it reads these (the sum that leads around carries them nowhere), it is the normalisation before
    that attention.

    Raises:
        CnnvizError: There is none.
    """
    key = ("default", graph.logits)
    if key not in graph.remembered:  # before there are views, which are no part of the network's own chain
        graph.remembered[key] = _last_tokens(graph, model_name)
    return as_map(graph, graph.remembered[key])


def _last_tokens(graph: Graph, model_name: str) -> fx.Node:
    alive, chain = _alive(graph), graph.chain()
    usable = [node for node in chain[1:] if node in alive and _counts(graph, node)]
    if graph.units is not None:
        usable = [node for node in usable if _is_mixed_before(graph, node)]
    if not usable:
        raise CnnvizError(
            f"{model_name}: no tensor behind its first convolution is known to be a map of the image, or tokens of its "
            "patches, that every path to the score passes through.",
            "Use occlusion, saliency or rise, which need no layer, or name a layer; `cnnviz layers` lists them.",
        )
    last = usable[-1]
    while len(usable) > 1 and _is_behind(graph, last, usable[-2]):
        usable.pop()
        last = usable[-1]
    return _normalised_before_attention(graph, last, alive) or last


def _counts(graph: Graph, node: fx.Node) -> bool:
    """Whether a convolution lies between the image and a tensor, and more than one cell is left."""
    return any(graph.operation(each).is_convolution for each in ancestors([node]))


def _is_mixed_before(graph: Graph, node: fx.Node) -> bool:
    between = (descendants([node]) & ancestors([graph.logits])) | {graph.logits}
    return any(graph.operation(each).kind in _MIXING for each in between)


def _is_behind(graph: Graph, node: fx.Node, earlier: fx.Node) -> bool:
    """Whether a tensor is the one before it in another form: pooled, its places moved, or its keys and values."""
    if graph.is_pool(node):
        return True
    if graph.is_passive(node) or graph.operation(node).kind in MOVES:
        # Of a tensor whose places are known: what joins windows again is no other form of what was cut into them.
        return earlier in graph.inputs_of(node)
    same = places_of(graph)[earlier].grid == places_of(graph)[node].grid
    return same and graph.operation(node).kind == "linear" and _feeds_attention(graph, node)


def _feeds_attention(graph: Graph, node: fx.Node) -> bool:
    """Whether attention reads a tensor with nothing but its shape changed, in parts, scaled or normalised."""
    stack, seen = list(node.users), set[fx.Node]()
    while stack:
        user = stack.pop()
        kind = graph.operation(user).kind
        if kind in {"attention", "matrix_product"}:
            return True
        if user not in seen and kind in MOVES | {"split", "normalisation", "scaling", "product"}:
            seen.add(user)
            stack.extend(user.users)
    return False


def _normalised_before_attention(graph: Graph, node: fx.Node, alive: Collection[fx.Node]) -> fx.Node | None:
    """The normalisation through which alone the places of a residual stream reach the score, if there is one."""
    users = [user for user in node.users if user in graph.shapes]
    norms = [user for user in users if graph.operation(user).kind in {"normalisation", "scaling"} and user in alive]
    others = [user for user in users if user not in norms]
    dead = all(graph.operation(user).kind == "addition" and user not in alive for user in others)
    return norms[0] if len(norms) == 1 and others and dead else None


def as_map(graph: Graph, node: fx.Node) -> fx.Node:
    """The node of a tensor's places as a map [N, C, h, w]: itself, or a view that is added to the graph."""
    if node in graph.views.values():
        return node
    places = places_of(graph)[node]
    if (places.rows, places.cols) == (2, 3):
        return node
    if node not in graph.views:
        graph.views[node] = _inserted(graph, node, places)
    return graph.views[node]


def _inserted(graph: Graph, node: fx.Node, places: Places) -> fx.Node:
    """Adds to the graph: the places of a tensor as a map, and the tensor again with the map in its place."""
    fx_graph, users = graph.module.graph, list(node.users)
    shape = graph.shapes[node]
    steps: list[fx.Node] = []

    def add(kind: str, target: Any, args: tuple[Any, ...], size: Sequence[int] | None) -> fx.Node:
        with fx_graph.inserting_after(steps[-1] if steps else node):
            made = fx_graph.create_node(kind, target, args)
        steps.append(made)
        if size is not None:
            graph.shapes[made] = tuple(size)
        return made

    if not places.merged:
        view = add("call_method", "permute", (node, 0, 3, 1, 2), (shape[0], shape[3], *places.grid))
        back = add("call_method", "permute", (view, 0, 2, 3, 1), shape)
    else:
        view, back = _token_view(graph, node, places, add)
    known = places_of(graph)
    known[view], known[back] = Places(places.grid, 2, 3, followed=places.followed), places
    for user in users:
        user.replace_input_with(node, back)
    for structure in ("returned", "end"):
        replaced = fx.node.map_arg(getattr(graph, structure), lambda each: back if each is node else each)
        setattr(graph, structure, replaced)
    graph._chain, graph.axes = None, None
    return view


def _token_view(graph: Graph, node: fx.Node, places: Places, add: Any) -> tuple[fx.Node, fx.Node]:
    shape, image, known = graph.shapes[node], graph.input, places_of(graph)
    batch, dim, cells, channels = shape[0], places.rows, places.cells, shape[3 - places.rows]
    patches, before, after = node, list[fx.Node](), list[fx.Node]()

    def cut(start: int | None, stop: int | None) -> fx.Node:
        index = (slice(None),) * dim + (slice(start, stop),)
        size = [*shape[:dim], len(range(shape[dim])[slice(start, stop)]), *shape[dim + 1 :]]
        made: fx.Node = add("call_function", operator.getitem, (node, index), size)
        return made

    if not places.bare:
        patches = cut(places.before, -places.after or None)
        known[patches] = Places(places.grid, dim, dim, followed=places.followed)
        before = [cut(None, places.before)] if places.before else []
        after = [cut(-places.after, None)] if places.after else []
    if dim == 1:
        patches = add("call_method", "transpose", (patches, 1, 2), (batch, channels, cells))
        known[patches] = Places(places.grid, 2, 2, followed=places.followed)
    own = graph.shapes[image][2:]
    size = add("call_function", getattr, (image, "shape"), None)
    view = add("call_function", unflatten, (patches, 2, places.grid, size, own), (batch, channels, *places.grid))
    back = add("call_method", "flatten", (view, 2), (batch, channels, cells))
    known[back] = Places(places.grid, 2, 2, followed=places.followed)
    if dim == 1:
        back = add("call_method", "transpose", (back, 1, 2), (batch, cells, channels))
        known[back] = Places(places.grid, 1, 1, followed=places.followed)
    if not places.bare:
        back = add("call_function", torch.cat, ([*before, back, *after], dim), shape)
    return view, back


def unflatten(patches: Tensor, dim: int, grid: tuple[int, int], shape: Sequence[int], own: tuple[int, int]) -> Tensor:
    """Tokens as rows and columns: those of the probe's grid, and of images of other sizes as many as fit them.

    Args:
        patches: Tensor with all places in one dimension.
        dim: That dimension.
        grid: Rows and columns on an image of the size ``own``.
        shape: [N, C, H, W] of what the network was given.
        own: Height and width of the probe.
    """
    size = tuple(shape[2:])
    if size != tuple(own):
        rows, cols = (cells * side / whole for cells, side, whole in zip(grid, size, own, strict=True))
        rounded = [(way(rows), other(cols)) for way in (round, math.ceil) for other in (round, math.ceil)]
        fitting = [each for each in rounded if each[0] * each[1] == patches.shape[dim]]
        if not fitting:
            raise CnnvizError(
                f"{patches.shape[dim]} tokens of an image of {size[0]} x {size[1]} pixels: {grid[0]} x {grid[1]} at "
                f"{own[0]} x {own[1]} do not tell how many rows these are.",
                "Set --input-size to the size of the images.",
            )
        grid = fitting[0]
    apart: Tensor = patches.unflatten(dim, grid)
    return apart


def named_tokens(graph: Graph, node: fx.Node, layer: str, model_name: str) -> fx.Node:
    """The tensor that a name means, as a map.

    Raises:
        CnnvizError: It has no places, or these do not reach the score.
    """
    shape = graph.shapes.get(node)
    if not is_explainable(graph, node):
        raise CnnvizError(
            f"Layer {layer!r} has output {list(shape or ())}, whose dimensions are not known to be the image's places: "
            "neither a map, nor tokens of its patches.",
            _instead(graph, model_name),
        )
    if node in _alive(graph):
        return as_map(graph, node)
    places = places_of(graph)[node]
    tokens = f"{places.cells} patch tokens" if places.merged else "cells"
    why = "nothing reads them" if places.bare else f"what follows reads its {_others(places)} alone"
    raise CnnvizError(
        f"No gradient passes from the score to the {tokens} of layer {layer!r}: {why}.", _instead(graph, model_name)
    )


def _others(places: Places) -> str:
    """The tokens beside those of the patches, in words."""
    count = places.before + places.after
    return "class token" if count == 1 else f"{count} other tokens"


def note_on_tokens(graph: Graph, node: fx.Node, name: str) -> str | None:
    """What to tell of a default layer behind which the patch tokens are not read any more; None of others."""
    places = places_of(graph).get(origin_of(graph, node))
    if places is None or not places.merged or places.bare:
        return None
    behind = descendants([node]) & places_of(graph).keys()
    dead = [each for each in behind if each not in _alive(graph) and graph.operation(each).kind != "linear"]
    if not any(graph.operation(each).kind == "addition" for each in dead):
        return None
    return (
        f"the head reads the {_others(places)} alone: {name} is explained, the last layer whose "
        f"{places.grid[0]} x {places.grid[1]} patch tokens reach the score"
    )


def _instead(graph: Graph, model_name: str) -> str:
    try:
        found = origin_of(graph, default_tokens(graph, model_name))
    except CnnvizError:
        return "Use occlusion, saliency or rise, which need no layer."
    name, call = name_of(graph, found)
    several = len(graph.calls.get(name, ())) > 1
    return f"Use --layer {name}{f':{call}' if several else ''}, the last whose places do (the default)."


def token_stages(graph: Graph, model_name: str) -> list[fx.Node]:
    """The last tensor of each grid that every path passes through and whose places reach the score, input first."""
    target = origin_of(graph, default_tokens(graph, model_name))
    alive, known, found = _alive(graph), places_of(graph), dict[tuple[int, int], fx.Node]()
    for node in graph.chain()[1:]:
        if node in alive and _counts(graph, node) and not (graph.is_pool(node) or graph.is_passive(node)):
            found[known[node].grid] = node
        if node is target:
            break
    found.pop(known[target].grid, None)
    return [*(as_map(graph, node) for node in found.values()), as_map(graph, target)]


def is_mean_of_places(graph: Graph, node: fx.Node) -> bool:
    """Whether a node is the mean of a tensor over all of the image's places, and over nothing else."""
    operation = graph.operation(node)
    source = next(iter(graph.inputs_of(node)), None)
    places = None if source is None else places_of(graph).get(source)
    if operation.name not in {"mean", "amax"} or places is None or not places.bare:
        return False
    return set(operation.arguments["dim"] or ()) == {places.rows, places.cols}
