"""Several layers explained from one forward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from tests.support import networks as nets


def close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    assert largest > 1e-4
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("asked", [("stem", "conv2"), ("conv2", "stem"), ("conv2", "relu:2", "conv")])
def test_several_layers_in_one_pass(asked: tuple[str, ...], tracing: str) -> None:
    """Activations and gradients of each layer, in the order asked for, against one layer at a time by autograd."""
    network = nets.TOYS["residual"].build()
    x, runtime = nets.images(), rt.resolve("cpu")
    options = opening.SessionOptions(Cut.at_layers(*asked), private=False, tracing=tracing)
    with opening.open_session(network, "net", (3, 12, 16), runtime, options) as opened:
        run = opened.forward(x)
        gradients = run.gradients(run.logits[:, 1] * 2)
    assert [layer.name for layer in opened.layers] == list(asked)
    leaves = _residual_by_hand(network, x)
    close(run.logits.detach(), leaves.pop("logits"))
    for layer, activation, gradient in zip(asked, run.activations, gradients, strict=True):
        value, expected = leaves[layer]
        close(activation.detach(), value)
        close(gradient, 2 * expected)


def _residual_by_hand(network: nn.Module, x: Tensor) -> dict[str, Any]:
    """Every tensor of the residual toy in float64 and the gradient of class 1 at it, by autograd."""
    n = copy.deepcopy(network).double()
    found: dict[str, Tensor] = {"stem": n.stem(x.double())}
    low = F.relu(found["stem"])
    found["conv"] = n.conv(low)
    found["conv2"] = n.conv2(F.relu(n.norm(found["conv"])))
    found["relu:2"] = F.relu(n.norm2(found["conv2"]) + low)
    logits = n.pooled(found["relu:2"])
    gradients = torch.autograd.grad(logits[:, 1].sum(), list(found.values()))
    pairs = {k: (v.detach(), g) for (k, v), g in zip(found.items(), gradients, strict=True)}
    return {**pairs, "logits": logits.detach()}


def test_gradients_of_some_layers_only() -> None:
    network = nets.TOYS["residual"].build()
    options = opening.SessionOptions(Cut.at_layers("stem", "conv2"), private=False)
    runtime = rt.resolve("cpu")
    with opening.open_session(network, "net", (3, 12, 16), runtime, options) as opened:
        run = opened.forward(nets.images())
        both = run.gradients(run.logits[:, 0])
        (second,) = run.gradients(run.logits[:, 0], places=[1])
    torch.testing.assert_close(second, both[1], rtol=0, atol=0)
