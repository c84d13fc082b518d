"""Grad-CAM's relatives against float64 oracles, and the places where peers and papers part."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.methods.nearby_images import noisy_copies
from tests.oracles import gradcam as plain
from tests.oracles import gradcam_relatives as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness
from tests.support.toy_maps import CLASSES, explained

close = closeness(2e-5, 1e-6)


@cache
def _layers(name: str) -> list[tuple[oracle.Array, oracle.Array, Any]]:
    """Activations, gradients and head of each image."""
    toy = nets.TOYS[name]
    rows = oracle.layers(toy.build(), toy.split, nets.images())
    return [(a, oracle.slope(head, a, c), head) for (a, head), c in zip(rows, CLASSES, strict=True)]


FORMULAS = {
    "gradcam++": oracle.plus_plus,
    "xgradcam": oracle.axiomatic,
    "hirescam": lambda a, g: oracle.elementwise(a, g, positive=False),
    "layercam": lambda a, g: oracle.elementwise(a, g, positive=True),
    "eigencam": lambda a, g: oracle.principal(a),
    "eigengradcam": lambda a, g: oracle.principal_for_class(a * g),
}


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize("name", nets.TOYS)
def test_equals_its_formula(name: str, method: str) -> None:
    expected = [FORMULAS[method](a, g) for a, g, _ in _layers(name)]
    found = explained(name, method)
    if np.abs(expected).max() <= 1e-6:
        assert float(found.raw.abs().max()) <= 1e-6
        return
    # Where an activation is signed, Grad-CAM++ divides by 2 + g sum A, which may be small.
    close(found.raw, expected, 1e-3 if method == "gradcam++" else 5e-5)


@pytest.mark.parametrize("name", ["plain", "residual", "deep head", "silu", "max head"])
def test_smooth_gradcam_plus_plus(name: str) -> None:
    toy = nets.TOYS[name]
    network = toy.build()
    noisy = list(noisy_copies(nets.images(), 0.1, 3, 5))
    spread = [float((n - nets.images()).std()) for n in noisy]
    assert min(spread) > 0.05  # there is noise
    gradients = [
        [oracle.slope(head, a, c) for (a, head), c in zip(oracle.layers(network, toy.split, n), CLASSES, strict=True)]
        for n in noisy
    ]
    expected = [oracle.smooth_plus_plus(a, [g[i] for g in gradients]) for i, (a, _, _) in enumerate(_layers(name))]
    close(explained(name, "smoothgradcam++", samples=3, noise=0.1, seed=5).raw, expected, 1e-4)


@pytest.mark.parametrize("name", ["plain", "residual", "deep head", "silu"])
def test_smooth_gradcam_plus_plus_without_noise_is_gradcam_plus_plus(name: str) -> None:
    close(explained(name, "smoothgradcam++", samples=2, noise=0).raw, explained(name, "gradcam++").raw)


# Grad-CAM++ --------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A network with its logits times a factor."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e3])
def test_gradcam_plus_plus_has_no_epsilon_that_small_logits_drown_in(factor: float) -> None:
    """An epsilon of 1e-6 beside g^2 changes the map where logits are small; here the formula holds at any scale."""
    network = nets.TOYS["plain"].build()
    scaled = Scaled(network, factor)
    found = cnnviz.explain(scaled, nets.images(), method="gradcam++", target=CLASSES, layer="inner.act")
    expected = [oracle.plus_plus(a, g * factor) for a, g, _ in _layers("plain")]
    close(found.raw / factor, np.array(expected) / factor)
    with_epsilon = []
    for a, g, _ in _layers("plain"):
        h = g * factor
        alpha = np.where(h != 0, h**2 / (2 * h**2 + a.sum((1, 2), keepdims=True) * h**3 + 1e-6), 0)
        with_epsilon.append(oracle.combined(a, (alpha * np.maximum(h, 0)).sum((1, 2))) / factor)
    if factor < 1:  # what the test is about does make a difference
        assert np.abs(np.array(with_epsilon) - np.array(expected) / factor).max() > 1e-2


def test_gradcam_plus_plus_is_not_relu_g_times_g_squared() -> None:
    expected = []
    for a, g, _ in _layers("plain"):
        expected.append(oracle.combined(a, (np.maximum(g, 0) * g**2).sum((1, 2))))
    wrong, right = np.array(expected), explained("plain", "gradcam++").raw.numpy()
    correlation = np.corrcoef(wrong.ravel(), right.ravel())[0, 1]
    assert correlation < 0.9999
    assert not np.allclose(wrong / wrong.max(), right / right.max(), atol=1e-3)


def test_gradients_of_zero_weigh_nothing() -> None:
    network = nets.TOYS["plain"].build()
    with torch.no_grad():
        network.fc.weight[2, 1:] = 0
    found = cnnviz.explain(network, nets.images(), method="gradcam++", target=2)
    assert bool(torch.isfinite(found.raw).all())
    with torch.no_grad():
        first = F.relu(network.maps(nets.images()))[:, 0]
    slope = float(network.fc.weight.detach()[2, 0]) / first[0].numel()
    area = first[0].numel()
    alpha = 1 / (2 + slope * first.sum((1, 2)))
    torch.testing.assert_close(found.raw, (area * alpha * max(slope, 0))[:, None, None] * first, rtol=1e-5, atol=1e-9)


# XGrad-CAM, HiResCAM, LayerCAM ------------------------------------------------------------------------------------


def test_a_channel_whose_activations_cancel_has_no_axiomatic_weight() -> None:
    """Divided by what rounding leaves of its sum, one channel would drown all others."""

    class Cancelling(nets.Body):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(torch.relu(self.centred(x) + 0.1))

        def centred(self, x: Tensor) -> Tensor:
            a = self.maps(x)
            first = a[:, :1] - a[:, :1].mean((2, 3), keepdim=True)
            return self.named(torch.cat([first, a[:, 1:]], 1))

    network = nets.seeded(Cancelling)()
    network.named = nn.Identity()
    found = cnnviz.explain(network, nets.images(), method="xgradcam", target=CLASSES, layer="named")
    with torch.no_grad():
        activations = network.centred(nets.images()).double()
    leaf = activations.requires_grad_()
    logits = F.linear(torch.relu(leaf + 0.1).mean((2, 3)), network.fc.weight.double(), network.fc.bias.double())
    [gradient] = torch.autograd.grad(logits[range(3), CLASSES].sum(), leaf)
    totals = leaf.detach().sum((2, 3))
    assert float(totals[:, 0].abs().max()) < 1e-4 * float(leaf.detach()[:, 0].abs().sum((1, 2)).min())
    weights = (leaf.detach() * gradient).sum((2, 3)) / totals
    weights[:, 0] = 0
    expected = (weights[:, :, None, None] * leaf.detach()).sum(1).clamp_min(0)
    close(found.raw, expected.numpy())


@pytest.mark.parametrize("name", ["plain", "in-place function", "relu6", "depthwise", "residual"])
def test_hirescam_is_gradcam_where_the_head_is_gap_and_linear(name: str) -> None:
    high, mean = explained(name, "hirescam").raw, explained(name, "gradcam").raw
    close(high, mean.numpy())


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("asked", [["stem", "conv2", "conv"], ["conv2", "conv", "stem"], ["conv", "stem", "conv2"]])
def test_layercam_fuses_layers_by_tanh_and_maximum(asked: list[str], tracing: str) -> None:
    """All are of one size; conv2 is the deepest, in whatever order they are named."""
    network = nets.TOYS["residual"].build()
    found = cnnviz.explain(network, nets.images(), method="layercam", target=CLASSES, layer=asked, tracing=tracing)
    singles = {
        n: cnnviz.explain(network, nets.images(), method="layercam", target=CLASSES, layer=n, tracing=tracing).raw
        for n in asked
    }
    share = {n: m.double() / m.double().amax((1, 2), keepdim=True).clamp_min(1e-30) for n, m in singles.items()}

    def fused(deepest: str) -> Tensor:
        return torch.stack([m if n == deepest else torch.tanh(2 * m) for n, m in share.items()]).amax(0)

    close(found.raw, fused("conv2").numpy())
    for other in ("stem", "conv"):  # which one is the deepest matters
        assert float((fused(other) - found.raw).abs().max()) > 1e-2
    assert found.facts["layers"] == asked
    assert found.facts["fusion"] == "maximum; tanh of all but the deepest"


def test_layercam_of_branches_side_by_side_raises_all_but_the_last_named() -> None:
    network = nets.TOYS["concat"].build()
    for asked in (["conv", "side"], ["side", "conv"]):
        found = cnnviz.explain(network, nets.images(), method="layercam", target=CLASSES, layer=asked).raw.double()
        first, last = (
            cnnviz.explain(network, nets.images(), method="layercam", target=CLASSES, layer=n).raw.double()
            for n in asked
        )
        share = [m / m.amax((1, 2), keepdim=True).clamp_min(1e-30) for m in (first, last)]
        close(found, torch.maximum(torch.tanh(2 * share[0]), share[1]).numpy())


def test_layercam_brings_layers_of_different_size_to_the_finest() -> None:
    network = nets.torchvision_network("resnet18")
    batch = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    asked = ("layer4", "layer2")
    found = cnnviz.explain(network, batch, method="layercam", target=[5], layer=asked).raw[0]
    deep, fine = (cnnviz.explain(network, batch, method="layercam", target=[5], layer=n).raw[0] for n in asked)
    expected = np.maximum(
        plain.upsampled(deep.double().numpy() / float(deep.max()), tuple(fine.shape)),
        np.tanh(2 * fine.double().numpy() / float(fine.max())),
    )
    close(found, expected, 1e-4)


def test_methods_of_one_layer_refuse_several() -> None:
    with pytest.raises(CnnvizError, match="gradcam explains one layer; 2 were named") as raised:
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), method="gradcam", layer=["stem", "conv"])
    assert "layercam" in (raised.value.hint or "")


# Finer-CAM and ShapleyCAM ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "residual", "deep head", "silu"])
@pytest.mark.parametrize("options", [{"references": 2}, {"references": 9, "strength": 0.5}, {"contrast_class": 2}])
def test_finercam(name: str, options: dict[str, Any]) -> None:
    expected, compared = [], []
    for (a, _, head), c in zip(_layers(name), CLASSES, strict=True):
        logits = head(torch.from_numpy(a)[None])[0].tolist()
        near = sorted((i for i in range(len(logits)) if i != c), key=lambda i: (abs(logits[i] - logits[c]), i))
        others = [options["contrast_class"]] if "contrast_class" in options else near[: options["references"]]
        expected.append(oracle.finer(head, a, c, others, options.get("strength", 1.0)))
        compared.append(others)
    found = explained(name, "finercam", **options)
    close(found.raw, expected)
    assert found.scores["references"] == compared


def test_finercam_without_strength_is_gradcam() -> None:
    close(explained("residual", "finercam", strength=0.0).raw, explained("residual", "gradcam").raw)


def test_finercam_of_one_logit_compares_it_with_its_negative() -> None:
    network = nets.seeded(lambda: nets.Plain(nn.ReLU(), classes=1))()
    finer = cnnviz.explain(network, nets.images(), method="finercam", target=1)
    close(finer.raw, 2 * cnnviz.explain(network, nets.images(), method="gradcam", target=1).raw)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"score": "probability", "target": 1}, "compares the logits"),
        ({"target": lambda logits: logits[:, 0]}, "compares the logits"),
        ({"contrast_class": 9, "target": 1}, "contrast_class=9: the network has 4 classes"),
    ],
)
def test_finercam_needs_classes(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CnnvizError, match=message):
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), method="finercam", **asked)


@pytest.mark.parametrize("name", ["silu in place after", "deep head", "plain", "silu"])
@pytest.mark.parametrize("score", ["logit", "log-probability"])
def test_shapleycam(name: str, score: str) -> None:
    expected = [
        oracle.shapley(oracle.scored(head, c, score), a) for (a, _, head), c in zip(_layers(name), CLASSES, strict=True)
    ]
    close(explained(name, "shapleycam", score=score).raw, expected, 2e-3)


def test_shapleycam_of_the_residual_softmax() -> None:
    expected = []
    for (a, _, head), c in zip(_layers("plain"), CLASSES, strict=True):

        def rest(moved: Tensor, head: Any = head, c: int = c) -> Tensor:
            return plain.class_score(head(moved), c) + plain.class_score(head(moved), c, "log-probability")

        expected.append(oracle.shapley(rest, a))
    close(explained("plain", "shapleycam", utility="rest").raw, expected, 2e-3)


def test_shapleycam_is_gradcam_where_the_head_is_linear_and_differs_where_it_bends() -> None:
    close(explained("plain", "shapleycam").raw, explained("plain", "gradcam").raw)
    bent, flat = (explained("silu in place after", m).raw for m in ("shapleycam", "gradcam"))
    assert float((bent - flat).abs().max()) > 1e-2 * float(flat.abs().max())


# Peers, where they are right ----------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(
    ("method", "peer"), [("hirescam", "HiResCAM"), ("layercam", "LayerCAM"), ("xgradcam", "XGradCAM")]
)
def test_equals_pytorch_grad_cam_up_to_scale(method: str, peer: str) -> None:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = nets.TOYS["deep head, last conv"].build()
    layer = network.get_submodule("after")
    cam = getattr(pytorch_grad_cam, peer)(model=network, target_layers=[layer])
    targets = [ClassifierOutputTarget(c) for c in CLASSES]
    cam(input_tensor=nets.images(), targets=targets)
    activations = cam.activations_and_grads.activations[0].detach().numpy()
    gradients = cam.activations_and_grads.gradients[0].detach().numpy()
    pairs = zip(activations.astype(np.float64), gradients.astype(np.float64), strict=True)
    theirs = [FORMULAS[method](a, g) for a, g in pairs]
    close(explained("deep head, last conv", method).raw, theirs)
