"""Contrastive excitation backpropagation: by hand, of one logit, and at classifiers that are convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from tests.support import kinds_of_networks as kinds
from tests.support.comparisons import closeness

close = closeness(1e-3)
BATCH = kinds.images(2, (7, 8))


def test_contrast_of_two_units_by_hand() -> None:
    """Two features, class 0 likes the first, class 1 the second: the contrast keeps each class's own."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.body = nn.Conv2d(1, 2, 1, bias=False)
            self.head = nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.body.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
                self.head.weight.copy_(torch.tensor([[3.0, -1.0], [-2.0, 1.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.body(x)).mean((2, 3)))

    x = torch.tensor([[[[1.0, 3.0, -2.0, 0.0]]]])  # the first feature is (1, 3, 0, 0), the second (0, 0, 2, 0)
    options = {"method": "excitation_backprop", "target": 0}
    plain = cnnviz.explain(Net(), x, **options).raw[0, 0]
    assert plain.tolist() == pytest.approx([0.25, 0.75, 0, 0])
    contrast = cnnviz.explain(Net(), x, contrastive=True, **options).raw[0, 0]
    assert contrast.tolist() == pytest.approx([0.25, 0.75, 0, 0])
    one = cnnviz.explain(Net(), x, method="excitation_backprop", target=1, contrastive=True).raw[0, 0]
    assert one.tolist() == pytest.approx([0, 0, 1, 0])  # although its logit is negative


def test_one_logit_has_a_dual() -> None:
    class Net(nn.Module):
        def __init__(self, rows: list[list[float]]) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, len(rows), bias=False)
            self.head.weight = nn.Parameter(torch.tensor(rows))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.conv(x)).mean((2, 3)))

    row = [1.0, -2.0, 0.5, 3.0]
    one, two = Net([row]), Net([[-w for w in row], row])
    for method, options in (("excitation_backprop", {"contrastive": True}), ("lrp", {}), ("excitation_backprop", {})):
        found = cnnviz.explain(one, BATCH, method=method, target=[0, 1], **options)
        close(found.raw, cnnviz.explain(two, BATCH, method=method, target=[0, 1], **options).raw, 1e-4)


class _ClassMaps(nn.Module):
    """As SqueezeNet: the classifier is a 1x1 convolution whose class maps are averaged; or the same with Linear."""

    def __init__(self, rectified: bool, linear: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(6, 4, 1)
        self.rectified, self.linear = rectified, linear
        self.head = nn.Linear(6, 4)
        self.head.weight, self.head.bias = nn.Parameter(self.classifier.weight.flatten(1)), self.classifier.bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.linear:
            return self.head(x.mean((2, 3)))
        x = self.classifier(x)
        return F.adaptive_avg_pool2d(F.relu(x) if self.rectified else x, 1).flatten(1)


@pytest.mark.parametrize("rectified", [False, True])
def test_contrast_at_a_classifier_of_one_by_one_convolutions(rectified: bool) -> None:
    network = _ClassMaps(rectified, linear=False).eval()
    with torch.no_grad():
        a = network.features(BATCH).double()
        maps = network.classifier(BATCH.new_tensor(a.numpy())).double()
        w = network.classifier.weight.flatten(1).double()
    for target in (0, 2):
        firing = (maps[:, target] > 0).double()
        # One neuron that reads every position at which the class fires; and its dual.
        shares = []
        for sign in (1, -1):
            part = torch.einsum("nchw,c->nhw", a, (sign * w[target]).clamp_min(0)) * firing
            shares.append(part / part.sum((1, 2), keepdim=True))
        expected = (shares[0] - shares[1]).clamp_min(0)
        found = cnnviz.explain(
            network, BATCH, method="excitation_backprop", contrastive=True, target=target, layer="features.1"
        )
        assert float(expected.amax()) > 1e-3
        close(found.raw, expected)
        assert "pooling and a linear layer" in found.facts["head"]


def test_contrast_at_class_maps_is_that_of_pooling_and_linear_where_the_class_fires_everywhere() -> None:
    networks = [_ClassMaps(rectified=True, linear=linear).eval() for linear in (False, True)]
    for network in networks:
        network.classifier.bias.data += 10.0
    one, two = (
        cnnviz.explain(n, BATCH, method="excitation_backprop", contrastive=True, target=1, layer="features.1").raw
        for n in networks
    )
    close(one, two)
