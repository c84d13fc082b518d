"""Where a network is cut. A cut is a value: no string stands for anything but a layer of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layers import LayerRef, reference, resolve, stepped_over
from cnnviz.models.graph.levels import head_levels
from cnnviz.models.graph.shrunk import shrunk
from cnnviz.models.graph.trace import Graph
from cnnviz.registry.specs import MethodSpec, Options

DEFAULT_LAYER = ""
"""The layer that is explained when none is named."""


@dataclass(frozen=True)
class Cut:
    """The tensors at which a network is cut into trunk and head, in order: the image, layers by name, found nodes.

    Make one with :meth:`at_layers`, :meth:`at_image`, :meth:`before_classifier` or :meth:`at_nodes`. Equal cuts of a
    network are the same session.

    Attributes:
        image: Whether gradients reach the image.
        layers: Names as ``--layer`` has them; :data:`DEFAULT_LAYER` is the tensor that feeds the head.
        find: Picks further nodes of a traced network. A network that cannot be traced has none.
        boxes: Whether the network is a detector, so that its default layer is what feeds the head: a map, or one for
            each level of a pyramid.
    """

    image: bool = False
    layers: tuple[str, ...] = ()
    find: Callable[[Graph], Sequence[fx.Node]] | None = None
    boxes: bool = False

    @classmethod
    def at_layers(cls, *names: str) -> Cut:
        """At the outputs of layers; without a name at the default layer."""
        return cls(layers=names or (DEFAULT_LAYER,))

    @classmethod
    def at_image(cls, *names: str) -> Cut:
        """At the image, so that all of the network is differentiated, and at the outputs of layers."""
        return cls(image=True, layers=names)

    @classmethod
    def before_classifier(cls) -> Cut:
        """At what feeds a last linear layer, otherwise at the logits: for whoever needs no gradient."""
        return cls(find=_nodes_before_classifier)

    @classmethod
    def at_nodes(cls, find: Callable[[Graph], Sequence[fx.Node]]) -> Cut:
        """At whatever nodes ``find`` picks of the trace."""
        return cls(find=find)

    def of(self, graph: Graph, name: str) -> tuple[tuple[LayerRef, ...], list[fx.Node]]:
        """The named layers, and every node of a traced network at which it is cut.

        Raises:
            CnnvizError: There is no such layer, or it is not a map.
        """
        layers = tuple(found for layer in self.layers for found in self._resolved(graph, layer, name))
        nodes = [graph.input] if self.image else []
        nodes += [layer.node for layer in layers if layer.node is not None]
        return layers, nodes if self.find is None else [*nodes, *self.find(graph)]

    def _resolved(self, graph: Graph, layer: str, name: str) -> list[LayerRef]:
        if layer == DEFAULT_LAYER and self.boxes and graph.units is None:
            levels = head_levels(graph, name)
            if self.image and len(levels) > 1:
                raise several_levels(name, [reference(graph, node).name for node in levels])
            return [reference(graph, node) for node in levels]
        return [resolve(graph, layer or None, name)]

    def notes(self, graph: Graph, layers: Sequence[LayerRef]) -> list[str]:
        """What people should know of the layers that they did not name themselves."""
        if self.boxes:
            return []
        usual = [layer for asked, layer in zip(self.layers, layers, strict=True) if not asked]
        return [note for layer in usual for note in (stepped_over(graph, layer), shrunk(graph, layer)) if note]


def cut_for(spec: MethodSpec, params: Options, asked: tuple[str, ...]) -> Cut:
    """Where a method needs the network to be cut.

    Args:
        spec: The method.
        params: Its parameters.
        asked: The layers that were named.

    Raises:
        CnnvizError: More layers than the method makes a map of.
    """
    if len(asked) > 1 and not spec.several_layers:
        raise CnnvizError(
            f"{spec.name} explains one layer; {len(asked)} were named: {', '.join(asked)}.",
            "Name one with --layer, or fuse them with --variant layercam.",
        )
    if spec.nodes:
        return Cut.at_nodes(spec.load_nodes())
    if spec.space == "input":
        return Cut.at_image(*(asked[:1] or (DEFAULT_LAYER,))) if spec.wants_layer(params) else Cut.at_image()
    return Cut.before_classifier() if spec.space == "grid" else Cut.at_layers(*asked)


def without_layer(asked: tuple[str, ...], cuts: Mapping[str, Cut]) -> list[str]:
    """The methods, by name, that look at none of the layers that were named; none where none was named.

    Raises:
        CnnvizError: No method does.
    """
    found = [name for name, cut in cuts.items() if asked and not cut.layers]
    if len(found) == len(cuts) and found:
        verb = "looks" if len(found) == 1 else "look"
        raise CnnvizError(
            f"Layer {', '.join(asked)} was named, but {', '.join(found)} {verb} at no layer.",
            "Leave the layer out, or use a method of a layer, such as gradcam.",
        )
    return found


def several_levels(model_name: str, levels: Sequence[str]) -> CnnvizError:
    return CnnvizError(
        f"{model_name}: several layers feed the head ({', '.join(levels)}), and one is needed beside the image.",
        f"Name one with --layer {levels[0]}.",
    )


def _nodes_before_classifier(graph: Graph) -> list[fx.Node]:
    return [before_classifier(graph)]


def before_classifier(graph: Graph) -> fx.Node:
    """The tensor that feeds a last linear layer, which stays in float32; otherwise the logits themselves."""
    last = graph.submodule(graph.logits)
    sources = graph.inputs_of(graph.logits)
    direct = type(last) is nn.Linear and sources[:1] == graph.chain()[-2:-1]
    return sources[0] if direct else graph.logits
