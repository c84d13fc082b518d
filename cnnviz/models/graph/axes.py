"""Is a tensor [N, C, h, w] a map of the image: do axes 2 and 3 follow the image's rows and columns, in this order?

Four dimensions do not make a map: [N, h, w, C], a transposed or mirrored map, windows and folded tokens have four too,
and a heatmap drawn from them lies in the wrong places. Where every operation between the image and the tensor is known,
the axes are followed exactly (:mod:`cnnviz.models.receptive_field.field`). Elsewhere the tensor is asked: a third of
the image's rows is replaced by noise, then another, and the rows of a map change where the image did.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx

from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.responses import MapReader, Put, Responses
from cnnviz.models.graph.trace import Graph
from cnnviz.models.receptive_field.axes import Axis, State, even_axis
from cnnviz.models.receptive_field.field import layout, states_of


class Axes:
    """Which tensors of a traced network are maps of the image.

    What follows a map by operations that are known is one where they say so; only where they do not is it asked again.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        if graph.attention:
            places_of(graph)  # what they say, states_of takes
        self._states = states_of(graph)
        self._responses: Responses | None = None

    def placed(self, node: fx.Node) -> bool:
        """Whether rows and columns are axes of a tensor, wherever they lie among the others."""
        state = self._settled(node)
        return state is not None and state.axes_known

    def objection(self, node: fx.Node) -> str:
        """Why a tensor [N, C, h, w] is not a map of the image, in words; empty where it is one."""
        state = self._settled(node)
        if state is None:
            return "it does not depend on the image"
        if state.axes_known and state.rows is not None and state.cols is not None:
            return layout(state.rows.dim, state.cols.dim) or self._misplaced(state.rows, state.cols)
        if self._responses is None:
            return state.unknown or f"{state.lost} leaves no positions"
        return self._responses.objection(node)

    def _misplaced(self, rows: Axis, cols: Axis) -> str:
        sizes = self._graph.shapes[self._graph.input][2:]
        for axis, what, image in zip((rows, cols), ("rows", "columns"), sizes, strict=True):
            if axis.out_of_place(image):
                first = (axis.low + axis.high) / 2
                last = first + (axis.length - 1) * axis.jump
                return (
                    f"its {axis.length} {what} lie at {float(first):g} to {float(last):g} of the image's {image}, "
                    "because part of a map was cut off or added"
                )
        return ""

    @property
    def asked(self) -> bool:
        """Whether the network was run to find out."""
        return self._responses is not None

    def _settled(self, node: fx.Node) -> State | None:
        """The state of a node; where operations do not tell it, the network is run once for all nodes."""
        state = self._states.get(node)
        if state is None or state.axes_known or self.asked or self._graph.probe is None:
            return state
        graph, probe = self._graph, self._graph.probe
        wanted = {n for n, known in self._states.items() if graph.is_spatial(n) and known and not known.axes_known}

        def run(image: Tensor, put: Put) -> None:
            MapReader(graph, wanted, put).run(image)

        responses = self._responses = Responses(probe, run)

        def settle(n: fx.Node, states: Mapping[fx.Node, State | None]) -> State | None:
            if n not in wanted or (responses.objection(n) and not (responses.is_diffuse(n) and joins(n, states))):
                return None
            (height, width), image = graph.shapes[n][2:], graph.shapes[graph.input][2:]
            return State(even_axis(2, height, image[0]), even_axis(3, width, image[1]))

        def joins(n: fx.Node, states: Mapping[fx.Node, State | None]) -> bool:
            """Whether this is a sum or product with a map, of the same size, to which the rest adds context."""
            same = [source for source in n.all_input_nodes if graph.shapes.get(source) == graph.shapes[n]]
            joining = graph.operation(n).kind in {"addition", "product"}
            return joining and any(_is_placed(states.get(source)) for source in same)

        self._states = states_of(graph, settle)
        return self._states.get(node)


def _is_placed(state: State | None) -> bool:
    return state is not None and state.axes_known and [axis and axis.dim for axis in state.axes] == [2, 3]


def axes_of(graph: Graph) -> Axes:
    """What is known about the axes of a network's tensors; found once."""
    if graph.axes is None:
        graph.axes = Axes(graph)
    axes: Axes = graph.axes
    return axes


def is_map(graph: Graph, node: fx.Node) -> bool:
    """Whether a tensor is [N, C, h, w], with the image's rows and columns in their places."""
    return graph.is_spatial(node) and not axes_of(graph).objection(node)
