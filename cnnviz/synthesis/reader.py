"""A network read for its gradients at the pixels: only as far up as an objective looks, and before what would clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.prepare.split import Split, cut
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layers import LayerRef, resolve
from cnnviz.models.graph.outputs import as_rows
from cnnviz.models.graph.trace import Graph
from cnnviz.models.preprocess import Preprocess, in_order


@dataclass(frozen=True, eq=False)
class Reading:
    """One forward pass.

    Attributes:
        leaf: What went in, [N, C, H, W], normalised; requires gradients.
        logits: [N, K] float32, or [N, K, h, w] of a network with scores at positions; None where no class is asked for.
        layers: The values of the asked layers [N, C, h, w], float32, before a ReLU that would clip them.
    """

    leaf: Tensor
    logits: Tensor | None
    layers: tuple[Tensor, ...]

    def gradient(self, score: Tensor) -> Tensor:
        """d(score)/d(leaf), float32; can be asked for once."""
        return torch.autograd.grad(score, self.leaf)[0].float()


@dataclass(frozen=True, eq=False)
class GradientReader:
    """Reads a network.

    Attributes:
        read: Normalised pixels [N, C, H, W] on the device to a reading.
        layers: The asked layers.
        device: Where the network is.
    """

    read: Callable[[Tensor], Reading]
    layers: tuple[LayerRef, ...]
    device: torch.device


def open_reader(
    session: Session, layers: Sequence[str], opened: Callable[[Cut], Session], *, logits: bool
) -> GradientReader:
    """Read a network at layers and, if asked, at its class scores; what lies above is not run.

    A layer whose value is a ReLU's (ReLU6, hard tanh) is read before it: there a unit that is off still has a
    gradient, so that an ascent can start from where nothing fires (tensorflow/lucid, issue 68). A network that cannot
    be traced is read by hooks, whole and after its ReLUs.

    Args:
        session: Any session of the network.
        layers: Names, as ``--layer`` has them; each may come once.
        opened: Opens a session that is cut elsewhere.
        logits: Whether class scores are needed.

    Raises:
        CnnvizError: An unknown layer.
    """
    if session.graph is None:
        return _by_hooks(opened(Cut.at_image(*layers)))
    graph = session.graph
    found = tuple(resolve(graph, layer, session.name) for layer in layers)
    nodes = [before_clipping(graph, layer.node) for layer in found if layer.node is not None]
    order = {node: place for place, node in enumerate(graph.module.graph.nodes)}
    end = graph.logits if logits else max(nodes, key=order.__getitem__)
    inner = list(dict.fromkeys(node for node in nodes if node is not end))
    split, device = _prepared(dataclasses.replace(graph, logits=end), [graph.input, *inner], session)

    def read(pixels: Tensor) -> Reading:
        leaf = pixels.detach().to(split.head_dtype).requires_grad_()
        top, *values = split.head(leaf)
        by_node = {end: top, **dict(zip(inner, values, strict=True))}
        return Reading(leaf, as_rows(top).float() if logits else None, tuple(by_node[node].float() for node in nodes))

    return GradientReader(read, found, device)


def before_clipping(graph: Graph, node: fx.Node) -> fx.Node:
    """What goes into the ReLU that ``node`` is; the node itself where it is none."""
    operation = graph.operation(node)
    clips = operation.bounds is not None or operation.name == "threshold"
    return graph.inputs_of(node)[0] if clips else node


def _prepared(graph: Graph, nodes: Sequence[fx.Node], session: Session) -> tuple[Split, torch.device]:
    """The fastest preparation that gives the module's own values; in float32 the module itself if none does."""
    image = torch.randn(graph.shapes[graph.input], generator=torch.Generator().manual_seed(0))
    shared = cut(graph, nodes, session.runtime, "shared")
    here = next((p.device for p in graph.module.parameters()), session.device)
    with torch.no_grad():
        expected = [value.float().cpu() for value in shared.head(image.to(here))]
    for preparation in ("folded", "plain"):
        try:
            split = cut(graph, nodes, session.runtime, preparation)
            with torch.no_grad():
                got = split.head(image.to(session.runtime.device, split.head_dtype))
        except Exception as error:
            if rt.is_out_of_memory(error):
                raise
            continue
        tolerance = session.runtime.tolerance
        pairs = zip(got, expected, strict=True)
        if all(float((a.float().cpu() - b).abs().max()) <= tolerance * float(b.abs().max()) for a, b in pairs):
            return split, session.runtime.device
    if session.runtime.precision == "fp32":
        return shared, here
    raise CnnvizError(
        f"In {session.runtime.precision} this network gives other values than in float32.", "Use --precision fp32."
    )


def _by_hooks(session: Session) -> GradientReader:
    def read(pixels: Tensor) -> Reading:
        run = session.forward(pixels)
        leaf, *values = run.activations
        return Reading(leaf, run.chosen.float(), tuple(value.float() for value in values))

    return GradientReader(read, session.layers, session.device)


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Pixels in 0–1 as the network takes them: ``x * factor + offset`` in its channel order, as
    ``models.preprocess.normalize`` does."""

    factor: Tensor
    offset: Tensor
    spec: Preprocess

    def __call__(self, pixels: Tensor) -> Tensor:
        return in_order(pixels * self.factor + self.offset, self.spec)

    def back(self, gradient: Tensor) -> Tensor:
        """A gradient at what the network takes as one at the pixels."""
        return in_order(gradient, self.spec) * self.factor


def normalisation(spec: Preprocess, device: torch.device) -> Normalisation:
    """The network's own normalisation for pixels in 0–1."""

    def constant(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]

    pairs = list(zip(spec.mean, spec.std, strict=True))
    return Normalisation(
        constant([255 * spec.scale / std for _, std in pairs]), constant([-mean / std for mean, std in pairs]), spec
    )
