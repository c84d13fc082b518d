"""Networks that return something else than a tensor [N, K]."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.outputs import select_output
from tests.support import networks as nets


def _same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-4, atol=1e-6)
    assert found.raw.abs().max() > 1e-3


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("kind", nets.OUTPUTS)
def test_class_scores_are_found(kind: str, tracing: str) -> None:
    expected = cnnviz.explain(nets.with_output("tensor"), nets.images(), target=1, layer="conv")
    _, key = nets.OUTPUTS[kind]
    network = nets.with_output(kind)
    _same(cnnviz.explain(network, nets.images(), target=1, layer="conv", logits_key=key, tracing=tracing), expected)
    if tracing == "auto":
        model = nets.as_model(network.requires_grad_(False))
        _same(cnnviz.explain(model, nets.images(), target=1, layer="conv", logits_key=key, tracing=tracing), expected)


def test_one_score_an_image() -> None:
    """[N] is one logit an image."""
    flat, column = nets.with_pack(lambda z, a: z[:, 0], 1), nets.with_pack(lambda z, a: z, 1)
    for index in (0, 1):
        _same(*(cnnviz.explain(n, nets.images(), target=index, layer="conv") for n in (flat, column)))


@pytest.mark.parametrize(
    ("key", "message", "hint"),
    [
        ("logit", "dict has no 'logit'", "logits"),
        ("nothing", "dict has no 'nothing'", "features, logits"),
        ("logits.0.x", "has no", ""),
    ],
)
def test_a_wrong_output_key(key: str, message: str, hint: str) -> None:
    with pytest.raises(CnnvizError, match=message) as raised:
        cnnviz.explain(nets.with_output("dict"), nets.images(), logits_key=key)
    assert hint in raised.value.hint


def test_an_index_that_a_tuple_does_not_have() -> None:
    with pytest.raises(CnnvizError, match="--logits-key 2: tuple has no '2'"):
        cnnviz.explain(nets.with_output("tuple"), nets.images(), logits_key="2")


def test_an_output_that_is_a_map() -> None:
    """Six channels of 6 x 8: scores at positions, of which the largest class is explained where it is found."""
    network, images = nets.with_output("tuple"), nets.images()
    found = cnnviz.explain(network, images, "saliency", logits_key="1", layer=None)
    pixels = images.clone().requires_grad_()
    scores = network(pixels)[1]
    inside = scores.argmax(1)
    largest = [int(torch.bincount(row.flatten()).argmax()) for row in inside]
    total = sum((scores[i, k] * (inside[i] == k)).sum() for i, k in enumerate(largest))
    [expected] = torch.autograd.grad(total, [pixels])  # type: ignore[list-item]
    assert found.target.tolist() == largest
    torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-6)


def test_no_tensor_at_all() -> None:
    with pytest.raises(CnnvizError, match="no tensor of class scores") as raised:
        cnnviz.explain(nets.with_pack(lambda z, a: "nothing"), nets.images())
    assert "--logits-key" in raised.value.hint


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ({"a": torch.zeros(1), "logits": torch.ones(1)}, None, 1.0),
        ({"a": torch.zeros(1), "prediction": torch.ones(1)}, None, 1.0),
        ([None, torch.ones(1)], None, 1.0),
        (([torch.ones(1)], torch.zeros(1)), None, 1.0),
        ({0: torch.zeros(1), "x": {"y": (torch.zeros(1), torch.ones(1))}}, "x.y.1", 1.0),
    ],
)
def test_where_the_scores_are_looked_for(value: Any, key: str | None, expected: float) -> None:
    assert float(select_output(value, key)) == expected


class _TwoHeads(nets.Body):
    """An auxiliary head in training mode only, as GoogLeNet and Inception have."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        low = F.relu(self.stem(x))
        z = self.pooled(F.relu(self.conv(low)))
        return (z, self.aux(low.mean((2, 3)))) if self.training else z


@pytest.mark.parametrize("training", [False, True])
def test_auxiliary_heads_of_a_network_in_training_mode(training: bool) -> None:
    torch.manual_seed(0)
    network = _TwoHeads().train(training)
    found = cnnviz.explain(network, nets.images(), target=1)
    with torch.no_grad():
        expected = network.pooled(F.relu(network.maps(nets.images())))
    torch.testing.assert_close(found.logits, expected)
    assert network.training is training
    assert network.aux.training is training


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_networks_with_auxiliary_heads(name: str) -> None:
    """Asked in training mode, where they return named tuples: explained as in evaluation mode, left as found."""
    network = nets.torchvision_network(name)
    x = nets.images(1, (96, 96))
    with torch.no_grad():
        expected = network(x)
    found = cnnviz.explain(network.train(), x)
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-5)
    assert all(m.training for m in network.modules())


def test_the_key_may_be_a_number() -> None:
    _same(
        cnnviz.explain(nets.with_output("tuple"), nets.images(), target=1, layer="conv", logits_key=0),
        cnnviz.explain(nets.with_output("tuple"), nets.images(), target=1, layer="conv", logits_key="0"),
    )
