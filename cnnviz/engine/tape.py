"""Activations and gradients by hooks, for networks that cannot be traced: the only place that registers hooks.

The hook passes on a clone of what the layer returned. An in-place operation that follows then changes the clone's
successor, never the captured tensor: a captured tensor that a ReLU overwrites has silently wrong gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cnnviz.errors import CnnvizError


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
            handles.append(module.get_submodule(layer).register_forward_hook(_catcher(tape, layer)))
        yield tape
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
                f"Layer {layer!r} returned {type(output).__name__}, not a tensor.", "Name a layer inside it with --layer."
            )
        activation = output if output.requires_grad else output.detach().requires_grad_()
        tape.caught[layer, call] = activation
        return activation.clone()

    return catch


@dataclass(frozen=True)
class Seen:
    """One module call of a probe run."""

    name: str
    call: int
    shape: tuple[int, ...]
    module: nn.Module


@contextlib.contextmanager
def watching(module: nn.Module) -> Iterator[list[Seen]]:
    """Note every module call that returns a tensor, in order of completion, while the body runs the module."""
    seen: list[Seen] = []
    counts: dict[str, int] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(child: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.append(Seen(name, counts.get(name, 0), tuple(output.shape), child))
            counts[name] = counts.get(name, 0) + 1

        return hook

    try:
        for name, child in module.named_modules():
            if name:
                handles.append(child.register_forward_hook(note(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
