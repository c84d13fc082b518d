"""Grad-CAM's relatives against float64 oracles, and the places where peers and papers part."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.methods.cam.eigen import first_component
from cnnviz.methods.nearby_images import noisy_copies
from tests.oracles import gradcam as plain
from tests.oracles import gradcam_relatives as oracle
from tests.support import networks as nets

CLASSES = [1, 3, 0]
pytestmark = pytest.mark.usefixtures("one_thread")


def close(found: Tensor, expected: Any, tolerance: float = 2e-5) -> None:
    """Equal relative to the largest value, which is not zero."""
    wanted = np.asarray(expected, dtype=np.float64)
    largest = np.abs(wanted).max()
    assert largest > 1e-6
    np.testing.assert_allclose(found.double().numpy(), wanted, rtol=0, atol=tolerance * largest)


@cache
def _layers(name: str) -> list[tuple[oracle.Array, oracle.Array, Any]]:
    """Activations, gradients and head of each image."""
    toy = nets.TOYS[name]
    rows = oracle.layers(toy.build(), toy.split, nets.images())
    return [(a, oracle.slope(head, a, c), head) for (a, head), c in zip(rows, CLASSES, strict=True)]


def explained(name: str, method: str, **options: Any) -> Any:
    toy = nets.TOYS[name]
    layer = options.pop("layer", toy.layer)
    return cnnviz.explain(toy.build(), nets.images(), method=method, target=CLASSES, layer=layer, **options)


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


# Eigen-CAM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (3, 40, 4, 4), (3, 16, 4, 4), (3, 1, 4, 4)])
def test_the_component_is_that_of_the_singular_value_decomposition(shape: tuple[int, ...]) -> None:
    """Both ways to it: the small matrix is that of positions or that of channels."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found, share = first_component(values)
    agreeing, _ = first_component(values, values.sum(1))
    for i, value in enumerate(values.double().numpy()):
        strength = np.linalg.svd(value.reshape(len(value), -1), compute_uv=False)
        assert float(share[i]) == pytest.approx(strength[0] ** 2 / (strength**2).sum(), rel=1e-5)
        expected = oracle.projection(value)
        close(found[i], expected * np.sign((expected**3).sum()))
        close(agreeing[i], expected * np.sign((expected * value.sum(0)).sum()))


def test_the_sign_of_a_component_does_not_depend_on_its_batch() -> None:
    values = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(2))
    like = values.sum(1)
    together, _ = first_component(values, like)
    alone = torch.cat([first_component(v[None], v.sum(0)[None])[0] for v in values])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(first_component(-values, like)[0], together)
    # Where the sums say nothing, the component's own stronger side decides; also where they are rounding noise.
    plain, _ = first_component(values)
    for noise in (torch.zeros_like(like), 1e-5 * (like - (like * plain).sum((1, 2), keepdim=True)
                  / plain.square().sum((1, 2), keepdim=True) * plain)):  # fmt: skip
        torch.testing.assert_close(first_component(values, noise)[0], plain)


def test_a_component_that_is_as_strong_on_either_side_begins_with_what_is_positive() -> None:
    side = torch.tensor([[0.2, -3.0, 3.0], [-0.2, 3.0, -3.0]])
    values = side[None, None] * torch.tensor([1.0, -2.0])[:, None, None]
    for sign in (1, -1):
        found, share = first_component(sign * values)
        torch.testing.assert_close(found[0], -side * 5**0.5)
        assert float(share[0]) == pytest.approx(1.0)


