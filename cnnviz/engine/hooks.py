"""Activations and gradients by hooks, for networks that cannot be traced: the only place that registers hooks.

The hook passes on a clone of what the layer returned. An in-place operation that follows then changes the clone's
successor, never the captured tensor: a captured tensor that a ReLU overwrites has silently wrong gradients.

A hook on a module is called by every thread that runs it; what another thread computes of its own images is neither
recorded nor changed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.attention import AttentionWatch
from cnnviz.models.graph.layer_names import unknown_layer
from cnnviz.models.graph.layers import (
    LayerRef,
    no_map,
    not_spatial,
    refuse_attention,
    stage_at,
    unknown_call,
)
from cnnviz.models.graph.operations import operation_of_module
from cnnviz.models.graph.responses import Responses
from cnnviz.models.graph.units import check_units


@dataclass
class Tape:
    """What the hooks caught in one forward pass: for each asked (layer, call) the activation tensor."""

    wanted: Sequence[tuple[str, int]]
    caught: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def activations(self) -> tuple[Tensor, ...]:
        """The activations in the order in which they were asked for.

        Raises:
            CnnvizError: A layer did not run.
        """
        for layer, call in self.wanted:
            if (layer, call) not in self.caught:
                raise CnnvizError(f"Layer {layer!r} (call {call}) did not run.", "Name a layer that the network uses.")
        return tuple(self.caught[key] for key in self.wanted)


@contextlib.contextmanager
def recording(module: nn.Module, wanted: Sequence[tuple[str, int]]) -> Iterator[Tape]:
    """Record layers while the body runs the module; the hooks are gone afterwards, also after an exception.

    The first recorded layer cuts the graph: its activation is a leaf that requires a gradient, so the layers below
    build no graph. Layers above it are recorded as they come.
    """
    tape = Tape(wanted)
    handles = []
    try:
        for layer in {name for name, _ in wanted}:
            handles.append(_after(module.get_submodule(layer), _catcher(tape, layer)))
        yield tape
    finally:
        for handle in handles:
            handle.remove()


def _after(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> RemovableHandle:
    """Call ``hook`` after each call of the module in this thread."""
    thread = threading.get_ident()

    def called(child: nn.Module, args: Any, output: Any) -> Any:
        return hook(child, args, output) if threading.get_ident() == thread else None

    return module.register_forward_hook(called)


@contextlib.contextmanager
def passing(tensors: Sequence[Tensor], look: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While the body runs a backward pass, show ``look`` the gradient at each tensor (by its place) as it passes by.

    None of them is kept: a pass that wants the gradients of all layers needs the memory of one.
    """

    def shown(place: int) -> Callable[[Tensor], None]:
        return lambda gradient: look(place, gradient)

    handles = []
    try:
        handles += [tensor.register_hook(shown(place)) for place, tensor in enumerate(tensors)]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _catcher(tape: Tape, layer: str) -> Any:
    def catch(module: nn.Module, args: Any, output: Any) -> Any:
        call = tape.calls.get(layer, 0)
        tape.calls[layer] = call + 1
        if (layer, call) not in tape.wanted:
            return None
        if not isinstance(output, Tensor):
            raise CnnvizError(
                f"Layer {layer!r} returned {type(output).__name__}, not a tensor.",
                "Name a layer inside it with --layer.",
            )
        activation = output if output.requires_grad else output.detach().requires_grad_()
        tape.caught[layer, call] = activation
        return activation.clone()

    return catch


