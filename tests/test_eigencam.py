"""Eigen-CAM: the component, its sign, and images that share a batch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.methods.cam.eigen import first_component
from tests.oracles import gradcam_relatives as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness
from tests.support.toy_maps import CLASSES

close = closeness(2e-5, 1e-6)


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
