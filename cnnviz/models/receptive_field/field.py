"""Receptive fields: which pixels of the network's input a unit sees, exactly, for any graph of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.operations import attribute, function_name, operation_of
from cnnviz.models.graph.trace import Graph, ancestors
from cnnviz.models.receptive_field.axes import State, cell_axis, image_axis, unknown
from cnnviz.models.receptive_field.ops import apply
from cnnviz.models.receptive_field.sliding import Call

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that the units of a map see; all pairs are (vertical, horizontal).

    Unit (i, j) sees rows ``offset[0] + i * stride[0]`` and on, ``size[0]`` of them, and columns alike. Rows and columns
    are those of the network's input (after resizing and cropping), padding counted on: they may lie outside it.

    Attributes:
        size: Height and width in pixels. Dilation and strides leave holes inside; it is the extent.
        stride: Pixels from one unit to the next.
        offset: First row and column that unit (0, 0) sees; negative where padding begins.
        global_context: Statistics of the whole map enter as well (squeeze-and-excitation, attention, group
            normalisation, global pooling), so that strictly every pixel counts; size and offset are then those of the
            local path.
        reach: ((first row, last row), (first column, last column)) that reach any unit, at the traced input size.
            Strides may leave out the last pixels.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    global_context: bool = False
    reach: tuple[tuple[int, int], tuple[int, int]] | None = None

    def box(self, row: int, col: int) -> Box:
        """What unit (row, col) sees as (x, y, w, h), not clipped: x and y may be negative."""
        top, left = (self.offset[a] + index * self.stride[a] for a, index in enumerate((row, col)))
        return left, top, self.size[1], self.size[0]

    def clipped(self, row: int, col: int, image_size: tuple[int, int]) -> Box:
        """What unit (row, col) sees of an input of ``image_size`` (height, width), the traced size, as (x, y, w, h).

        Where dilation or strides leave holes between taps, the first tap inside the image may lie a few pixels
        further in than a box that begins at the border.
        """
        x, y, w, h = self.box(row, col)
        (top, bottom), (left, right) = self.reach or ((0, image_size[0] - 1), (0, image_size[1] - 1))
        x0, y0 = max(x, left, 0), max(y, top, 0)
        x1, y1 = min(x + w, right + 1, image_size[1]), min(y + h, bottom + 1, image_size[0])
        return x0, y0, max(0, x1 - x0), max(0, y1 - y0)


def receptive_field(graph: Graph, node: fx.Node) -> ReceptiveField:
    """The receptive field of one node.

    Raises:
        CnnvizError: It has none, or it is not known; the message says why.
    """
    found = field_or_reason(graph, states_of(graph), node)
    if isinstance(found, str):
        name, _ = name_of(graph, node)
        raise CnnvizError(
            f"The receptive field of {name} is not known: {found}.",
            "Choose a convolutional layer before that; `cnnviz layers` lists them.",
        )
    return found


def receptive_fields(graph: Graph) -> dict[fx.Node, ReceptiveField | None]:
    """The receptive fields of all nodes with a tensor value, in one pass; None where there is none."""
    found = fields_or_reasons(graph)
    return {node: None if isinstance(item, str) else item for node, item in found.items()}


def fields_or_reasons(graph: Graph) -> dict[fx.Node, ReceptiveField | str]:
    """As :func:`receptive_fields`, with the reason in the place of None."""
    states = states_of(graph)
    return {node: field_or_reason(graph, states, node) for node in graph.shapes}


def field_or_reason(graph: Graph, states: Mapping[fx.Node, State | None], node: fx.Node) -> ReceptiveField | str:
    state = states.get(node)
    if state is None:
        return "it does not depend on the image"
    if state.unknown:
        return state.unknown
    if state.rows is None or state.cols is None:
        return f"{state.lost} leaves no positions"
    rank = len(graph.shapes[node])
    if rank != 4:
        return f"its output has {rank} dimensions"
    if misplaced := layout(state.rows.dim, state.cols.dim):
        return misplaced
    sizes, strides, offsets, reach = [], [], [], []
    for axis in (state.rows, state.cols):
        if axis.jump.denominator != 1:
            return f"its units are {axis.jump} of a pixel apart"
        low, high = math.ceil(axis.low), math.floor(axis.high)
        sizes.append(high - low + 1)
        strides.append(int(axis.jump))
        offsets.append(low)
        reach.append((math.ceil(axis.first), math.floor(axis.last)))
    return ReceptiveField(
        (sizes[0], sizes[1]), (strides[0], strides[1]), (offsets[0], offsets[1]), state.context, (reach[0], reach[1])
    )


def token_field(graph: Graph, node: fx.Node) -> ReceptiveField | None:
    """What tokens of a grid, or cells channels last, see: their patch, and behind attention all of the image too.

    None for other tensors.
    """
    places = (graph.places or {}).get(node)
    size = graph.shapes[graph.input][2:]
    if (
        places is None
        or places.layout == "NCHW"
        or any(side % cells for side, cells in zip(size, places.grid, strict=True))
    ):
        return None
    patch = size[0] // places.grid[0], size[1] // places.grid[1]
    mixed = any(graph.operation(each).kind in {"attention", "softmax"} for each in ancestors([node]))
    return ReceptiveField(patch, patch, (0, 0), mixed, ((0, size[0] - 1), (0, size[1] - 1)))


def layout(rows: int, columns: int) -> str:
    """What is wrong with the axes of a tensor of which these are the image's rows and columns; empty if nothing is."""
    if (rows, columns) == (2, 3):
        return ""
    if (rows, columns) == (3, 2):
        return "its rows are the image's columns, and its columns the image's rows"
    return f"the image's rows and columns are its axes {rows} and {columns}, not 2 and 3"


