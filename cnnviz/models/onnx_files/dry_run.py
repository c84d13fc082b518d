"""A converted network, run node by node on inputs of several sizes, to see what depends on the batch and what is fixed.

Exporters write the batch of their example into the graph (``Reshape`` to ``[1, 512]``), and shapes as arithmetic on
tensors. Run with one batch and with twice as many images, each tensor shows its axis of the batch, and a shape that
does not follow it can be corrected; numbers that are the same in all runs are constants.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.models.graph.operations import attribute

Rule = Callable[["Call"], "nn.Module | tuple[nn.Module, fx.Node] | None"]


class FixedBatchError(ValueError):
    """A part of a network runs for one number of images only."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module in all runs.

    Attributes:
        module: What is called.
        inputs: Values of its arguments, by run and place; None for those that are left out.
        computed: Whether each argument depends on the pixels.
        maps: Height and width in each run of the maps that are at hand: the image, and what is used later.
    """

    module: nn.Module
    inputs: tuple[tuple[Any, ...], ...]
    computed: tuple[bool, ...]
    maps: Mapping[fx.Node, tuple[tuple[int, ...], ...]]

    def given(self, place: int) -> list[Any] | None:
        """Numbers of an argument in each run; None where there is none, or it depends on the pixels."""
        if place >= len(self.computed) or self.computed[place] or self.inputs[0][place] is None:
            return None
        return [run[place].tolist() if isinstance(run[place], Tensor) else run[place] for run in self.inputs]

    def fixed(self, place: int) -> Any:
        """Numbers of an argument that are the same in all runs; else None."""
        values = self.given(place)
        return values[0] if values is not None and all(value == values[0] for value in values) else None

    def shapes(self, place: int = 0) -> list[tuple[int, ...]]:
        """The shape of an argument in each run."""
        return [tuple(run[place].shape) for run in self.inputs]


@torch.no_grad()
def rewritten(network: fx.GraphModule, runs: Sequence[Tensor], rules: Mapping[str, Rule]) -> fx.GraphModule:
    """The network with modules in torch's own terms where a rule has one; parts that nobody uses any more are gone.

    Args:
        network: As onnx2torch makes it. It is changed.
        runs: Inputs: one for which the file was made; the same images and as many others; perhaps one of another size.
        rules: By the class of a module what takes its place, and gets those of its arguments that depend on the
            pixels, and perhaps one more node; None to leave the module.

    Raises:
        FixedBatchError: A part of it runs for the batch of the file only.
    """
    nodes = list(network.graph.nodes)
    values: dict[fx.Node, tuple[Any, ...]] = {}
    pixels: set[fx.Node] = set()
    constants: dict[fx.Node, Tensor] = {}
    maps: dict[fx.Node, tuple[tuple[int, ...], ...]] = {}
    uses = {node: len(node.users) for node in nodes}
    for node in nodes[:-1]:  # the last is the output
        if _depends_on_pixels(network, node, pixels):
            pixels.add(node)
        sources = list(node.all_input_nodes)
        if node.op == "call_module" and node in pixels:
            _replace(network, node, replace(_call(network, node, values, pixels), maps=_known(maps, values)), rules)
        values[node] = found = _values(network, node, values, runs)
        if isinstance(found[0], Tensor) and found[0].dim() == 4 and node in pixels:
            maps[node] = tuple(tuple(value.shape[2:]) for value in found)
        if node.op == "call_module" and node not in pixels and _same(found):
            constants[node] = found[0]
        for source in sources:
            uses[source] -= 1
            if not uses[source] and source.op != "placeholder":
                del values[source]
    for number, (node, value) in enumerate(constants.items()):
        name = f"constant_{number}"
        network.get_submodule("initializers").register_buffer(name, value)
        with network.graph.inserting_before(node):
            node.replace_all_uses_with(network.graph.get_attr(f"initializers.{name}"))
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    _without_unused_buffers(network)
    network.recompile()
    return network


def _depends_on_pixels(network: fx.GraphModule, node: fx.Node, pixels: set[fx.Node]) -> bool:
    """Whether a value depends on pixels, and not on the size of the input alone."""
    if node.op == "call_module" and type(network.get_submodule(str(node.target))).__name__ == "OnnxShape":
        return False
    return node.op == "placeholder" or any(source in pixels for source in node.all_input_nodes)


def _call(
    network: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, tuple[Any, ...]], pixels: set[fx.Node]
) -> Call:
    module = network.get_submodule(str(node.target))
    places: list[Any] = list(node.args)
    names = list(inspect.signature(module.forward).parameters)
    for name, value in node.kwargs.items():
        places += [None] * (names.index(name) + 1 - len(places))
        places[names.index(name)] = value
    count = len(values[node.all_input_nodes[0]])
    inputs = tuple(tuple(values[x][at] if isinstance(x, fx.Node) else x for x in places) for at in range(count))
    return Call(module, inputs, tuple(isinstance(each, fx.Node) and each in pixels for each in places), {})


def _replace(network: fx.GraphModule, node: fx.Node, call: Call, rules: Mapping[str, Rule]) -> None:
    rule = rules.get(type(call.module).__name__)
    made = None if rule is None else rule(call)
    if made is None:
        return
    made, more = made if isinstance(made, tuple) else (made, None)
    network.add_module(str(node.target), made.eval())
    if not getattr(made, "takes_constants", False):
        node.args = tuple(each for each, computed in zip(node.args, call.computed, strict=False) if computed)
        node.args += () if more is None else (more,)
        node.kwargs = {}


def _values(
    network: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, tuple[Any, ...]], runs: Sequence[Tensor]
) -> tuple[Any, ...]:
    if node.op == "placeholder":
        return tuple(runs)
    if node.op == "get_attr":
        return (attribute(network, str(node.target)),) * len(runs)
    call = network.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    found = []
    for at in range(len(runs)):
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), {key: value[at] for key, value in values.items()}.__getitem__
        )
        try:
            found.append(call(*args, **kwargs))  # type: ignore[operator]
        except Exception as error:
            if at != 1:
                raise
            raise FixedBatchError(f"{node.target} ({type(call).__name__}): {error}") from error
    return tuple(found)


def _known(maps: Mapping[fx.Node, Any], values: Mapping[fx.Node, Any]) -> Mapping[fx.Node, Any]:
    return {node: sizes for node, sizes in maps.items() if node in values}


def _same(found: Sequence[Any]) -> bool:
    first = found[0]
    return isinstance(first, Tensor) and all(each.shape == first.shape and torch.equal(each, first) for each in found)


def _without_unused_buffers(network: fx.GraphModule) -> None:
    used = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    for name, module in list(network.named_children()):
        if name == "initializers":
            for buffer in [key for key, _ in module.named_buffers() if f"{name}.{key}" not in used]:
                delattr(module, buffer)
