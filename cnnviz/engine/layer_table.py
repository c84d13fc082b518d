"""All layers of a network: what each returns, how far it looks, and what can be done with it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.hooks import Watched, seen_layer, watched
from cnnviz.engine.open_session import SessionOptions, check_runs, probe_image
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.axes import is_map
from cnnviz.models.graph.heads import read_head
from cnnviz.models.graph.layers import default_node, reference
from cnnviz.models.graph.levels import Level, head_levels
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.places import Places
from cnnviz.models.graph.trace import Graph, of_boxes, trace
from cnnviz.models.receptive_field.field import ReceptiveField, fields_or_reasons, token_field
from cnnviz.registry.box_forms import BoxForm

_UNTRACED = {
    "auto": "the network cannot be traced, only watched while it runs",
    "off": "tracing is off: the network is only watched while it runs",
}


@dataclass(frozen=True)
class LayerRow:
    """One call of a layer.

    Attributes:
        name: Module path as ``--layer`` takes it; ``path:k`` for call k of a module that runs several times.
        type: Class of the module.
        output_shape: Without the batch: (C, h, w) of a map.
        output_stride: Input pixels from one unit to the next, (vertical, horizontal); None without positions.
        receptive_field: What a unit sees; None where there is none, or it is not known.
        no_field: Why, where it is None.
        parameters: Numbers in the module, parts included.
        default_target: Whether this layer is explained when none is named.
        cam: True, or why CAM is not possible here.
        layout: Where the image's places are in the output of a network with attention; None where they are not known,
            and in other networks.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    output_stride: tuple[int, int] | None
    receptive_field: ReceptiveField | None
    no_field: str | None
    parameters: int
    default_target: bool
    cam: bool | str
    layout: Places | None = None

    def as_dict(self) -> dict[str, Any]:
        """As in ``cnnviz layers --json``."""
        field = self.receptive_field
        return {
            "name": self.name,
            "type": self.type,
            "output_shape": list(self.output_shape),
            "output_stride": None if self.output_stride is None else list(self.output_stride),
            "receptive_field": None if field is None else {"size": list(field.size), "offset": list(field.offset)},
            "global_context": None if field is None else field.global_context,
            "no_receptive_field": self.no_field,
            "parameters": self.parameters,
            "default_target": self.default_target,
            "cam": self.cam,
            "layout": None if self.layout is None else self.layout.layout,
            "grid": None if self.layout is None else list(self.layout.grid),
            "other_tokens": None if self.layout is None else self.layout.before + self.layout.after,
        }


def layer_table(
    module: nn.Module,
    name: str,
    input_size: tuple[int, int, int],
    output: str | None = None,
    tracing: str = "auto",
    boxes: BoxForm | None = None,
) -> list[LayerRow]:
    """The layers in the order in which they finish.

    Args:
        module: The network, in evaluation mode.
        name: Of the network, for messages.
        input_size: (C, H, W); shapes, and fields behind padding that depends on the size, are those for it.
        output: Where the class scores are in what the network returns.
        tracing: ``auto``, or ``off`` for what can be seen by hooks alone.
        boxes: How its output has candidates for boxes; None where it has none.

    Raises:
        CnnvizError: The network does not take an input of this size.
    """
    image = probe_image(input_size)
    with rt.scope():
        select = selector(check_runs(module, name, image, SessionOptions(logits_key=output)).key)
        graph = trace(module, image, select) if tracing == "auto" else None
        if graph is not None and boxes is not None:
            graph = of_boxes(graph, select)
        if graph is None:
            return _untraced(watched(module, image), name, image, _UNTRACED[tracing])
        return _traced(module, graph, name)


def _traced(module: nn.Module, graph: Graph, name: str) -> list[LayerRow]:
    layouts = places_of(graph) if graph.attention else {}
    fields = fields_or_reasons(graph)
    targets, why_not = _targets_and_cam(graph, name)
    order = {node: index for index, node in enumerate(graph.module.graph.nodes)}
    calls = [
        (node, path, call)
        for path, nodes in graph.calls.items()
        for call, node in enumerate(nodes)
        if path and node in graph.shapes
    ]
    rows = []
    # Parts before the module that returns the same tensor.
    for node, path, call in sorted(calls, key=lambda c: (order[c[0]], -c[1].count("."))):
        called = _called(path, call, len(graph.calls[path]))
        found = fields.get(node, "it does not depend on the image")
        if isinstance(found, str):
            found = token_field(graph, node) or found
        part = module.get_submodule(path)
        rows.append(
            LayerRow(
                name=called,
                type=type(part).__name__,
                output_shape=graph.shapes[node][1:],
                output_stride=_stride(graph, node, found),
                receptive_field=None if isinstance(found, str) else found,
                no_field=found if isinstance(found, str) else None,
                parameters=_count(part),
                default_target=called in targets,
                cam=_cam(called, targets, why_not),
                layout=layouts.get(node),
            )
        )
    return rows


def _targets_and_cam(graph: Graph, name: str) -> tuple[list[str], str | None]:
    """Names of the default layers (of a pyramid several), and why CAM is not defined (None: it is)."""
    try:
        nodes = head_levels(graph, name) if graph.boxes else [default_node(graph, name)]
    except CnnvizError as error:
        return [], error.message
    targets = [reference(graph, node).name for node in nodes]
    if graph.boxes:
        return targets, "CAM: no, this network finds boxes."
    try:
        read_head(graph, name)
    except CnnvizError as error:
        return targets, error.message
    return targets, None


def _cam(called: str, targets: Sequence[str], why_not: str | None) -> bool | str:
    if why_not is not None:
        return why_not
    return called in targets or f"CAM reads the map that feeds the head, which is {targets[0]}"


def _called(path: str, call: int, count: int) -> str:
    return f"{path}:{call}" if count > 1 else path


def _stride(graph: Graph, node: fx.Node, found: ReceptiveField | str) -> tuple[int, int] | None:
    if isinstance(found, ReceptiveField):
        return found.stride
    return _ratio(graph.shapes[graph.input], graph.shapes[node]) if is_map(graph, node) else None


def _ratio(image: Sequence[int], shape: Sequence[int]) -> tuple[int, int] | None:
    if len(shape) != 4:
        return None
    return max(1, round(image[2] / shape[2])), max(1, round(image[3] / shape[3]))


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def _untraced(calls: Watched, name: str, image: Tensor, why: str) -> list[LayerRow]:
    seen = calls.calls
    counts: Mapping[str, int] = {s.name: sum(other.name == s.name for other in seen) for s in seen}
    targets = [each.name for each in seen if isinstance(each.module, Level)]
    with contextlib.suppress(CnnvizError):
        targets = targets or [seen_layer(calls, None, name, image).name]
    rows = []
    for each in seen:
        called = _called(each.name, each.call, counts[each.name])
        rows.append(
            LayerRow(
                name=called,
                type=type(each.module).__name__,
                output_shape=each.shape[1:],
                output_stride=None if each.objection else _ratio(image.shape, each.shape),
                receptive_field=None,
                no_field=each.objection or why,
                parameters=_count(each.module),
                default_target=called in targets,
                cam=f"{why}: its head cannot be read",
            )
        )
    return rows
