"""CAM against raw weights in float64, against Grad-CAM, and its refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.oracles import cam as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness

close = closeness(1e-5, 1e-5)

CLASSES = [1, 3]


def _signed_gradcam(model: Any, batch: Tensor, classes: list[int]) -> Tensor:
    """Grad-CAM before its ReLU: the map for the class minus the map against it."""
    up, down = (cnnviz.explain(model, batch, target=classes, counterfactual=flag).raw for flag in (False, True))
    return up - down


# name, module of the classifier, function of the network that gives the maps that are pooled
GAP: dict[str, tuple[str, Any]] = {
    "resnet18": ("fc", lambda n, x: _until(n, x, "avgpool")),
    "densenet121": ("classifier", lambda n, x: F.relu(n.features(x))),
    "mobilenet_v2": ("classifier.1", lambda n, x: n.features(x)),
    "googlenet": ("fc", lambda n, x: _until(n, x, "avgpool")),
    "efficientnet_b0": ("classifier.1", lambda n, x: n.features(x)),
    "regnet_y_400mf": ("fc", lambda n, x: _until(n, x, "avgpool")),
    "convnext_tiny": ("classifier.2", lambda n, x: n.features(x)),
    "timm/tf_efficientnet_lite0": ("classifier", lambda n, x: n.forward_features(x)),
}


def _until(network: nn.Module, x: Tensor, name: str) -> Tensor:
    """What goes into a submodule."""
    caught: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_pre_hook(lambda m, args: caught.append(args[0].clone()))
    network(x)
    handle.remove()
    return caught[0]


def _build(name: str) -> nn.Module:
    if name.startswith("timm/"):
        return nets.timm_network(name.removeprefix("timm/"))
    return nets.torchvision_network(name)


@pytest.mark.parametrize("name", GAP)
def test_cam_is_gradcam_before_its_relu_times_positions(name: str) -> None:
    network, x = _build(name), nets.images(2, (96, 96))
    classifier, features = GAP[name]
    linear = network.get_submodule(classifier)
    with torch.no_grad():
        a = features(network, x)
    found = cnnviz.explain(network, x, method="cam", target=CLASSES)
    if name == "convnext_tiny":  # a layer normalisation between pooling and classifier
        norm = network.classifier[0]
        expected = oracle.through_layer_norm(linear.weight, a, CLASSES, norm.weight, norm.eps)
        assert found.facts["linear"] is False
    else:
        expected = oracle.cam(linear.weight, a, CLASSES)
        close(torch.from_numpy(oracle.logit_of_average(expected, linear.bias, CLASSES)), _logits(network, x))
        close(found.raw.mean((1, 2)) + linear.bias[CLASSES], found.logits[[0, 1], CLASSES], 1e-5)
        assert found.facts["linear"] is True
    close(found.raw, expected, 2e-5)
    assert found.facts["pooling"] == "average"
    h, w = a.shape[2:]
    close(_signed_gradcam(network, x, CLASSES) * h * w, expected, 5e-5)


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)[[0, 1], CLASSES]


def test_the_bundled_network() -> None:
    """The real weights, through ``load_model``: packed, folded, and still the logit's parts."""
    model = cnnviz.load_model()
    x = nets.images(2, (224, 224)) * 0.5
    found = cnnviz.explain(model, x, method="cam")
    with torch.no_grad():
        a = model.module.forward_features(x)
        logits = model.module(x)
    classes = logits.argmax(1).tolist()
    assert found.target.tolist() == classes
    expected = oracle.cam(model.module.classifier.weight, a, classes)
    close(found.raw, expected, 1e-4)
    close(found.raw.mean((1, 2)) + model.module.classifier.bias[classes], logits[[0, 1], classes], 1e-4)
    close(_signed_gradcam(model, x, classes) * 49, expected, 1e-4)
    assert found.layer == "bn2"


class _Head(nets.Body):
    """A toy whose head is given as a function of (network, maps)."""

    def __init__(self, head: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.head = head
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, F.relu(self.maps(x)))


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


