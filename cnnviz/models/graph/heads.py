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
from cnnviz.models.graph.trace import Graph, function_name

_RESHAPES = frozenset("flatten view reshape squeeze squeeze_ getitem".split())


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
    chain = graph.chain()
    path = chain[chain.index(features) + 1 : chain.index(graph.logits) + 1]
    reading = _pool_then_linear(graph, features, path) or _class_maps_then_pool(graph, features, path)
    if reading is None:
        layer, _ = name_of(graph, features)
        stands = ", ".join(_describe(graph, node) for node in path if not graph.is_passive(node))
        raise CnnvizError(
            f"CAM is not defined for {model_name}: between {layer} and the logits stand {stands}; "
            "it needs global pooling followed by one linear layer.",
            "Use `cnnviz gradcam`, which equals CAM where CAM is defined and works here.",
        )
    return reading


def _pooling(graph: Graph, node: fx.Node) -> str | None:
    if not graph.is_global_pool(node):
        return None
    module = graph.submodule(node)
    name = type(module).__name__.lower() if module is not None else function_name(node)
    return "max" if "max" in name else "average"


def _pool_then_linear(graph: Graph, features: fx.Node, path: Sequence[fx.Node]) -> HeadReading | None:
    steps = [node for node in path if not graph.is_passive(node)]
    if not steps or (pooling := _pooling(graph, steps[0])) is None:
        return None
    norm: nn.LayerNorm | None = None
    steps = [node for node in steps[1:] if not _is_reshape(graph, node) and not graph.is_global_pool(node)]
    if steps and isinstance(module := graph.submodule(steps[0]), nn.LayerNorm):
        norm, steps = module, steps[1:]
    if len(steps) != 1:
        return None
    linear = graph.submodule(steps[0])
    if isinstance(linear, nn.Linear):
        return HeadReading(features, pooling, linear.weight, linear.bias, norm)
    if isinstance(linear, nn.Conv2d) and _pointwise(linear):
        return HeadReading(features, pooling, linear.weight.flatten(1), linear.bias, norm)
    return None


def _class_maps_then_pool(graph: Graph, features: fx.Node, path: Sequence[fx.Node]) -> HeadReading | None:
    steps = [node for node in path if not graph.is_passive(node) and not _is_reshape(graph, node)]
    if not steps:
        return None
    conv = graph.submodule(steps[0])
    if not isinstance(conv, nn.Conv2d) or not _pointwise(conv):
        return None
    rest = steps[1:]
    rectified = bool(rest) and _is_relu(graph, rest[0])
    if rectified:
        rest = rest[1:]
    if len(rest) != 1 or (pooling := _pooling(graph, rest[0])) is None:
        return None
    return HeadReading(features, pooling, conv.weight.flatten(1), conv.bias, class_maps=True, rectified=rectified)


def _pointwise(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in {(0, 0), "valid"} and conv.stride == (1, 1)
    )


def _is_relu(graph: Graph, node: fx.Node) -> bool:
    return isinstance(graph.submodule(node), nn.ReLU) or function_name(node) in {"relu", "relu_"}


def _is_reshape(graph: Graph, node: fx.Node) -> bool:
    return isinstance(graph.submodule(node), nn.Flatten) or function_name(node) in _RESHAPES


def _describe(graph: Graph, node: fx.Node) -> str:
    module = graph.submodule(node)
    return type(module).__name__ if module is not None else function_name(node)