class Signed(nn.Module):
    """Its layer "named" holds what ``shape`` makes of the channels of a convolution."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.conv, self.named, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Identity(), nn.Linear(1, 4)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.named(self.shape(self.conv(x))).tanh().mean((1, 2, 3))[:, None])


SHAPES: dict[str, Any] = {
    "all negative": lambda a: -F.softplus(a),
    "mostly negative": lambda a: -F.softplus(a) + 0.8,
    "one channel, negative": lambda a: -F.softplus(a[:, :1]),
    "equal channels": lambda a: -F.softplus(a[:, :1]).expand(-1, 5, -1, -1),
    "opposite channels": lambda a: torch.cat([a[:, :1], -a[:, :1]], 1),
    "sum of zero": lambda a: a - a.mean(1, keepdim=True),
    "layer norm": lambda a: F.layer_norm(a.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2),
    "constant": lambda a: 0.0 * a + torch.arange(-2.0, 4.0)[None, :, None, None],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_eigencam_at_layers_of_any_sign(shape: str) -> None:
    """Never zero, the same for the negated layer, and the same for an image alone as in its batch."""
    network = nets.seeded(lambda: Signed(SHAPES[shape]))()
    found = cnnviz.explain(network, nets.images(), method="eigencam", layer="named")
    with torch.no_grad():
        layer = SHAPES[shape](network.conv(nets.images())).double().numpy()
    close(found.raw, [oracle.principal(a) for a in layer])
    assert bool((found.raw.flatten(1).amax(1) > 0).all())
    negated = copy.deepcopy(network)
    negated.shape = lambda a: -SHAPES[shape](a)
    close(cnnviz.explain(negated, nets.images(), method="eigencam", layer="named").raw, found.raw.numpy())
    for image, map_ in zip(nets.images(), found.raw, strict=True):
        close(cnnviz.explain(network, image[None], method="eigencam", layer="named").raw[0], map_.numpy())
    if shape in {"one channel, negative", "equal channels"}:
        close(found.raw, np.abs(layer[:, 0]) * layer.shape[1] ** 0.5)
    if shape == "constant":
        close(found.raw, np.sqrt((layer**2).sum(1)))


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
def test_a_batch_gives_what_its_images_give_where_layer_norm_leaves_a_sum_of_zero(method: str) -> None:
    """The channels of an untrained ConvNeXt sum to zero but for rounding, which differs from batch to batch."""
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("convnext_atto", num_classes=12).eval()
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    options = {"method": method, "target": 3, "layer": "stages.3.downsample.0"}
    together = cnnviz.explain(network, images, **options).raw
    for image, map_ in zip(images, together, strict=True):
        close(cnnviz.explain(network, image[None], **options).raw[0], map_.numpy(), 1e-3)


def test_eigengradcam_of_the_opposite_score_is_the_other_side_of_the_component() -> None:
    def explain(sign: int) -> Tensor:
        return cnnviz.explain(
            nets.TOYS["residual, middle"].build(), nets.images(), method="eigengradcam", layer="conv",
            target=lambda logits: sign * logits[:, 1],
        ).raw  # fmt: skip

    for_it, against = explain(1), explain(-1)
    assert float(torch.minimum(for_it, against).max()) == 0
    rows = oracle.layers(nets.TOYS["residual, middle"].build(), nets.TOYS["residual, middle"].split, nets.images())
    expected = [oracle.projection(a * oracle.slope(head, a, 1)) for a, head in rows]
    close((for_it - against).abs(), np.abs(expected), 1e-4)


def test_eigencam_is_the_same_for_every_class() -> None:
    network = nets.TOYS["residual"].build()
    maps = [cnnviz.explain(network, nets.images(), method="eigencam", target=c).raw for c in (0, 3)]
    assert torch.equal(*maps)
    listed = {m["name"]: m for m in cnnviz.list_methods()}
    assert listed["eigencam"]["class_specific"] is False
    assert listed["eigengradcam"]["class_specific"] is True


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
def test_an_image_that_is_not_finite_costs_the_others_nothing(method: str) -> None:
    images = nets.images().clone()
    images[1, 0, 3, 3] = torch.nan
    network = nets.TOYS["plain"].build()
    found = cnnviz.explain(network, images, method=method, target=CLASSES)
    expected = cnnviz.explain(network, nets.images(), method=method, target=CLASSES)
    torch.testing.assert_close(found.raw[[0, 2]], expected.raw[[0, 2]])
    assert bool(found.raw[1].isnan().any())


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


# FullGrad -----------------------------------------------------------------------------------------------------------


class Steps(nn.Module):
    """A convolution with a bias before a normalisation, a SiLU, a gate, and a linear layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 4, 3, stride=2)
        self.act = nn.SiLU()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(x)))
        y = self.act(self.second(y))
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.fc(y.mean((2, 3)))


