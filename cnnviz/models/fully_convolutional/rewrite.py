"""The fully convolutional reading of a classifier ("net surgery"): the same weights, at every place of a larger image.

A classifier that collapses its last feature map A [N, C, h, w] to a vector is a convolution over larger maps:

- flatten and a linear layer W [O, C h w] is a convolution with kernel h x w and the weights W reshaped to [O, C, h, w];
- pooling over the whole map is pooling over a window h x w that slides with stride 1;
- adaptive pooling to o_h x o_w cells is what it is at the training size: nothing where h = o_h, pooling with a fixed
  kernel where h is a multiple, and otherwise a matrix, multiplied into the weights of the linear layer behind it;
- linear layers behind these are 1x1 convolutions, normalisations and activations work at each position.

At the training size the result is one cell, which is the ordinary output (Sermanet et al., "OverFeat", ICLR 2014,
section 3.5; Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.fully_convolutional.head import HeadReader, Pair, adaptive_size, refused
from cnnviz.models.graph.trace import Graph, ancestors, at_size
from cnnviz.models.graph.without_values import without_values
from cnnviz.models.receptive_field.field import ReceptiveField, receptive_field

CLASS_MAP = "class_map"
"""Name, within the rewritten network, of the layer that returns the class scores of all cells [N, K, rows, cols]."""

_TOLERANCE = 1e-4


class FullyConvolutional(nn.Module):
    """A classifier read convolutionally: pixels [N, C, H, W] to the mean over cells of the class scores, [N, K].

    The scores of the cells [N, K, rows, cols] are the output of the part :data:`CLASS_MAP`. At the training size there
    is one cell, so that the mean is the ordinary output. Parameters are shared with the classifier.

    Attributes:
        window: Cells (h, w) of the last feature map that one prediction is made of.
        changes: In words, what became what.
    """

    def __init__(self, body: nn.Module, head: nn.Module, window: Pair, changes: Sequence[str]) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.class_map = nn.Identity()
        self.window, self.changes = window, tuple(changes)
        self.output: str | None = None
        self.activation: str | None = None

    def forward(self, pixels: Tensor) -> Any:
        value: Any = self.class_map(self.head(self.body(pixels))).mean((2, 3))
        if self.activation == "softmax":
            value = torch.softmax(value, 1)
        elif self.activation == "sigmoid":
            value = torch.sigmoid(value)
        for part in reversed(self.output.split(".") if self.output else []):
            value = {part: value}
        return value


def convolutional(graph: Graph, name: str, output: str | None = None) -> FullyConvolutional:
    """Rewrite a traced classifier.

    Args:
        graph: The classifier, traced at the size that it was trained on.
        name: What messages call it.
        output: Dotted path to the class scores in what the classifier returns; the result returns them under the same.

    Raises:
        CnnvizError: It cannot be read so; the message says which operation stands in the way.
    """
    if graph.attention:
        raise refused(name, "it computes self-attention between all positions, for one number of positions")
    chain = graph.chain()
    start = _collapse(graph, chain)
    if start is None:
        raise refused(name, "no feature map [N, C, h, w] is collapsed to a vector of class scores")
    features = chain[start - 1]
    try:
        receptive_field(graph, features)
    except CnnvizError as error:
        raise refused(name, error.message.rstrip(".")) from error
    shape = graph.shapes[features]
    reader = HeadReader(graph, name, features, (shape[2], shape[3]))
    for node in chain[start : chain.index(graph.logits) + 1]:
        reader.read(node)
    head = reader.finished()
    module = FullyConvolutional(_up_to(graph, features), head, (shape[2], shape[3]), reader.changes)
    module.output, module.activation = output, graph.final_activation
    module.eval().requires_grad_(False)
    _check(graph, module, name)
    return module


@dataclass(frozen=True)
class Cells:
    """Where the cells of a class map lie in the network's input; pairs are (vertical, horizontal), in pixels.

    Cell (i, j) says what the network says of a window of the training size: its middle is at ``first[0] + i *
    stride[0]``, ``first[1] + j * stride[1]`` (edge coordinates: 0.5 is the middle of the first pixel). That is not the
    middle of its receptive field, which padding and even strides shift by up to half a stride: as training shows
    windows mirrored, what a trained cell responds to lies about the middle of the window.

    Attributes:
        first: Middle of the window of cell (0, 0).
        stride: Pixels from one cell to the next.
        window: Height and width of the window: the training size.
        field: The receptive field of the cells.
    """

    first: tuple[float, float]
    stride: Pair
    window: Pair
    field: ReceptiveField


def cells(graph: Graph, node: fx.Node, size: Pair | None = None) -> Cells:
    """Places of the units of ``node``, the class map of a graph that was traced at the training size.

    Args:
        graph: A :class:`FullyConvolutional`, traced.
        node: Its class map.
        size: (height, width) of the input that the cells are of; None for the training size.

    Raises:
        CnnvizError: They are not known.
    """
    window: Pair = (graph.shapes[graph.input][2], graph.shapes[graph.input][3])
    field = trained = receptive_field(graph, node)
    if size is not None and size != window:
        field = receptive_field(at_size(graph, size), node)
    # Padding that depends on the size moves what the cells see, and their windows with it.
    first = tuple(window[a] / 2 + field.offset[a] - trained.offset[a] for a in (0, 1))
    return Cells((first[0], first[1]), field.stride, window, field)


def moves_with_size(graph: Graph) -> bool:
    """Whether the places of units may depend on the input's size: padding as TensorFlow does, or computed padding."""
    for node in graph.module.graph.nodes:
        operation = graph.operation(node)
        slides = operation.kind in {"convolution", "pooling"}
        if slides and operation.subclassed:
            return True
        if operation.kind == "padding" and any(source not in graph.shapes for source in node.all_input_nodes):
            return True
    return False


