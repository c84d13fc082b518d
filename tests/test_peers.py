"""The same maps as captum, pytorch-grad-cam and torchcam, up to the scaling that each documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from tests.support import networks as nets
from tests.support.comparisons import closeness

close = closeness(1e-4)

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),
]
CLASSES = [3, 7]
LAYERS = {"resnet18": "layer4", "vgg11": "features.19"}


def _network(name: str) -> nn.Module:
    """Captum and torchcam want parameters that take gradients."""
    network = nets.torchvision_network(name).requires_grad_(True)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # their hooks see what an in-place ReLU overwrites
    return network


def _images() -> Tensor:
    return nets.images(2, (96, 96))


def _maximum_one(maps: Any) -> Any:
    values = np.asarray(maps, dtype=np.float64)
    values = values - values.min((1, 2), keepdims=True)
    return values / values.max((1, 2), keepdims=True)


@pytest.mark.parametrize("name", LAYERS)
def test_captum(name: str) -> None:
    """LayerGradCam is unscaled; signed by default, as ours before its ReLU."""
    captum = pytest.importorskip("captum.attr")
    network = _network(name)
    grad_cam = captum.LayerGradCam(network, network.get_submodule(LAYERS[name]))
    rectified, signed = (
        grad_cam.attribute(_images(), target=CLASSES, relu_attributions=flag)[:, 0].detach() for flag in (True, False)
    )
    ours = cnnviz.explain(network, _images(), target=CLASSES, layer=LAYERS[name])
    against = cnnviz.explain(network, _images(), target=CLASSES, layer=LAYERS[name], counterfactual=True)
    close(ours.raw, rectified)
    close(ours.raw - against.raw, signed)
    default = cnnviz.explain(network, _images(), target=CLASSES)
    assert torch.equal(default.raw, ours.raw)


@pytest.mark.parametrize("name", LAYERS)
def test_pytorch_grad_cam(name: str) -> None:
    """Before its ReLU and its min–max scaling: ``get_cam_image``."""
    peer = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    network = _network(name)
    layer = network.get_submodule(LAYERS[name])
    caught: list[Any] = []

    class Unscaled(peer.GradCAM):  # type: ignore[misc, name-defined]
        def get_cam_image(self, *args: Any, **kwargs: Any) -> Any:
            caught.append(super().get_cam_image(*args, **kwargs))
            return caught[-1]

    with Unscaled(model=network, target_layers=[layer]) as grad_cam:
        grad_cam(input_tensor=_images(), targets=[targets.ClassifierOutputTarget(c) for c in CLASSES])
    ours = cnnviz.explain(network, _images(), target=CLASSES, layer=LAYERS[name])
    against = cnnviz.explain(network, _images(), target=CLASSES, layer=LAYERS[name], counterfactual=True)
    close(ours.raw - against.raw, caught[0])


@pytest.mark.parametrize("name", LAYERS)
def test_torchcam(name: str) -> None:
    """Rectified; with ``normalized=False`` unscaled, otherwise its minimum is taken off and it is divided."""
    peer = pytest.importorskip("torchcam.methods")
    network = _network(name)
    ours = cnnviz.explain(network, _images(), target=CLASSES, layer=LAYERS[name])
    found: dict[bool, Tensor] = {}
    for normalised in (False, True):
        with peer.GradCAM(network, target_layer=LAYERS[name]) as grad_cam:
            scores = network(_images())
            (found[normalised],) = grad_cam(CLASSES, scores, normalized=normalised)
    theirs = found[False].detach()
    # Its weights are means over positions, as ours.
    close(ours.raw, theirs)
    close(_maximum_one(ours.raw), found[True].detach(), 1e-3)


def test_densenet_is_where_they_part() -> None:
    """``features`` ends before the ReLU. Captum explains that tensor, as we do when it is named; by default we
    explain the one that feeds the head, which is captum's only by luck: where no value is negative."""
    captum = pytest.importorskip("captum.attr")
    zoo = pytest.importorskip("torchvision.models")
    small = zoo.DenseNet(growth_rate=8, block_config=(2, 2, 3, 2), num_init_features=16, num_classes=12)
    network = nets.fill(small).requires_grad_(True)

    # The same network whose last ReLU is not in place: otherwise captum's activations are overwritten.
    def forward(x: Tensor) -> Tensor:
        return network.classifier(F.relu(network.features(x)).mean((2, 3)))

    network.forward = forward
    theirs = captum.LayerGradCam(network, network.features).attribute(_images(), target=CLASSES, relu_attributions=True)
    del network.forward
    named = cnnviz.explain(network, _images(), target=CLASSES, layer="features")
    default = cnnviz.explain(network, _images(), target=CLASSES)
    close(named.raw, theirs[:, 0].detach())
    assert float((default.raw - named.raw).abs().max()) > 0.05 * float(named.raw.abs().max())
