"""A part of a traced network as a module of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg


def sub_graph(
    root: nn.Module, whole: fx.Graph, inputs: Sequence[fx.Node], nodes: Iterable[fx.Node], results: Sequence[Any]
) -> fx.GraphModule:
    """The part of a graph that computes ``results`` from ``inputs`` (or from the image when there are none).

    It shares the modules of ``root``.
    """
    chosen, fresh = set(nodes), fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for index, node in enumerate(inputs):
        env[node] = fresh.placeholder(f"crossing_{index}")
        env[node].meta = dict(node.meta)
    for node in whole.nodes:
        if node in env or node.op == "output":
            continue
        if node in chosen or (node.op == "placeholder" and not inputs):
            env[node] = fresh.node_copy(node, lambda n: env[n])
            env[node].meta = dict(node.meta)
    fresh.output(map_arg(tuple(results), lambda n: env[n]))
    module = fx.GraphModule(root, fresh)
    module.graph.lint()
    return module


def nodes_of(structure: Any) -> list[fx.Node]:
    """The nodes of a structure, each once."""
    found: dict[fx.Node, None] = {}
    map_arg(structure, lambda node: found.setdefault(node))
    return list(found)
