"""How operations move the image's places about: one rule for each kind, and the walk over the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from cnnviz.models.graph.operation_table import Kind
from cnnviz.models.graph.operations import Operation, operation_of
from cnnviz.models.graph.places import COL, ROW, Atom, Dim, Labels, Places, other, regrouped
from cnnviz.models.graph.responses import MapReader, Responses
from cnnviz.models.graph.trace import Graph
from cnnviz.models.receptive_field.axes import State
from cnnviz.models.receptive_field.field import states_of, value_of


@dataclass(frozen=True, eq=False)
class _Call:
    """One operation: what it is, the tensors that it reads (with labels and shapes), and its result's shape."""

    operation: Operation
    sources: Sequence[tuple[Labels | None, tuple[int, ...]]]
    shape: tuple[int, ...]

    @property
    def given(self) -> Mapping[str, Any]:
        return self.operation.arguments

    @property
    def first(self) -> Labels | None:
        return self.sources[0][0]

    @property
    def same_shape(self) -> bool:
        """Whether the result has the shape of the first tensor."""
        return self.sources[0][1] == self.shape


def places_of(graph: Graph) -> dict[fx.Node, Places]:
    """The places of every tensor of a network for which they are known; found once."""
    if graph.places is None:
        every = {node: labels.places() for node, labels in _walk(graph).items() if node in graph.shapes}
        graph.places = {node: places for node, places in every.items() if places is not None}
    found: dict[fx.Node, Places] = graph.places
    return found


def _walk(graph: Graph) -> dict[fx.Node, Labels]:
    states = states_of(graph)
    found: dict[fx.Node, Labels] = {}
    for node in graph.module.graph.nodes:
        if node not in graph.shapes and node not in graph.bundles:
            continue
        shape = graph.shapes.get(node)
        labels = _of_state(states.get(node), shape)
        # Exact fields of view do not tell which rows and columns are padding: the rule does.
        if (labels is None or graph.operation(node).kind == "padding") and node is not graph.input:
            try:
                labels = _of_call(graph, node, found)
            except Exception:  # a spelling that its rule does not expect
                labels = None
        if labels is not None and shape is not None:
            labels = labels.fitted(shape)
        if labels is not None:
            found[node] = labels
    return found


def _of_state(state: State | None, shape: tuple[int, ...] | None) -> Labels | None:
    """What exact receptive fields say of a tensor whose rows and columns they know."""
    if state is None or shape is None or not state.axes_known or state.rows is None or state.cols is None:
        return None
    return Labels.of_map(shape, state.rows.dim, state.cols.dim)


def _of_call(graph: Graph, node: fx.Node, found: Mapping[fx.Node, Labels]) -> Labels | None:
    sources = [
        (found.get(source), graph.shapes.get(source, ()))
        for source in node.all_input_nodes
        if source in graph.shapes or source in graph.bundles
    ]
    if not any(labels is not None for labels, _ in sources):
        return None

    def value(source: fx.Node) -> Any:
        try:
            return value_of(graph, source)
        except Exception:  # it comes out of a part that stayed in one piece; a rule may do without it
            return source

    operation = operation_of(graph.module, node, graph.shapes, value)
    call = _Call(operation, sources, graph.shapes.get(node, ()))
    rule = _BY_NAME.get(operation.name) or _BY_KIND.get(operation.kind)
    if rule is not None:
        return rule(call)
    labels = _unread(call)
    return labels if operation.module is None or not _makes_a_map(call) else _measured(graph, node, call)


def _unread(call: _Call) -> Labels | None:
    """An operation that nobody knows: a module that returns the shape that it was given keeps its places."""
    known = call.first is not None and call.operation.module is not None and call.same_shape
    return replace(call.first, followed=False) if known and call.first is not None else None


def _makes_a_map(call: _Call) -> bool:
    """Whether a map [N, C, h, w] becomes another of its proportions, no larger."""
    places = None if call.first is None else call.first.places()
    if places is None or (places.rows, places.cols) != (2, 3) or len(call.shape) != 4:
        return False
    (height, width), grid = call.shape[2:], places.grid
    return min(height, width) > 1 and height * grid[1] == width * grid[0] and height <= grid[0]


def _measured(graph: Graph, node: fx.Node, call: _Call) -> Labels | None:
    """What a module in one piece makes of a map: asked by changing bands of the image.

    Where each cell answers to the whole image, one that returns its shape is taken to keep its places.
    """
    if graph.probe is None:
        return _unread(call)
    if "bands" not in graph.remembered:
        modules = [n for n in graph.module.graph.nodes if n.op == "call_module" and len(graph.shapes.get(n, ())) == 4]
        wanted = {n for n in modules if any(graph.module.get_submodule(str(n.target)).children())}
        graph.remembered["bands"] = Responses(graph.probe, lambda image, put: MapReader(graph, wanted, put).run(image))
    bands = graph.remembered["bands"]
    if bands.objection(node):
        return _unread(call) if bands.is_diffuse(node) else None
    return replace(Labels.of_map(call.shape, 2, 3), followed=False)