def _collapse(graph: Graph, chain: Sequence[fx.Node]) -> int | None:
    """Index in ``chain`` of the node behind the last feature map, or of the first adaptive pooling before that."""
    last = None
    for index, node in enumerate(chain[: chain.index(graph.logits)]):
        if index and adaptive_size(graph, node) is not None:
            return index if graph.is_spatial(chain[index - 1]) else None
        single = index and graph.shapes[node][2:] == (1, 1)  # one cell: collapsed, unless all maps are that small
        if graph.is_spatial(node) and not (single and last):
            last = index
    return last + 1 if last else None


def _up_to(graph: Graph, features: fx.Node) -> fx.GraphModule:
    """The network from the pixels to ``features``; its submodules are shared."""
    wanted = ancestors([features]) | {graph.input}
    new, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.module.graph.nodes:
        if node in wanted:
            copies[node] = new.node_copy(node, lambda old: copies[old])
    new.output(copies[features])
    return fx.GraphModule(graph.module, new)


def _check(graph: Graph, module: FullyConvolutional, name: str) -> None:
    """The one cell at the training size must be the ordinary output."""
    shape = graph.shapes[graph.input]
    where = next((p.device for p in graph.module.parameters()), torch.device("cpu"))
    probe = torch.randn((1, *shape[1:]), generator=torch.Generator().manual_seed(0)).to(where)
    with torch.no_grad():
        expected = _up_to(graph, graph.logits)(probe).flatten(1)
        got = module.class_map(module.head(module.body(probe)))
    same = got.shape[2:] == (1, 1) and got.flatten(1).shape == expected.shape
    if not same or (got.flatten(1) - expected).abs().max() > _TOLERANCE * expected.abs().max().clamp_min(1e-6):
        raise refused(name, "rewritten, it gives other values at the training size")
    height, width = 2 * shape[2], 2 * shape[3]
    try:
        with torch.no_grad(), without_values():
            large = module.class_map(module.head(module.body(torch.empty((1, shape[1], height, width)))))
    except Exception as error:
        raise refused(name, f"it does not run on {height} x {width} pixels") from error
    if large.dim() != 4 or min(large.shape[2:]) < 2:
        raise refused(name, f"of {height} x {width} pixels it makes no larger map")
