"""What feeds the head of a detector: the last map on every path to its predictions; of a pyramid one for each level.

The head ends in convolutions behind which no other one makes a map: those that predict. They are sorted by the size of
what they return; each size is a level, and what feeds it is the last map that lies on every path from the image to its
predictions before the head splits into branches for boxes and classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.axes import is_map
from cnnviz.models.graph.dense import chain_to
from cnnviz.models.graph.trace import Graph, ancestors, descendants


class Level(nn.Identity):
    """Marks a map that feeds the head of a network whose graph cannot be followed."""


def head_levels(graph: Graph, model_name: str) -> list[fx.Node]:
    """The maps that feed the head, in the order in which they are computed.

    Raises:
        CnnvizError: No convolution predicts from a map of the image.
    """
    found: dict[fx.Node, None] = {}
    for predictions in _by_size(graph):
        feeding = _feeding(graph, predictions)
        if feeding is not None:
            found[feeding] = None
    if not found:
        raise CnnvizError(
            f"{model_name}: no map of the image feeds the head.",
            "Name a convolutional layer with --layer; `cnnviz layers` lists them.",
        )
    order = list(graph.module.graph.nodes)
    return sorted(found, key=order.index)


def marked_levels(module: nn.Module) -> list[str]:
    """Names of the maps that are marked as what feeds the head."""
    return [name for name, part in module.named_modules() if isinstance(part, Level)]


def _by_size(graph: Graph) -> list[list[fx.Node]]:
    """The convolutions that predict, by the size of their maps."""
    above = ancestors([graph.logits]) | {graph.logits}
    convolutions = [node for node in graph.module.graph.nodes if node in above and _convolves(graph, node)]
    found: dict[tuple[int, ...], list[fx.Node]] = {}
    for node in convolutions:
        if not any(other in convolutions for other in descendants([node]) & above):
            found.setdefault(graph.shapes[node][2:], []).append(node)
    return list(found.values())


def _convolves(graph: Graph, node: fx.Node) -> bool:
    return graph.is_spatial(node) and graph.operation(node).is_convolution and is_map(graph, node)


def _feeding(graph: Graph, predictions: Sequence[fx.Node]) -> fx.Node | None:
    """The last map on every path to any of the predictions, with pooling and dropout skipped."""
    chain = [node for node in chain_to(graph, predictions)[1:] if node not in predictions]
    maps = [node for node in chain if graph.is_spatial(node) and is_map(graph, node)]
    kept = [node for node in maps if not graph.is_pool(node) and not graph.is_passive(node)] or maps
    return kept[-1] if kept else None
