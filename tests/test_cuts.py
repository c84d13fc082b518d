"""Where a network is cut: names stand for the user's own layers, whatever they are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut, cut_for
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.methods.relevance.fullgrad import cut_nodes
from cnnviz.registry import lookup

_PIXELS = torch.randn((2, 3, 8, 10), generator=torch.Generator().manual_seed(3))
# Words that the engine, torch.fx and this package use for things of their own.
_NAMES = ("input", "output", "biases", "image", "class_map", "graph", "code", "crossing_0", "forward_", "0")


class Named(nn.Module):
    """Two convolutions, of which the first has any name one likes; its plain twin calls it ``first``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name = name
        self.add_module(name, nn.Conv2d(3, 6, 3, padding=1))
        self.last = nn.Conv2d(6, 5, 3)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.get_submodule(self.name)(x))
        out: Tensor = self.fc(torch.relu(self.last(y)).mean((2, 3)))
        return out


def _explained(network: nn.Module, method: str, layer: str | None, **options: Any) -> cnnviz.api.Explanation:
    return cnnviz.explain(network.eval(), _PIXELS, method, target=1, layer=layer, **options)


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("name", _NAMES)
def test_a_layer_of_any_name_is_explained_at_that_layer(name: str, tracing: str) -> None:
    network, twin = Named(name), Named("first")
    activation = twin.first(_PIXELS).detach().requires_grad_()
    logits = twin.fc(torch.relu(twin.last(torch.relu(activation))).mean((2, 3)))
    weights = torch.autograd.grad(logits[:, 1].sum(), activation)[0].mean((2, 3), keepdim=True)
    found = _explained(network, "gradcam", name, tracing=tracing)
    assert found.layer == name
    torch.testing.assert_close(found.raw, torch.relu((weights * activation).sum(1)).detach(), atol=1e-6, rtol=1e-4)


# One of each way to look at a layer: gradients, activations alone, many passes from the head, all passes.
_LAYERED = ("gradcam", "layercam", "eigencam", "ablationcam", "scorecam", "excitation_backprop")


@pytest.mark.parametrize("name", ["input", "output", "biases"])
@pytest.mark.parametrize("method", _LAYERED)
def test_every_method_takes_it_for_a_layer(name: str, method: str) -> None:
    found, expected = _explained(Named(name), method, name), _explained(Named("first"), method, "first")
    assert (found.layer, expected.layer) == (name, "first")
    torch.testing.assert_close(found.raw, expected.raw)


@pytest.mark.parametrize("name", ["input", "output", "biases"])
@pytest.mark.parametrize("method", ["saliency", "guided", "fullgrad", "lrp", "occlusion"])
def test_methods_that_start_at_the_image_are_not_misled(name: str, method: str) -> None:
    options: dict[str, Any] = {"window": 4, "stride": 2} if method == "occlusion" else {}
    found, expected = (_explained(Named(each), method, None, **options) for each in (name, "first"))
    torch.testing.assert_close(found.raw, expected.raw)


def test_guided_gradcam_at_a_layer_called_input() -> None:
    found, expected = (_explained(Named(n), "guided", n, with_gradcam=True) for n in ("input", "first"))
    assert found.layer == "input"
    torch.testing.assert_close(found.raw, expected.raw)


def test_the_image_comes_first_and_the_layers_in_their_order() -> None:
    network = Named("input").eval()
    options = SessionOptions(Cut.at_image("last", "input"), private=False)
    with open_session(network, "net", (3, 8, 10), rt.resolve("cpu"), options) as session:
        run = session.forward(_PIXELS)
    assert [tuple(a.shape) for a in run.activations] == [(2, 3, 8, 10), (2, 5, 6, 8), (2, 6, 8, 10)]
    assert torch.equal(run.activations[0], _PIXELS)


def test_what_each_kind_of_method_asks_for() -> None:
    def of(name: str, *asked: str, **params: Any) -> Cut:
        spec = lookup.find_method(name)
        return cut_for(spec, spec.resolve_params(params), asked)

    assert of("gradcam") == Cut.at_layers() == Cut.at_layers("")
    assert of("gradcam", "input") == Cut.at_layers("input")
    assert of("saliency") == Cut.at_image()
    assert of("occlusion") == Cut.before_classifier()
    assert of("fullgrad") == Cut.at_nodes(cut_nodes)
    assert len({Cut.at_image(), Cut.at_image(), Cut.before_classifier(), Cut.at_layers("a")}) == 3
    with pytest.raises(cnnviz.CnnvizError, match="explains one layer; 2 were named"):
        of("gradcam", "a", "b")
