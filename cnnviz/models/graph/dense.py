"""Networks whose output is a map itself, a score of each class at each position: segmentation, dense regression.

Nothing collapses, so the rule for classifiers (the last map before it becomes a vector) would pick the layer that the
class maps are a linear function of, and the heatmap would be the class map itself. What is explained is the end of the
encoder: the coarsest tensor, although skip connections lead past it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from cnnviz.models.graph.axes import is_map
from cnnviz.models.graph.trace import Graph, ancestors, descendants


def is_dense(graph: Graph) -> bool:
    """Whether what is explained has scores at positions: [N, K, h, w] with more than one of them."""
    shape = graph.shapes.get(graph.logits, ())
    return graph.units is None and len(shape) == 4 and shape[2:] != (1, 1)


def encoder_chain(graph: Graph) -> list[fx.Node]:
    """The nodes that every path from the image through the coarsest maps passes through, in order; the last is the
    end of the encoder. Empty where no convolution makes a map.
    """
    coarse = _coarsest(graph)
    if not coarse:
        return []
    chain = chain_to(graph, _left_from(graph, coarse))
    last = [node for node in chain if node in coarse and not graph.is_pool(node) and not graph.is_passive(node)]
    mixed = next((node for node in reversed(last) if _is_mixed_after(graph, node)), None)
    found = mixed or (last or coarse)[-1]
    above = ancestors([found])
    return [*[node for node in chain if node in above and node is not found], found]


def _left_from(graph: Graph, coarse: Collection[fx.Node]) -> set[fx.Node]:
    """Those of the coarsest maps from which a path leads to the output through none of the others."""
    found, stack, seen = set[fx.Node](), [graph.logits], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node in coarse:
            found.add(node)
        elif node not in seen:
            seen.add(node)
            stack.extend(graph.inputs_of(node))
    return found


def chain_to(graph: Graph, ends: Collection[fx.Node]) -> list[fx.Node]:
    """The nodes that every path from the image to any of ``ends`` passes through, in order."""
    wanted = ancestors(list(ends)) | set(ends)
    order = [node for node in graph.module.graph.nodes if node in wanted and node in graph.shapes]
    into, out = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
    into[graph.input] = 1
    for node in order:
        for source in graph.inputs_of(node):
            into[node] += into[source]
    for node in reversed(order):
        out[node] += node in ends
        for source in graph.inputs_of(node):
            out[source] += out[node]
    total = out[graph.input]
    return [node for node in order if into[node] and out[node] and into[node] * out[node] == total]


def _coarsest(graph: Graph) -> list[fx.Node]:
    """The maps with the fewest cells on the way to the output, in order; pyramids of pooled maps left out.

    A pyramid pools to a number of cells that is the same at every size of the image: what is reached only through such
    a pool has no stride.
    """
    above = ancestors([graph.logits]) | {graph.logits}
    order = [node for node in graph.module.graph.nodes if node in above and node in graph.shapes]
    straight, convolved = {graph.input}, set[fx.Node]()
    for node in order:
        sources = graph.inputs_of(node)
        if any(source in straight for source in sources) and not _pools_to_a_grid(graph, node):
            straight.add(node)
        if graph.operation(node).is_convolution or any(source in convolved for source in sources):
            convolved.add(node)
    maps = [node for node in order if node in straight and node in convolved and _is_place(graph, node)]
    fewest = min((_cells(graph, node) for node in maps), default=0)
    return [node for node in maps if _cells(graph, node) == fewest]


def _is_place(graph: Graph, node: fx.Node) -> bool:
    return graph.is_spatial(node) and graph.shapes[node][2:] != (1, 1) and is_map(graph, node)


def _cells(graph: Graph, node: fx.Node) -> int:
    return graph.shapes[node][2] * graph.shapes[node][3]


def _pools_to_a_grid(graph: Graph, node: fx.Node) -> bool:
    operation = graph.operation(node)
    return graph.is_global_pool(node) or (operation.kind == "pooling" and "output_size" in operation.arguments)


def _is_mixed_after(graph: Graph, node: fx.Node) -> bool:
    """Whether positions are mixed between a map and the output, beyond enlarging: else the class maps are a function
    of each cell alone, and a map of their evidence is a copy of them.
    """
    between = (descendants([node]) & ancestors([graph.logits])) | {graph.logits}
    return any(_mixes(graph, each) for each in between - {node})


def _mixes(graph: Graph, node: fx.Node) -> bool:
    operation = graph.operation(node)
    if operation.kind == "convolution":
        return max(_kernel(operation.arguments.get("kernel_size"), operation.tensor("weight"))) > 1
    return graph.is_pool(node)


def _kernel(size: object, weight: object) -> Sequence[int]:
    if isinstance(size, tuple):
        return size
    shape: Sequence[int] = tuple(getattr(weight, "shape", (1, 1, 1, 1)))[2:]
    return shape or (1,)