def _kept(call: _Call) -> Labels | None:
    return call.first if call.same_shape else None


def _joined(call: _Call) -> Labels | None:
    """Sums, products, copies: the places of whatever has them; what has the same shape lies over it place by place."""
    rank, every = len(call.shape), list[Labels]()
    for labels, shape in call.sources:
        if labels is not None and len(shape) <= rank:
            lifted = replace(labels, dims=(*(other(1) for _ in range(rank - len(shape))), *labels.dims))
            fitting = lifted.fitted(call.shape)
            every += [] if fitting is None else [fitting]
    agreed, whole = _agreed(every), _agreed([labels for labels in every if labels.places() is not None])
    # Tokens that are the same in all windows, as queries of a whole image, leave only the windows known of a result:
    # what it is added to says where in them it lies.
    return agreed or (whole and replace(whole, followed=False))


def _agreed(every: Sequence[Labels]) -> Labels | None:
    if len({(labels.dims, labels.real) for labels in every}) != 1:
        return None
    return max(every, key=lambda labels: labels.followed)


def _sliding(call: _Call) -> Labels | None:
    """Convolutions, pooling and the like of maps [N, C, h, w]."""
    places = None if call.first is None else call.first.places()
    if places is None or (places.rows, places.cols) != (2, 3) or len(call.shape) != 4:
        return None
    return replace(Labels.of_map(call.shape, 2, 3), followed=places.followed)


def _padded(call: _Call) -> Labels | None:
    labels, amounts = call.first, call.given["pad"]
    places = None if labels is None else labels.places()
    if labels is None or places is None:
        return None
    _, shape = call.sources[0]
    for place in range(len(shape)):
        at = 2 * (len(shape) - 1 - place)
        before, behind = amounts[at : at + 2] or (0, 0)
        dim = labels.dims[place]
        if not (before or behind) or dim.blank:
            continue
        if places.merged or before or any(atom.stride != 1 for atom in dim.atoms):
            return _sliding(call)
        labels = labels.with_dim(place, Dim((Atom(dim.atoms[0].axis, 1, dim.size + behind),)))
        labels = replace(labels, real=labels.real or places.grid)
    return labels


def _concatenated(call: _Call) -> Labels | None:
    place = int(call.given["dim"])
    known = [labels for labels, _ in call.sources if labels is not None]
    if all(labels.dims[place].blank for labels in known):
        return _agreed([labels.with_dim(place, other(1)) for labels in known])
    if len(known) != 1:
        return None
    at = next(i for i, (labels, _) in enumerate(call.sources) if labels is not None)
    sizes, dim = [shape[place] for _, shape in call.sources], known[0].dims[place]
    more = Dim(dim.atoms, dim.before + sum(sizes[:at]), dim.after + sum(sizes[at + 1 :]))
    return known[0].with_dim(place, more)


def _reshaped(call: _Call) -> Labels | None:
    return None if call.first is None else regrouped(call.first, call.shape)


def _permuted(call: _Call) -> Labels | None:
    return None if call.first is None else call.first.picked(list(call.given["dims"]))


def _of_channels(call: _Call) -> Labels | None:
    """What mixes the last dimension alone: linear layers, and attention, which gives each query a result."""
    return None if call.first is None else call.first.with_dim(len(call.first.dims) - 1, other(1))


def _product(call: _Call) -> Labels | None:
    """A matrix product [.., i, j] x [.., j, k]: its rows are those of the first, its columns those of the second."""
    rank = len(call.shape)
    for (labels, shape), lost in zip(call.sources, (1, 2), strict=True):
        if labels is not None and len(shape) <= rank:
            lifted = replace(labels, dims=(*(other(1) for _ in range(rank - len(shape))), *labels.dims))
            mixed = lifted.with_dim(rank - lost, other(1)).fitted(call.shape)
            if mixed is not None:
                return mixed
    return None


def _einsum(call: _Call) -> Labels | None:
    inputs, _, result = str(call.given["equation"]).replace(" ", "").partition("->")
    for letters, (labels, shape) in zip(inputs.split(","), call.sources, strict=True):
        if labels is not None and len(letters) == len(shape):
            dims = tuple(labels.dims[letters.index(each)] if each in letters else other(1) for each in result)
            if (found := replace(labels, dims=dims).fitted(call.shape)) is not None:
                return found
    return None


def _reduced(call: _Call) -> Labels | None:
    labels, dims = call.first, call.given["dim"]
    if labels is None or dims is None:
        return None
    if call.given["keepdim"]:
        for place in dims:
            labels = labels.with_dim(place, other(1))
        return labels
    return labels.picked([place for place in range(len(labels.dims)) if place not in dims])