def states_of(
    graph: Graph, settle: Callable[[fx.Node, Mapping[fx.Node, State | None]], State | None] = lambda node, states: None
) -> dict[fx.Node, State | None]:
    """The state of every node whose value is a tensor, or several; None for those that are no function of the image.

    Args:
        graph: The network.
        settle: Asked for the state of a node whose axes the operations do not tell, given the states of those before.
    """
    states: dict[fx.Node, State | None] = {}
    for node in graph.module.graph.nodes:
        if node is graph.input:
            shape = graph.shapes[node]
            states[node] = State(image_axis(2, shape[2]), image_axis(3, shape[3]))
        elif node in graph.shapes or node in graph.bundles:
            state = _state(graph, node, states)
            if state is not None and not state.axes_known:
                state = _of_places(graph, node) or settle(node, states) or state
            states[node] = state
    return states


def _of_places(graph: Graph, node: fx.Node) -> State | None:
    """A tensor behind attention whose rows and columns are known: each unit has its own cell, and sees all others."""
    places = (graph.places or {}).get(node)
    if places is None or places.merged:
        return None
    size = graph.shapes[graph.input][2:]
    pairs = zip((places.rows, places.cols), places.grid, size, strict=True)
    rows, cols = (cell_axis(dim, length, image) for dim, length, image in pairs)
    return State(rows, cols, context=True)


def _state(graph: Graph, node: fx.Node, states: Mapping[fx.Node, State | None]) -> State | None:
    sources = [(source, state) for source in node.all_input_nodes if (state := states.get(source)) is not None]
    label = _label(node, graph.submodule(node))
    if not sources:
        return None
    try:
        operation = operation_of(graph.module, node, graph.shapes, lambda source: value_of(graph, source))
        if operation.kind == "constant":
            return None
        call = Call(
            operation,
            [state for _, state in sources],
            [graph.shapes.get(source, ()) for source, _ in sources],
            graph.shapes.get(node, ()),
            label,
        )
        return apply(call)
    except Exception as error:  # a spelling of a known operation that its rule does not expect
        return unknown(f"it is behind {label}, which could not be read ({type(error).__name__})")


def _label(node: fx.Node, module: nn.Module | None) -> str:
    return f"{node.target} ({type(module).__name__})" if module is not None else function_name(node)


def _value(graph: Graph, argument: Any) -> Any:
    """An argument as the operation gets it: tensors without their numbers, sizes computed from shapes."""
    return fx.node.map_arg(argument, lambda node: value_of(graph, node))


def value_of(graph: Graph, node: fx.Node) -> Any:
    """What a node's value looks like: tensors without their numbers, sizes as computed from shapes."""
    if node in graph.shapes:
        return torch.empty(graph.shapes[node], device="meta")
    if node in graph.bundles:
        return ()
    if node.op == "get_attr":
        return attribute(graph.module, str(node.target))
    args, kwargs = _value(graph, node.args), _value(graph, node.kwargs)
    if node.op == "call_function":
        return node.target(*args, **kwargs)  # type: ignore[operator]
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    raise ValueError(node.op)