HEADS: dict[str, Any] = {
    "mean": lambda: _Head(lambda n, a: n.fc(a.mean((2, 3)))),
    "mean by keyword": lambda: _Head(lambda n, a: n.fc(a.mean(dim=[-2, -1]))),
    "mean, then flatten": lambda: _Head(lambda n, a: n.fc(torch.flatten(a.mean((2, 3), keepdim=True), 1))),
    "adaptive function": lambda: _Head(lambda n, a: n.fc(F.adaptive_avg_pool2d(a, 1).flatten(1))),
    "average pooling of the whole map": lambda: _Head(lambda n, a: n.fc(F.avg_pool2d(a, (6, 8)).view(a.size(0), -1))),
    "dropout and flatten between": lambda: _Head(
        lambda n, a: n.fc(n.drop2(n.flat(n.drop1(n.pool(a))))),
        pool=_pool(), drop1=nn.Dropout2d(), flat=nn.Flatten(), drop2=nn.Dropout(inplace=True),
    ),
    "dropout before": lambda: _Head(
        lambda n, a: n.fc(n.pool(n.drop(a)).squeeze(3).squeeze(2)), pool=_pool(), drop=nn.Dropout2d()
    ),
    "functional dropout": lambda: _Head(lambda n, a: n.fc(F.dropout(a.mean((2, 3)), 0.5, n.training))),
}  # fmt: skip


def _made(make: Any) -> nn.Module:
    return nets.seeded(make)()


@pytest.mark.parametrize("name", HEADS)
def test_what_may_stand_between(name: str) -> None:
    network, x = _made(HEADS[name]), nets.images(2)
    with torch.no_grad():
        expected = oracle.cam(network.fc.weight, F.relu(network.maps(x)), CLASSES)
    for model in (network, nets.as_model(network.requires_grad_(False))):
        found = cnnviz.explain(model, x, method="cam", target=CLASSES)
        close(found.raw, expected)
        assert found.facts == {"pooling": "average", "linear": True, "identity_error": pytest.approx(0, abs=1e-5)}


def test_a_pointwise_convolution_after_the_pooling() -> None:
    network = _made(
        lambda: _Head(lambda n, a: n.conv1(a.mean((2, 3), keepdim=True)).flatten(1), conv1=nn.Conv2d(6, 4, 1))
    )
    x = nets.images(2)
    with torch.no_grad():
        expected = oracle.cam(network.conv1.weight, F.relu(network.maps(x)), CLASSES)
    found = cnnviz.explain(network, x, method="cam", target=CLASSES)
    close(found.raw, expected)
    close(found.raw.mean((1, 2)) + network.conv1.bias[CLASSES].detach(), found.logits[[0, 1], CLASSES])


@pytest.mark.parametrize("rectified", [False, True])
def test_a_pointwise_convolution_before_the_pooling(rectified: bool) -> None:
    """The map's mean and the bias are the logit; with a ReLU behind it (SqueezeNet) the mean of what it lets by."""
    last = F.relu if rectified else (lambda t: t)
    network = _made(lambda: _Head(lambda n, a: last(n.conv1(a)).mean((2, 3)), conv1=nn.Conv2d(6, 4, 1)))
    x = nets.images(2)
    bias = network.conv1.bias[CLASSES].detach()
    with torch.no_grad():
        expected = oracle.cam(network.conv1.weight, F.relu(network.maps(x)), CLASSES)
    if rectified:
        expected = np.maximum(expected + bias[:, None, None].numpy(), 0)
        assert (expected == 0).any()
    found = cnnviz.explain(network, x, method="cam", target=CLASSES)
    close(found.raw, expected)
    assert found.facts["linear"] is not rectified
    close(found.raw.mean((1, 2)) + (0 if rectified else bias), found.logits[[0, 1], CLASSES])


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_squeezenet(name: str) -> None:
    network, x = nets.torchvision_network(name), nets.images(2, (96, 96))
    with torch.no_grad():
        a = network.features(x)
    found = cnnviz.explain(network, x, method="cam", target=CLASSES)
    bias = network.classifier[1].bias[CLASSES].detach()[:, None, None]
    close(found.raw, np.maximum(oracle.cam(network.classifier[1].weight, a, CLASSES) + bias.numpy(), 0), 2e-5)
    close(found.raw.mean((1, 2)), found.logits[[0, 1], CLASSES])
    assert found.facts["linear"] is False
    assert found.layer == "features"


def test_a_max_pooling_head() -> None:
    """z_c = sum_k w_ck max_ij A_k + b_c: the same weights, and the record says how they are pooled."""
    network, x = nets.TOYS["max head"].build(), nets.images(2)
    with torch.no_grad():
        a = F.relu(network.maps(x))
    found = cnnviz.explain(network, x, method="cam", target=CLASSES)
    close(found.raw, oracle.cam(network.fc.weight, a, CLASSES))
    assert found.facts["pooling"] == "max"
    assert found.facts["identity_error"] < 1e-5
    by_maxima = (network.fc.weight[CLASSES] * a.amax((2, 3))).sum(1) + network.fc.bias[CLASSES]
    close(found.logits[[0, 1], CLASSES], by_maxima.detach())


