"""Chains of reshapes, transposes and indices that only choose or reorder channels, as one step that says so.

An exporter writes a channel shuffle as three nodes over five axes, in which nobody sees where rows and columns are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.models.onnx_files import parts

_MOVING = (parts.Reshape, parts.Index, parts.Permute, parts.Select)


class _Shapes(fx.Interpreter):
    """Shapes of all that modules return."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


@torch.no_grad()
def joined_moves(network: fx.GraphModule, images: Tensor) -> fx.GraphModule:
    """Each chain that takes channels of a map [N, C, H, W], and leaves its rows and columns, as one module.

    Args:
        network: As :func:`~cnnviz.models.onnx_files.dry_run.rewritten` gives it. It is changed.
        images: An input of more than one image.
    """
    shapes = _Shapes(network)
    shapes.run(images)
    for node in list(network.graph.nodes):
        chain = _chain(network, node, shapes.shapes)
        if not chain:
            continue
        source = chain[0].all_input_nodes[0]
        made = _as_channels([network.get_submodule(str(each.target)) for each in chain], shapes.shapes[source])
        if isinstance(made, nn.Identity):
            node.replace_all_uses_with(source)
        elif made is not None:
            network.add_module(str(node.target), made)
            node.args, node.kwargs = (source,), {}
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _chain(network: fx.GraphModule, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> list[fx.Node]:
    """The moves from the nearest map of the same rows and columns to this one; empty if there are not several."""
    found: list[fx.Node] = []
    end = shapes.get(node, ())
    while len(end) == 4 and _moves(network, node):
        found.insert(0, node)
        node = node.all_input_nodes[0]
        start = shapes.get(node, ())
        if len(found) > 1 and len(start) == 4 and (start[0], *start[2:]) == (end[0], *end[2:]):
            return found
    return []


def _moves(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return False
    module = network.get_submodule(str(node.target))
    return isinstance(module, _MOVING) or type(module).__name__ == "OnnxTranspose"


def _as_channels(moves: list[nn.Module], shape: tuple[int, ...]) -> nn.Module | None:
    """What the moves do, read off where they put numbered places; None where it is no choice of channels."""
    numbers = torch.arange(shape[0] * shape[1] * shape[2] * shape[3]).reshape(shape)
    moved: Any = numbers
    for move in moves:
        moved = move(moved)
    channels = moved[0, :, 0, 0] // (shape[2] * shape[3])
    if not torch.equal(moved, numbers[:, channels]):
        return None
    order = channels.tolist()
    step = order[1] - order[0] if len(order) > 1 else 1
    if order == list(range(shape[1])):
        return nn.Identity()
    if step > 0 and order == list(range(order[0], order[-1] + 1, step)):
        return parts.Index((slice(None), slice(order[0], order[-1] + 1, step)))
    whole = torch.arange(shape[1])[None, :, None, None]
    for groups in range(2, shape[1]):
        if shape[1] % groups == 0 and torch.equal(torch.channel_shuffle(whole, groups)[0, :, 0, 0], channels):
            return nn.ChannelShuffle(groups)
    return None
