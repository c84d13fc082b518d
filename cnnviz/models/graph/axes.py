"""Is a tensor [N, C, h, w] a map of the image: do axes 2 and 3 follow the image's rows and columns, in this order?

Four dimensions do not make a map: [N, h, w, C], a transposed or mirrored map, windows and folded tokens have four too,
and a heatmap drawn from them lies in the wrong places. Where every operation between the image and the tensor is known,
the axes are followed exactly (:mod:`cnnviz.models.receptive_field.field`). Elsewhere the tensor is asked: a third of
the image's rows is replaced by noise, then another, and the rows of a map change where the image did.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.randomness import seed_generators
from cnnviz.models.graph.trace import Graph
from cnnviz.models.receptive_field.axes import Axis, State, even_axis
from cnnviz.models.receptive_field.field import layout, states_of

# Bands of rows, and of columns. Two cannot tell a map from one that is rolled around.
_BANDS = 3
# How far the change moves along the axis as the changed band moves over the image: 1 for a small receptive field, less
# for a large one or where every cell depends on the whole image too, -1 where the axis is mirrored.
_LEAST_SLOPE = 0.01
# How steadily it moves, and how much further than along the other axis.
_LEAST_CORRELATION = 0.8
_LEAST_RATIO = 2.0
# Below this everywhere, a tensor answers to the whole image.
_DIFFUSE = 0.1

Put = Callable[[Hashable, Tensor], None]


class Responses:
    """How the values of tensors change when bands of the image do.

    Args:
        image: [1, C, H, W].
        run: Runs the network on such an image and puts every tensor [N, C, h, w] that is in question, by any key.
    """

    def __init__(self, image: Tensor, run: Callable[[Tensor, Put], None]) -> None:
        self._plain: dict[Hashable, Tensor] = {}
        # For each tensor the summed changes along axes 2 and 3: a row for each band of rows, then of columns.
        self._changes: dict[Hashable, list[tuple[Tensor, Tensor]]] = {}
        with torch.no_grad(), torch.random.fork_rng():
            for number, changed in enumerate(_with_bands(image)):
                seed_generators(0, image.device)  # what draws random numbers draws the same ones each time
                run(changed, self._note if number else self._plain.__setitem__)

    def _note(self, key: Hashable, value: Tensor) -> None:
        plain = self._plain.get(key)
        if plain is None or plain.shape != value.shape:
            return
        change = torch.nan_to_num(_real(value) - _real(plain))
        # What the whole image adds to every place alike (squeeze-and-excitation, attention) says nothing of places.
        change = (change - change.mean((2, 3), keepdim=True)).abs()
        self._changes.setdefault(key, []).append((change.sum((0, 1, 3)), change.sum((0, 1, 2))))

    def objection(self, key: Hashable) -> str:
        """Why a tensor is not a map of the image, in words; empty where it is one."""
        plain, changes = self._plain.get(key), self._changes.get(key, [])
        if plain is None or len(changes) != 2 * _BANDS:
            return "it is not computed for every image alike"
        if plain.shape[0] != 1:
            return "its first axis counts parts of the image"
        for axis, what in enumerate(("rows", "columns")):
            if plain.shape[2 + axis] == 1 or not any(change[axis].any() for change in changes):
                continue  # a single cell has no order, nor has what does not depend on the image here
            seen = torch.stack([change[axis].sum() for change in changes[axis * _BANDS : (axis + 1) * _BANDS]])
            if bool(seen.any()) and not bool(seen.all()):
                return f"a part of the image's {what} does not reach it, because a part of a map was cut off or added"
            along, across = self._movements(key, axis)
            if not _follows(along, across):
                mirrored = _follows((-along[0], -along[1]), across)
                turned = any(_follows((sign * across[0], sign * across[1]), along) for sign in (1, -1))
                if plain.shape[2 + axis] == 2 and not (mirrored or turned):
                    continue  # the receptive fields of two cells may cover the image: nothing speaks against a map
                does = "runs against" if mirrored else "does not follow"
                instead = f" (its axis {3 - axis} does)" if turned else ""
                return f"its axis {axis + 2} {does} the image's {what}{instead}"
        return ""

    def is_diffuse(self, key: Hashable) -> bool:
        """Whether every cell answers to the whole image, much more than to any place of it."""
        return all(abs(slope) < _DIFFUSE for axis in (0, 1) for slope, _ in self._movements(key, axis))

    def _movements(self, key: Hashable, axis: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """How changes of the image's rows (0) or columns (1) move along that axis of a tensor, and along the other."""
        changes = self._changes[key][axis * _BANDS : (axis + 1) * _BANDS]
        along, across = (torch.stack([change[which] for change in changes]) for which in (axis, 1 - axis))
        return _movement(along), _movement(across)


def _real(value: Tensor) -> Tensor:
    return value.abs() if value.is_complex() else value.float()


def _follows(along: tuple[float, float], across: tuple[float, float]) -> bool:
    """Whether a movement is that of a map, given the one along the other axis."""
    (slope, correlation), (other, _) = along, across
    return correlation >= _LEAST_CORRELATION and slope >= max(_LEAST_SLOPE, _LEAST_RATIO * abs(other))


def _with_bands(image: Tensor) -> Iterator[Tensor]:
    """The image; with each band of rows replaced by noise; with each band of columns."""
    yield image
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(image)
    for axis in (2, 3):
        size = image.shape[axis]
        for band in range(_BANDS):
            where = torch.arange(size * band // _BANDS, size * (band + 1) // _BANDS, device=image.device)
            yield image.index_copy(axis, where, noise.index_select(axis, where))


def _movement(bands: Tensor) -> tuple[float, float]:
    """How the band that a cell answers to most moves with the cell: slope (1 for a map), and correlation.

    Args:
        bands: [bands, cells], the change of each cell when each band changes.
    """
    count, cells = bands.shape
    if cells == 1:
        return 0.0, 0.0
    share = bands.double() / bands.double().sum(0).clamp_min(1e-30)
    centre = (share * torch.arange(count, device=bands.device)[:, None]).sum(0)
    place = count * (torch.arange(cells, device=bands.device) + 0.5) / cells - 0.5
    centre, place = centre - centre.mean(), place - place.mean()
    product = (centre * place).sum()
    spread = (centre.square().sum() * place.square().sum()).sqrt().clamp_min(1e-30)
    return float(product / place.square().sum()), float(product / spread)


class _Reader(fx.Interpreter):
    """Runs the graph and hands on the tensors in question."""

    def __init__(self, graph: Graph, wanted: Collection[fx.Node], put: Put) -> None:
        super().__init__(graph.module, garbage_collect_values=True)
        self._wanted, self._put = wanted, put

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor) and value.dim() == 4:
            self._put(n, value)
        return value


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
            _Reader(graph, wanted, put).run(image)

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
