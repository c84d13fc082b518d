"""Whether a network that was prepared at one input size is the same at another: measured there, not assumed.

A trace holds what Python decided on the way by the size of the probe, and the layer that is explained was found at that
size. Both are looked up again before a session runs on images of another size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import SessionOptions, hooked_layers, probe_image, runnable
from cnnviz.engine.session import Session
from cnnviz.models.graph.outputs import OutputChoice, as_rows, select_output
from cnnviz.models.graph.trace import Graph, Prober

Shape = tuple[int, ...]
# Shapes of which a session remembers that it holds there; one that was forgotten is looked at again.
_REMEMBERED = 1024


def holds_at(session: Session, module: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a session gives at an input size (H, W) the class scores of the network itself, on a random image.

    Args:
        session: The prepared network, which reads class scores.
        module: The network.
        size: Height and width.
    """
    image = probe_image((session.input_shape[0], *size)).to(_place(module))
    with rt.scope():
        try:
            with torch.no_grad():
                value = module(image)
            return _gives(session, value, session.output.key, image)
        except Exception as error:
            if rt.is_out_of_memory(error):
                raise
            return False


def output_at(session: Session, module: nn.Module, shape: Shape, options: SessionOptions) -> OutputChoice | None:
    """What is explained at another input shape, where a session that is prepared there would do what this one does.

    It must explain the same output, give the scores of the network itself, and be cut at the same tensors. Those are
    found by thresholds of sizes (one cell is no map), so that between two shapes with the same ones they are not looked
    for again.

    Args:
        session: The network, prepared at another shape.
        module: The network itself.
        shape: (C, H, W) of an input.
        options: What it was prepared with.

    Returns:
        The output there; None where the network must be prepared for this shape, or does not take it.
    """
    graph = session.graph
    # Compiled trunks, candidates for boxes and grids of tokens are made for one size.
    if options.compile or session.boxes is not None or (graph is not None and graph.attention):
        return None
    with rt.scope():
        image = probe_image(shape).to(_place(module))
        try:
            found = _output(session, module, image, options)
            if found is None or _between(outputs_of(session), shape) or _cut_alike(session, module, image, options):
                return found
        except Exception as error:
            if rt.is_out_of_memory(error):
                raise
    return None


def outputs_of(session: Session) -> dict[Shape, OutputChoice]:
    """The input shapes at which a session is known to hold, with what is explained there."""
    return session.remember("outputs", lambda: {session.input_shape: session.output})


def keep_output(session: Session, shape: Shape, output: OutputChoice) -> None:
    """Remember that a session holds at an input shape."""
    known = outputs_of(session)
    for oldest in list(known)[1 : len(known) - _REMEMBERED + 2]:
        del known[oldest]
    known[shape] = output


def _place(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _output(session: Session, module: nn.Module, image: Tensor, options: SessionOptions) -> OutputChoice | None:
    """What is explained of an image; None where it is another output, or the session gives other values."""
    _, choice, value = runnable(module, session.name, image, options)
    why = session.readout.why
    if (why is None and choice.key != session.output.key) or not _gives(session, value, choice.key, image):
        return None
    return choice if why is None else OutputChoice(None, tuple(session.chosen(image.to(session.device)).shape), why)


def _gives(session: Session, value: Any, key: str | None, image: Tensor) -> bool:
    """Whether a session gives at ``key`` what the network itself returned for an image."""
    graph, there = session.graph, image.to(session.device)
    chosen, beside = session.chosen(there), session.readout.why is not None
    if graph is None and beside:
        return True  # hooks on the network itself
    if graph is None or (graph.final_activation is None and not beside):
        return _agree(chosen, as_rows(select_output(value, key)), session)
    # Units, and logits before a softmax, are nothing that the network returns; its trace has both.
    reader = _Reader(graph)
    with torch.no_grad():
        returned = select_output(reader.run(image), key)
    same = _agree(returned, select_output(value, key), session)
    return same and reader.explained is not None and _agree(chosen, as_rows(reader.explained), session)


class _Reader(fx.Interpreter):
    """Runs a trace and keeps what is explained of it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.module, garbage_collect_values=True)
        self._wanted, self.explained = graph.logits, cast("Tensor | None", None)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n is self._wanted:
            self.explained = value
        return value


def _cut_alike(session: Session, module: nn.Module, image: Tensor, options: SessionOptions) -> bool:
    """Whether the network would be cut at the same tensors if it were prepared for this image."""
    if not options.cut.layers and options.cut.find is None:
        return True
    if session.graph is None:
        layers, _ = hooked_layers(module, session.name, image, options)
        return [(each.name, each.call) for each in layers] == [(each.name, each.call) for each in session.layers]
    _, nodes = options.cut.of(_on_image(session.graph, image), session.name)
    return nodes == list(session.nodes)


def _on_image(graph: Graph, image: Tensor) -> Graph:
    """The trace as it would be if it had been made with this image."""
    with torch.no_grad():
        (prober := Prober(graph.module)).run(image)
    fresh: dict[str, Any] = {"axes": None, "places": None, "remembered": {}}
    return replace(graph, shapes=prober.shapes, bundles=prober.bundles, probe=image, **fresh)


def _agree(got: Tensor, expected: Tensor, session: Session) -> bool:
    got, expected = got.detach().float().cpu(), expected.detach().float().cpu()
    return got.shape == expected.shape and bool(
        (got - expected).abs().max() <= session.runtime.tolerance * expected.abs().max().clamp_min(1e-6)
    )


def _between(known: Iterable[Shape], shape: Shape) -> bool:
    """Whether a shape has another that is known within it, and lies within a third."""
    alike = [each for each in known if each[0] == shape[0]]
    smaller = any(each[1] <= shape[1] and each[2] <= shape[2] for each in alike)
    return smaller and any(each[1] >= shape[1] and each[2] >= shape[2] for each in alike)