def _cut(call: _Call) -> Labels | None:
    """Parts along a dimension without places; ``unbind`` takes the dimension away."""
    labels, place = call.first, int(call.given["dim"])
    if labels is None or not labels.dims[place].blank:
        return None
    rest = [each for each in range(len(labels.dims)) if each != place]
    return labels.picked(rest) if call.operation.name == "unbind" else labels


def _stacked(call: _Call) -> Labels | None:
    place = int(call.given["dim"])
    labels = _agreed([labels for labels, _ in call.sources if labels is not None])
    return labels and replace(labels, dims=(*labels.dims[:place], other(1), *labels.dims[place:]))


def _narrowed(call: _Call) -> Labels | None:
    place, start, length = (int(call.given[name]) for name in ("dim", "start", "length"))
    return None if call.first is None else _sliced(call.first, place, slice(start, start + length))


def _indexed(call: _Call) -> Labels | None:
    labels, shape = call.first, call.sources[0][1]
    if labels is None or not shape:  # an item of a tuple of tensors: its sizes are fitted
        return labels and replace(labels, dims=tuple(other(1) if dim.blank else dim for dim in labels.dims))
    index = call.given["index"]
    items = index if isinstance(index, tuple) else (index,)
    if any(not (item is None or item is Ellipsis or isinstance(item, (int, slice))) for item in items):
        return None
    missing = len(shape) - sum(item is not None and item is not Ellipsis for item in items)
    where = items.index(Ellipsis) if Ellipsis in items else len(items)
    dims, old = list[Dim](), 0
    for item in [*items[:where], *[slice(None)] * missing, *items[where + 1 :]]:
        if isinstance(item, slice):
            cut = _sliced(labels, old, item)
            if cut is None:
                return None
            labels = cut
            dims.append(cut.dims[old])
        elif item is None:
            dims.append(other(1))
        elif not labels.dims[old].blank:
            return None
        old += item is not None
    return replace(labels, dims=tuple(dims))


def _sliced(labels: Labels, place: int, part: slice) -> Labels | None:
    """A slice of one dimension; None where places are cut off that are more than padding."""
    dim = labels.dims[place]
    start, stop, step = part.indices(dim.size)
    if dim.blank or (start, stop, step) == (0, dim.size, 1):
        return labels
    if dim.before or dim.after:
        if step != 1 or start > dim.before or stop < dim.size - dim.after:
            return None
        return labels.with_dim(place, Dim(dim.atoms, dim.before - start, dim.after - (dim.size - stop)))
    axis = next((which for which, name in enumerate((ROW, COL)) if dim.is_all(name)), None)
    if axis is None or len(dim.atoms) != 1:
        return None
    (atom,) = dim.atoms
    if step > 1 and start < step and stop == dim.size:
        return labels.with_dim(place, Dim((Atom(atom.axis, atom.stride * step, -(-(stop - start) // step)),)))
    if labels.real is None or (start, stop, step) != (0, labels.real[axis], 1):
        return None
    cropped = labels.with_dim(place, Dim((Atom(atom.axis, atom.stride, stop),)))
    sizes = [d.size for d in cropped.dims if d.is_all(ROW) or d.is_all(COL)]
    return replace(cropped, real=None) if sizes == list(labels.real) else cropped


def _every_second(call: _Call) -> Labels | None:
    """torchvision's merging of 2 x 2 patches of [N, h, w, C] into channels."""
    places = None if call.first is None else call.first.places()
    if places is None or (places.rows, places.cols) != (1, 2):
        return None
    return replace(Labels.of_map(call.shape, 1, 2), followed=places.followed)


_Rule = Callable[[_Call], "Labels | None"]
_BY_KIND: dict[Kind, _Rule] = {
    **dict.fromkeys(("addition", "subtraction", "product", "division", "pointwise", "expansion"), _joined),
    **dict.fromkeys(("activation", "softmax", "normalisation", "scaling", "identity", "shuffling"), _kept),
    **dict.fromkeys(("convolution", "transposed_convolution", "pooling", "resizing"), _sliding),
    **dict.fromkeys(("linear", "attention"), _of_channels),
    "padding": _padded,
    "concatenation": _concatenated,
    "stack": _stacked,
    "reshaping": _reshaped,
    "permutation": _permuted,
    "matrix_product": _product,
    "reduction": _reduced,
    "split": _cut,
    "index": _indexed,
}
# Functions of torchvision that stay in one piece, because they are wrapped for tracers.
_BY_NAME: dict[str, _Rule] = {
    "einsum": _einsum, "narrow": _narrowed, "shifted_window_attention": _kept, "_patch_merging_pad": _every_second,
    "masked": _joined,  # scores of attention with a mask or a position bias added
}  # fmt: skip