def _by_hand(network: Steps, x: Tensor, target: int) -> tuple[list[np.ndarray], float, float]:
    """Every spatial piece of one image, the sum of all pieces, and the score."""
    n = network.double()
    image = x.double().requires_grad_()
    a = n.first(image)
    b = n.norm(a)
    c = n.second(torch.relu(b))
    d = n.act(c)
    pooled = d.mean((2, 3), keepdim=True)
    gate = torch.sigmoid(pooled)
    e = d * gate
    z = n.fc(e.mean((2, 3)))
    places = [image, a, b, c, d, gate, e, z]
    gradients = torch.autograd.grad(z[0, target], places)
    offset = n.norm.bias - n.norm.weight * n.norm.running_mean / torch.sqrt(n.norm.running_var + n.norm.eps)
    sigma = torch.sigmoid(c)
    constants = [
        image,
        n.first.bias[:, None, None],
        offset[:, None, None],
        n.second.bias[:, None, None],
        d - c * (sigma * (1 + c * (1 - sigma))),
        gate - pooled * gate * (1 - gate),
        -e,
        n.fc.bias,
    ]
    pieces = [(g * k).detach() for g, k in zip(gradients, constants, strict=True)]
    total = float(sum(p.sum() for p in pieces))
    return [p[0].numpy() for p in pieces if p.dim() == 4 and p.shape[2] > 1], total, float(z[0, target].detach())


@pytest.mark.parametrize("kept", [False, True], ids=["module", "model"])
def test_fullgrad(kept: bool) -> None:
    network = nets.seeded(Steps)()
    asked = nets.as_model(network) if kept else network
    found = cnnviz.explain(asked, nets.images(), method="fullgrad", target=CLASSES)
    for i, target in enumerate(CLASSES):
        pieces, total, score = _by_hand(copy.deepcopy(network), nets.images()[i : i + 1], target)
        assert total == pytest.approx(score, abs=1e-9)  # the decomposition is complete
        close(found.raw[i], oracle.full_gradient(pieces, (12, 16), plain.upsampled))
        assert abs(found.scores["completeness_gap"][i]) < 1e-5
    assert found.facts["bias_layers"] == 5


@pytest.mark.parametrize("name", [n for n, toy in nets.TOYS.items() if toy.traces])
def test_fullgrad_is_complete(name: str) -> None:
    found = cnnviz.explain(nets.TOYS[name].build(), nets.images(), method="fullgrad", target=CLASSES)
    scores = found.logits[range(3), CLASSES]
    assert float(scores.abs().min()) > 1e-4
    assert np.abs(found.scores["completeness_gap"]).max() < 2e-5 * float(scores.abs().max()) + 1e-6


class Turned(nn.Module):
    """What ConvNeXt and older networks have: normalisations of single images, and layers on [N, h, w, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(3, 6, 3, stride=2), nn.GroupNorm(2, 6, eps=0.1)
        self.norm, self.mix = nn.LayerNorm(6, eps=0.1), nn.Linear(6, 8)
        self.local = nn.LocalResponseNorm(3, alpha=0.5)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.group(self.stem(x * 0.5 + 0.25))
        y = F.gelu(self.mix(self.norm(y.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.fc(self.local(y).mean((2, 3)))


def _turned_by_hand(n: Turned, x: Tensor, target: int) -> tuple[list[np.ndarray], float]:
    """Every spatial piece of one image, and the score; J a by PyTorch's own product."""
    image = x.double().requires_grad_()
    shifted = image * 0.5 + 0.25
    a = n.stem(shifted)
    b = n.group(a)
    c = n.norm(b.permute(0, 2, 3, 1))
    d = n.mix(c)
    e = F.gelu(d)
    f = n.local(e.permute(0, 3, 1, 2))
    z = n.fc(f.mean((2, 3)))
    gradients = torch.autograd.grad(z[0, target], [image, shifted, a, b, c, d, e, f])

    def beyond(function: Any, at: Tensor) -> Tensor:
        y, along = torch.autograd.functional.jvp(function, at.detach(), at.detach())
        return y - along

    constants = [
        image.detach(),
        torch.tensor(0.25).double(),
        n.stem.bias[:, None, None],
        beyond(n.group, a),
        beyond(n.norm, b.permute(0, 2, 3, 1)),
        n.mix.bias,
        beyond(F.gelu, d),
        beyond(n.local, e.permute(0, 3, 1, 2)),
    ]
    pieces = [(g * k).detach() for g, k in zip(gradients, constants, strict=True)]
    ordered = [p.permute(0, 3, 1, 2) if i in {4, 5, 6} else p for i, p in enumerate(pieces)]
    return [p[0].numpy() for p in ordered], float(z[0, target].detach())