@contextlib.contextmanager
def substituting(module: nn.Module, layer: tuple[str, int], activations: Tensor) -> Iterator[None]:
    """One call of a layer returns ``activations`` while the body runs the module."""
    name, wanted = layer
    calls = 0

    def substitute(child: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        return activations.clone() if calls == wanted + 1 else None

    handle = _after(module.get_submodule(name), substitute)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class RecordedLayer:
    """One module call of a probe run.

    Attributes:
        name, call: Path of the module, and which of its calls.
        shape: What it returned.
        module: The module.
        objection: Why that is not a map of the image; empty where it is one, or nobody asked.
    """

    name: str
    call: int
    shape: tuple[int, ...]
    module: nn.Module
    objection: str = ""


@dataclass(frozen=True)
class Watched:
    """A probe run of a network without a trace.

    Attributes:
        calls: Its module calls, in order of completion.
        attention: Whether self-attention ran.
        reused: Names of the modules that ran several times.
    """

    calls: Sequence[RecordedLayer]
    attention: bool
    reused: frozenset[str] = frozenset()


def watched(module: nn.Module, image: Tensor) -> Watched:
    """Run a network on a probe [1, C, H, W]; it is found out which tensors are maps of the image, too."""
    attention = AttentionWatch()
    with torch.no_grad(), attention, watching(module) as seen:
        module(image)

    def run(changed: Tensor, put: Callable[[Any, Tensor], None]) -> None:
        with watching(module, put):
            module(changed)

    responses = Responses(image, run)
    spatial = [(s, responses.objection((s.name, s.call)) if len(s.shape) == 4 else "") for s in seen]
    reused = frozenset(call.name for call in seen if call.call > 0)
    return Watched([replace(s, objection=objection) for s, objection in spatial], attention.seen, reused)


@contextlib.contextmanager
def watching(module: nn.Module, put: Callable[[Any, Tensor], None] | None = None) -> Iterator[list[RecordedLayer]]:
    """Note every module call that returns a tensor, in order of completion, while the body runs the module.

    Args:
        module: The network.
        put: Given (name, call) and the value of every tensor with four axes.
    """
    seen: list[RecordedLayer] = []
    counts: dict[str, int] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(child: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.append(RecordedLayer(name, counts.get(name, 0), tuple(output.shape), child))
                if put is not None and output.dim() == 4:
                    put((name, counts.get(name, 0)), output.clone())  # what follows may work in place
            counts[name] = counts.get(name, 0) + 1

        return hook

    try:
        for name, child in module.named_modules():
            if name:
                handles.append(_after(child, note(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def seen_layer(watched: Watched, layer: str | None, name: str, image: Tensor) -> LayerRef:
    """The layer that a name means among the calls of a probe run; None for the last feature map.

    Raises:
        CnnvizError: No such layer, or none whose output is a map.
    """
    seen = watched.calls
    spatial = [s for s in seen if len(s.shape) == 4 and s.shape[2:] != (1, 1) and not s.objection]
    if layer is None:
        chosen = _feature_maps(spatial, name, watched.attention)[-1]
    elif layer.strip().lstrip("-").isdigit() and layer not in {s.name for s in seen}:
        chosen = stage_at(_feature_maps(spatial, name, watched.attention), int(layer), name)
    else:
        path, _, call = layer.partition(":")
        calls = [s for s in seen if s.name == path]
        if not calls:
            raise unknown_layer(layer, [s.name for s in spatial])
        if call and not (call.isdigit() and int(call) < len(calls)):
            raise unknown_call(path, call, len(calls))
        chosen = calls[int(call)] if call else calls[-1]
        if len(chosen.shape) != 4:
            raise not_spatial(layer, chosen.shape, spatial[-1].name if spatial else None)
        if watched.attention and not operation_of_module(chosen.module).is_convolution:
            raise refuse_attention(name)
        if chosen.objection:
            before = [s.name for s in list(seen)[: list(seen).index(chosen)] if s in spatial]
            raise no_map(layer, chosen.shape, chosen.objection, before[-1] if before else None)
    height, width = chosen.shape[2:]
    return LayerRef(
        name=f"{chosen.name}:{chosen.call}" if chosen.name in watched.reused else chosen.name,
        channels=chosen.shape[1],
        size=(height, width),
        stride=(image.shape[2] / height, image.shape[3] / width),
        pre_activation=_followed_by_activation(seen, chosen),
        call=chosen.call,
    )


def below_units(watched: Watched, units: tuple[str, int]) -> Watched:
    """What a unit is computed from by a convolution at least: the calls among which its default layer is looked for."""
    calls = list(watched.calls)
    end = next(place for place, call in enumerate(calls) if (call.name, call.call) == units)
    if len(calls[end].shape) == 4:
        last = [place for place in range(end + 1) if isinstance(calls[place].module, nn.modules.conv._ConvNd)]
        end = last[-1] if last else 0
    return replace(watched, calls=calls[:end])


def unit_layer(watched: Watched, layer: str, at: str | tuple[int, int], name: str, image: Tensor) -> tuple[str, int]:
    """Path and call of a layer whose units are read.

    Raises:
        CnnvizError: No such layer, or its output has no units.
    """
    path, _, call = layer.strip().partition(":")
    calls = [s for s in watched.calls if s.name == path]
    if not calls and path.lstrip("-").isdigit():
        stage = seen_layer(watched, layer, name, image)
        path, call = stage.name.partition(":")[0], str(stage.call)
        calls = [s for s in watched.calls if s.name == path]
    if not calls:
        raise unknown_layer(layer, [s.name for s in watched.calls if len(s.shape) in (2, 4)])
    if call and not (call.isdigit() and int(call) < len(calls)):
        raise unknown_call(path, call, len(calls))
    chosen = calls[int(call)] if call else calls[-1]
    check_units(layer, chosen.shape, at)
    if chosen.objection:
        raise no_map(layer, chosen.shape, chosen.objection, None)
    return chosen.name, chosen.call


def at_position(value: Tensor, at: str | tuple[int, int]) -> Tensor:
    """One value [N, C] of each unit of a map [N, C, h, w]; a vector [N, C] as it is."""
    if value.dim() == 2:
        return value
    if at == "sum":
        return value.sum((2, 3))
    return value.amax((2, 3)) if at == "strongest" else value[:, :, int(at[0]), int(at[1])]


def _feature_maps(spatial: Sequence[RecordedLayer], name: str, attention: bool) -> list[RecordedLayer]:
    """The last feature map of each resolution, input first."""
    operations = {s: operation_of_module(s.module) for s in spatial}
    useful = [s for s in spatial if "pool" not in type(s.module).__name__.lower() and operations[s].kind != "identity"]
    convolved = any(operation.is_convolution for operation in operations.values())
    if attention:
        raise refuse_attention(name)
    if not useful or not convolved:
        raise CnnvizError(
            f"{name}: no convolutional feature map [N, C, h, w] feeds the head.",
            "Class activation maps need a convolutional network; name a convolution with --layer.",
        )
    last = {s.shape[2:]: s for s in useful}
    return sorted(last.values(), key=useful.index)


def _followed_by_activation(seen: Sequence[RecordedLayer], chosen: RecordedLayer) -> bool:
    after = seen[list(seen).index(chosen) + 1 :]
    following = next((s for s in after if not chosen.name.startswith(s.name + ".")), None)
    return following is not None and operation_of_module(following.module).is_activation
