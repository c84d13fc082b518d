"""Networks at an input size that leaves one cell of their last maps."""

from __future__ import annotations

from torch import fx, nn

from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.graph.trace import Graph, descendants


def shrunk(graph: Graph, layer: LayerRef) -> str | None:
    """What to tell where the last convolutions see one cell, so that an earlier layer is explained; None elsewhere.

    A convolution that reads the whole of a map, as a fully connected layer does, leaves a single cell too, and is none.
    """
    if layer.node is None or graph.attention:
        return None
    if not any(_is_beyond(graph, node) for node in descendants([layer.node])):
        return None
    height, width = graph.shapes[graph.input][2:]
    return (
        f"at {height} x {width} pixels the last convolutions have a single cell, which says nothing of where: "
        f"{layer.name} before them ({layer.size[0]} x {layer.size[1]} cells) is explained; a larger --input-size has "
        "maps of the last ones"
    )


def _is_beyond(graph: Graph, node: fx.Node) -> bool:
    """Whether a convolution gives one cell, and its kernel reaches beyond the map that it reads."""
    module = graph.submodule(node)
    if not isinstance(module, nn.Conv2d) or tuple(graph.shapes.get(node, ())[2:]) != (1, 1):
        return False
    read = graph.shapes[graph.inputs_of(node)[0]][2:]
    return any(kernel > side for kernel, side in zip(module.kernel_size, read, strict=True))