def test_fullgrad_of_layers_with_channels_last_and_other_normalisations() -> None:
    network = nets.seeded(Turned)()
    found = cnnviz.explain(network, nets.images(), method="fullgrad", target=CLASSES)
    for i, target in enumerate(CLASSES):
        by_hand = copy.deepcopy(network).double()
        pieces, score = _turned_by_hand(by_hand, nets.images()[i : i + 1], target)
        total = sum(float(piece.sum()) for piece in pieces) + float(by_hand.fc.bias[target].detach())
        assert total == pytest.approx(score, abs=1e-9)
        close(found.raw[i], oracle.full_gradient(pieces, (12, 16), plain.upsampled))
        assert abs(found.scores["completeness_gap"][i]) < 1e-5
    assert found.facts["bias_layers"] == 7


class ScoreIsASum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = 1.5 - torch.sub(0.5 + self.conv(x), 0.25, alpha=3)
        return torch.tanh(y.sub(0.5).mean((2, 3))) + 2.0


class OneAxis(nn.Module):
    """Layers on [N, C] and [N, C, L], a transposed convolution, and one whose submodule is called add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 4, 3), nn.Conv1d(1, 1, 3, padding=1)
        self.up, self.add = nn.ConvTranspose2d(4, 4, 2), nn.Identity()
        self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.mix(y.mean((2, 3))[:, None]))[:, 0, :, None, None]
        return self.fc(self.norm(self.add(F.hardswish(self.up(y * gate))).mean((2, 3))))


class Joined(nn.Module):
    """Signals that are multiplied, divided and summed in every spelling, beside constants that the size decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4)
        self.place = nn.Parameter(torch.randn(1, 6, 1, 7))
        self.weight, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.place
        q, k = torch.relu(y[:, :3]), torch.relu(y[:, 3:])
        # linear attention: products of matrices, and a quotient
        q, k = q.flatten(2), k.flatten(2)
        v = torch.matmul(torch.matmul(k, y.flatten(2).transpose(1, 2)).transpose(1, 2), q)
        v = v / ((k.sum(-1, keepdim=True) * q).sum(1, keepdim=True) + 0.1)
        y = y + v.reshape(y.shape) * (y.shape[2] - 1) * 3.0**-0.5
        # response normalisation: a quotient of norms
        norm = y.norm(p=2, dim=(2, 3), keepdim=True)
        response = norm / (norm.mean(1, keepdim=True) + 0.1)
        y = y + torch.addcmul(self.bias.view(1, -1, 1, 1), self.weight.view(1, -1, 1, 1), y * response)
        y = F.normalize(y, dim=1) + torch.einsum("nchw,nchw->nhw", y, y)[:, None].rsqrt() - self.place.flip(1)
        y = y.permute(0, 2, 3, 1) * torch.sigmoid(y.mean((2, 3)))[:, None, None]
        return self.fc(2.0 / (1.5 + y.mean((1, 2)).square()))


def _one_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))


@pytest.mark.parametrize("build", [OneAxis, ScoreIsASum, Joined, _one_layer])
def test_fullgrad_is_complete_wherever_constants_are_added(build: Any) -> None:
    found = cnnviz.explain(nets.seeded(build)(), nets.images(), method="fullgrad", target=CLASSES)
    assert np.abs(found.scores["completeness_gap"]).max() < 1e-5


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
