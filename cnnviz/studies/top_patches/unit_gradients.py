"""What in the image a single unit at a single position responds to: the gradient back from it, by rule."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import relu_rules
from cnnviz.engine.session import ForwardPass

# Autograd's names for max(min(x, c), 0), and for what only picks and arranges values.
_BOUNDED = ("Hardtanh", "Clamp")
_PASSIVE = ("Index", "Select", "View", "UnsafeView", "Reshape", "Unsqueeze", "Clone", "ToCopy", "Alias", "Detach")


def unit_gradients(run: ForwardPass, units: Tensor, positions: Tensor, rule: str) -> Tensor:
    """The gradient of one activation an image with respect to that image, with a rule at every rectifier on the way.

        G_n = d A[n, u_n, p_n] / d x_n

    ``guided``: Springenberg et al., "Striving for Simplicity", 2015; ``deconvnet``: Zeiler & Fergus, 2014, with the
    forward pass's switches at maximum pooling; ``backprop``: Simonyan et al., 2014. It starts at 1; starting at the
    activation, as Zeiler & Fergus do, multiplies an image's gradient by one number.

    The unit's own rectifier counts as open, as it is at any activation above 0: without that, a unit that a ReLU6 holds
    at 6 would have no gradient at all.

    Args:
        run: A pass whose first activation is the image and whose second is the layer [N, U, h, w] (or [N, U]).
        units: [N] int64, one unit an image.
        positions: [N] int64, ``row * w + col``.
        rule: One of :data:`cnnviz.engine.relu_rules.RULES`.

    Returns:
        [N, C, H, W] float32, signed, in units of the activation by unit of the network's input.
    """
    layer = run.activations[1].flatten(2) if run.activations[1].dim() > 2 else run.activations[1][..., None]
    device = layer.device
    scores = layer[torch.arange(len(layer), device=device), units.to(device), positions.to(device)]
    with relu_rules.applied(scores, rule), _open(scores):
        return run.gradients(scores, (0,))[0]


@contextlib.contextmanager
def _open(scores: Tensor) -> Iterator[None]:
    """Let the gradient pass the bounded rectifier that made these scores, if one did."""
    node: Any = scores.grad_fn
    while node is not None and len(node.next_functions) == 1 and not node.name().startswith(_BOUNDED):
        if not node.name().startswith(_PASSIVE):
            break
        node = node.next_functions[0][0]
    if node is None or not node.name().startswith(_BOUNDED):
        yield
        return
    handle = node.register_hook(lambda leaving, arriving: (arriving[0], *leaving[1:]))
    try:
        yield
    finally:
        handle.remove()
