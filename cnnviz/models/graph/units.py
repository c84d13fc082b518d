"""A traced network that ends at the units of a layer in the place of its class scores."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.axes import axes_of, is_map
from cnnviz.models.graph.layers import called_node, no_map
from cnnviz.models.graph.tokens import as_map, is_explainable
from cnnviz.models.graph.trace import Graph


def ending_at_units(graph: Graph, layer: str, at: str | tuple[int, int], model_name: str) -> Graph:
    """The network up to a layer, whose units [N, C] stand in the place of the logits.

    Args:
        graph: The trace of the whole network; nodes are added to it.
        layer: As ``--layer`` has it; also a layer that returns a vector.
        at: ``sum`` over the positions of a map, its ``strongest`` position, or (row, column).
        model_name: For messages.

    Raises:
        CnnvizError: Unknown layer; its output is neither [N, C] nor a map [N, C, h, w] of the image; no such position.
    """
    node, _, _ = called_node(graph, layer, model_name)
    if graph.attention and is_explainable(graph, node):
        node = as_map(graph, node)
    shape = graph.shapes[node]
    check_units(layer, shape, at)
    if len(shape) == 4 and not is_map(graph, node):
        raise no_map(layer, shape, axes_of(graph).objection(node) or "it does not depend on the image", None)
    end = node if len(shape) == 2 else _reduced(graph, node, at)
    return replace(graph, logits=end, final_activation=None, end=None, units=node, _chain=None)


def ending_at_vector(graph: Graph, node: fx.Node, model_name: str) -> Graph:
    """The network up to the vector of an image, [N, D], which stands in the place of the logits.

    Raises:
        CnnvizError: What is there is no vector.
    """
    shape = graph.shapes[node]
    if len(shape) != 2 or graph.boxes:
        raise CnnvizError(
            f"{model_name} has no vector for an image: what feeds its output has shape {list(shape)}.",
            "similar: and embedding: are of classifiers, and of networks whose output is a vector (--task embed).",
        )
    return replace(graph, logits=node, final_activation=None, end=None, vector=True, _chain=None)


def check_units(layer: str, shape: Sequence[int], at: str | tuple[int, int]) -> None:
    """Raises a CnnvizError unless a layer with this output has units, and a map that position."""
    if len(shape) not in (2, 4):
        raise CnnvizError(
            f"Layer {layer!r} has output {list(shape)}; units are those of a vector [N, C] or a map [N, C, h, w].",
            "`cnnviz layers` lists the layers with their outputs.",
        )
    if isinstance(at, str):
        return
    if len(shape) == 2:
        raise CnnvizError(f"Layer {layer!r} returns a vector: its units have no position.", f"Use unit:{layer}:K.")
    row, column = at
    height, width = shape[2:]
    if not (0 <= row < height and 0 <= column < width):
        raise CnnvizError(
            f"Layer {layer!r} has {height} x {width} positions; there is none at row {row}, column {column}.",
            f"Rows go from 0 to {height - 1}, columns from 0 to {width - 1}.",
        )


def _reduced(graph: Graph, node: fx.Node, at: str | tuple[int, int]) -> fx.Node:
    """A node that makes one value of each map of ``node``."""
    with graph.module.graph.inserting_after(node):
        if at == "sum":
            end = graph.module.graph.call_function(torch.sum, (node, (2, 3)))
        elif at == "strongest":
            end = graph.module.graph.call_function(torch.amax, (node, (2, 3)))
        else:
            assert not isinstance(at, str)
            row, column = at
            end = graph.module.graph.call_function(
                operator.getitem, (node, (slice(None), slice(None), int(row), int(column)))
            )
    graph.shapes[end] = graph.shapes[node][:2]
    return end
