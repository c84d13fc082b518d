"""Reading the head of a classifier: is it global pooling followed by one linear layer?

That is the condition under which class activation maps are defined (Zhou et al. 2016). The question is answered by
following the data from the last feature map to the logits, never by counting the modules that a network owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.layers import default_node
from cnnviz.models.graph.operations import Operation
from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.tokens import MOVES, is_mean_of_places, origin_of
from cnnviz.models.graph.trace import Graph


@dataclass(frozen=True, eq=False)
class HeadReading:
    """A head that reads a feature map A [N, C, h, w] through pooling and one linear layer.

    Attributes:
        features: The node of A.
        pooling: ``average`` or ``max``.
        weight: [K, C], the classifier's own.
        bias: [K] or None.
        norm: A layer normalisation between pooling and classifier, or None.
        class_maps: The classifier is a 1x1 convolution before the pooling (SqueezeNet).
        rectified: The class maps pass a ReLU before they are pooled.
    """

    features: fx.Node
    pooling: str
    weight: Tensor
    bias: Tensor | None
    norm: nn.LayerNorm | None = None
    class_maps: bool = False
    rectified: bool = False


def read_head(graph: Graph, model_name: str) -> HeadReading:
    """The head of a network for which CAM is defined.

    Raises:
        CnnvizError: On any other network; the message says what stands between the feature map and the logits.
    """
    features = default_node(graph, model_name)
    chain, origin = graph.chain(), origin_of(graph, features)
    if origin not in chain:
        raise CnnvizError(
            f"CAM is not defined for {model_name}: connections lead past {name_of(graph, features)[0]}; "
            "it needs global pooling followed by one linear layer.",
            "Use `cnnviz gradcam`, which works here.",
        )
    path = [node for node in chain[chain.index(origin) + 1 : chain.index(graph.logits) + 1] if node is not features]
    reading = _pool_then_linear(graph, features, path) or _class_maps_then_pool(graph, features, path)
    if reading is None:
        layer, _ = name_of(graph, features)
        stands = ", ".join(
            _describe(graph, node) for node in path if not (graph.is_passive(node) or _keeps_places(graph, node))
        )
        raise CnnvizError(
            f"CAM is not defined for {model_name}: between {layer} and the logits stand {stands}; "
            "it needs global pooling followed by one linear layer.",
            "Use `cnnviz gradcam`, which equals CAM where CAM is defined and works here.",
        )
    return reading


def _keeps_places(graph: Graph, node: fx.Node) -> bool:
    """Whether a node has all of the image's places, which its form alone is changed of."""
    return graph.attention and node in places_of(graph) and graph.operation(node).kind in MOVES


def _pooling(graph: Graph, node: fx.Node) -> str | None:
    if not (graph.is_global_pool(node) or (graph.attention and is_mean_of_places(graph, node))):
        return None
    return "max" if "max" in graph.operation(node).name else "average"


def _pool_then_linear(graph: Graph, features: fx.Node, path: Sequence[fx.Node]) -> HeadReading | None:
    steps = [node for node in path if not graph.is_passive(node) and not _keeps_places(graph, node)]
    if not steps or (pooling := _pooling(graph, steps[0])) is None:
        return None
    norm: nn.LayerNorm | None = None
    steps = [node for node in steps[1:] if not _is_reshape(graph, node) and not graph.is_global_pool(node)]
    if steps and isinstance(module := graph.submodule(steps[0]), nn.LayerNorm):
        norm, steps = module, steps[1:]
    if len(steps) != 1:
        return None
    layer = graph.operation(steps[0])
    weights = _weights(layer) if layer.kind == "linear" or _pointwise(layer) else None
    if weights is None:
        return None
    return HeadReading(features, pooling, *weights, norm)


def _class_maps_then_pool(graph: Graph, features: fx.Node, path: Sequence[fx.Node]) -> HeadReading | None:
    steps = [node for node in path if not graph.is_passive(node) and not _is_reshape(graph, node)]
    if not steps:
        return None
    layer = graph.operation(steps[0])
    if not _pointwise(layer) or (weights := _weights(layer)) is None:
        return None
    rest = steps[1:]
    rectified = bool(rest) and graph.operation(rest[0]).is_relu
    if rectified:
        rest = rest[1:]
    if len(rest) != 1 or (pooling := _pooling(graph, rest[0])) is None:
        return None
    return HeadReading(features, pooling, *weights, class_maps=True, rectified=rectified)


def _pointwise(layer: Operation) -> bool:
    """Whether this is a 1x1 convolution."""
    wanted = {"kernel_size": (1, 1), "groups": 1, "padding": (0, 0), "stride": (1, 1)}
    return layer.name == "conv2d" and wanted.items() <= layer.arguments.items()


def _weights(layer: Operation) -> tuple[Tensor, Tensor | None] | None:
    """Weight [K, C] and bias of a layer; None where either is computed of something else than what it holds."""
    weight = layer.tensor("weight")
    if weight is None or isinstance(layer.arguments.get("bias"), fx.Node):
        return None
    return weight.flatten(1), layer.tensor("bias")


def _is_reshape(graph: Graph, node: fx.Node) -> bool:
    return graph.operation(node).kind in {"reshaping", "index"}


def _describe(graph: Graph, node: fx.Node) -> str:
    return graph.operation(node).label
