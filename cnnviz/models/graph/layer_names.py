"""The names by which people know the tensors of a network."""

from __future__ import annotations

from torch import fx

from cnnviz.models.graph.trace import Graph


def name_of(graph: Graph, node: fx.Node) -> tuple[str, int]:
    """Module path and call index by which people know the tensor ``node``.

    The outermost module that returned this very tensor (``layer4`` rather than ``layer4.1.relu``); for a functional
    activation the module before it; otherwise the nearest module upstream.
    """
    current = node
    while True:
        owners = [(path, calls.index(current)) for path, calls in graph.calls.items() if current in calls and path]
        if owners:
            return min(owners, key=lambda owner: (owner[0].count("."), len(owner[0])))
        upstream = graph.inputs_of(current)
        if not upstream:
            return str(node.name), 0
        current = upstream[0]