def test_one_logit_has_two_classes() -> None:
    network, x = nets.with_pack(lambda z, a: z, 1), nets.images(2)
    with torch.no_grad():
        expected = oracle.cam(network.fc.weight, F.relu(network.maps(x)), [0, 0])
    close(cnnviz.explain(network, x, method="cam", target=1).raw, expected)
    close(cnnviz.explain(network, x, method="cam", target=0).raw, -expected)


def test_the_sign_is_kept() -> None:
    found = cnnviz.explain(nets.TOYS["plain"].build(), nets.images(2), method="cam", target=CLASSES)
    assert found.raw.min() < 0 < found.raw.max()


def test_bf16() -> None:
    network, x = nets.TOYS["conv and norm"].build().requires_grad_(False), nets.images(2)
    exact = cnnviz.explain(network, x, method="cam", target=CLASSES).raw
    found = cnnviz.explain(nets.as_model(network), x, method="cam", target=CLASSES, precision="bf16").raw
    assert 0 < float((found - exact).abs().max() / exact.abs().max()) < 0.05


# Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stands"),
    [("vgg11", "Linear"), ("alexnet", "Linear"), ("mobilenet_v3_small", "Hardswish")],
)
def test_networks_with_several_linear_layers_are_refused(name: str, stands: str) -> None:
    with pytest.raises(CnnvizError) as raised:
        cnnviz.explain(nets.torchvision_network(name), nets.images(1, (96, 96)), method="cam")
    assert raised.value.exit_code == 2
    assert "gradcam" in raised.value.hint
    assert stands in raised.value.message


REFUSED: dict[str, Any] = {
    "untraceable": (nets.TOYS["untraceable"].build, "cannot be traced"),
    "two linear layers": (nets.TOYS["deep head"].build, "Linear"),
    "flattened map": (
        lambda: _made(lambda: _Head(lambda n, a: n.all(a.flatten(1)), all=nn.Linear(6 * 6 * 8, 4))), "global pooling",
    ),
    "pooled to 2x2": (
        lambda: _made(lambda: _Head(lambda n, a: n.all(F.adaptive_avg_pool2d(a, 2).flatten(1)), all=nn.Linear(24, 4))),
        "global pooling",
    ),
    "two poolings side by side": (
        lambda: _made(
            lambda: _Head(lambda n, a: n.all(torch.cat([a.mean((2, 3)), a.amax((2, 3))], 1)), all=nn.Linear(12, 4))
        ),
        "cat",
    ),
    "squared after the pooling": (lambda: _made(lambda: _Head(lambda n, a: n.fc(a.mean((2, 3)) ** 2))), "pow"),
    "scaled logits": (lambda: _made(lambda: _Head(lambda n, a: 2 * n.fc(a.mean((2, 3))))), "mul"),
    "normalised features": (lambda: _made(lambda: _Head(lambda n, a: n.fc(F.normalize(a.mean((2, 3)))))), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_heads_are_refused(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(CnnvizError) as raised:
        cnnviz.explain(make(), nets.images(2), method="cam")
    assert raised.value.exit_code == 2
    assert "gradcam" in raised.value.hint
    assert reason in raised.value.message


def test_another_layer_is_refused() -> None:
    network = nets.TOYS["residual"].build()
    for layer in ("stem", "conv2"):
        with pytest.raises(CnnvizError, match="feature map that is pooled") as raised:
            cnnviz.explain(network, nets.images(), method="cam", layer=layer)
        assert "gradcam" in raised.value.hint
    named, default = (cnnviz.explain(network, nets.images(), method="cam", layer=name) for name in ("relu:2", None))
    torch.testing.assert_close(named.raw, default.raw, rtol=0, atol=0)


@pytest.mark.parametrize("asked", [{"score": "probability"}, {"target": lambda z: z[:, 0]}])
def test_cam_explains_the_logit_of_a_class_only(asked: dict[str, Any]) -> None:
    with pytest.raises(CnnvizError, match="logit of a class"):
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), method="cam", **asked)


def test_a_weight_that_is_not_the_one_used_is_noticed() -> None:
    """The reading of the head is checked in numbers: a linear layer whose forward does more is refused."""

    class Cosine(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.normalize(x), F.normalize(self.weight))

    network = _made(lambda: _Head(lambda n, a: n.cosine(a.mean((2, 3))), cosine=Cosine(6, 4)))
    with pytest.raises(CnnvizError, match="identity fails"):
        cnnviz.explain(network, nets.images(), method="cam")
