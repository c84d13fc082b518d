"""The names by which people know the tensors of a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from cnnviz.errors import CnnvizError, nearest
from cnnviz.models.graph.trace import Graph

SHOWN_LAYERS = 6
"""As many layers a message lists."""


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


def unknown_layer(layer: str, known: Sequence[str], what: str = "spatial layers") -> CnnvizError:
    """What to say of a name that no layer has, or of several in one text.

    Args:
        layer: As it was named.
        known: Layers that may be meant.
        what: What these are.
    """
    parts = [part.strip() for part in layer.split(",")]
    if len(parts) > 1 and all(parts):
        each = " ".join(f"--layer {part}" for part in parts)
        wrong = [part for part in parts if part.partition(":")[0] not in known and not part.lstrip("-").isdigit()]
        near = nearest(wrong[0], known) if wrong else ""
        hint = f"Where several are taken each has its own: {each}" + (f" ({near})" if near else "")
        return CnnvizError(f"The network has no layer {layer!r}, which looks like {len(parts)} layers.", hint)
    shown = ", ".join(known[-SHOWN_LAYERS:])
    hint = nearest(layer, known) or f"The last {what} are {shown}."
    return CnnvizError(f"The network has no layer {layer!r}.", hint)
