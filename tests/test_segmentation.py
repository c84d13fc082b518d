"""Networks with scores at positions: what is explained of them, against computations of our own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz import api
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.region_targets import RegionTarget
from cnnviz.engine.runtime import resolve
from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap
from cnnviz.metrics.evidence import evidence_by_class
from cnnviz.models.graph.layers import stages
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.segmentation import Segmentation, class_map_correlation
from tests.support import networks as nets
from tests.support.segment_network import UNet, make, unet

IMAGES = nets.images(2, (24, 32))
BOX = (5, 3, 10, 9)  # x, y, width, height in pixels of the batch, which are the cells of the output


def _region(count: int) -> Tensor:
    x, y, w, h = BOX
    inside = torch.zeros(count, 24, 32, dtype=torch.float64)
    inside[:, y : y + h, x : x + w] = 1
    return inside


def _seg_grad_cam(network: UNet, index: int, inside: Tensor, unit: str = "logit") -> Tensor:
    """Vinogradova et al. 2020, in float64, without the engine."""
    net = copy.deepcopy(network).double()
    one, two, a = net.encoded(IMAGES.double())
    a = a.detach().requires_grad_()
    z = net.decoded(one.detach(), two.detach(), a)
    s = {"logit": z, "probability": z.softmax(1), "log-probability": z.log_softmax(1)}[unit]
    [gradient] = torch.autograd.grad((s[:, index] * inside).sum(), [a])
    return (gradient.mean((2, 3), keepdim=True) * a).sum(1).clamp_min(0).detach()


@pytest.mark.parametrize("score", ["logit", "probability", "log-probability"])
def test_seg_grad_cam_is_that_of_the_paper(score: str) -> None:
    network = unet()
    found = cnnviz.explain(network, IMAGES, target="class:1@box:5,3,10,9", score=score)
    expected = _seg_grad_cam(network, 1, _region(2), score)
    assert found.layer == "act:3"  # the fourth call: behind the convolution at the bottom
    assert float(expected.max()) > 1e-6
    torch.testing.assert_close(found.raw.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    assert found.target.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("method", "target", "told"),
    [
        ("gradcam", "class:1@box:5,3,10,9", True), ("gradcam", "1@point:6,4", True),
        ("gradcam", "diff:1@all,2@box:5,3,10,9", True), ("gradcam", "class:1@all", False), ("gradcam", 1, False),
        ("layercam", "class:1@box:5,3,10,9", False),
    ],
)  # fmt: skip
def test_that_channel_weights_hardly_follow_a_region_is_told_in_python(
    method: str, target: Any, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    api._tell.cache_clear()
    found = cnnviz.explain(unet(), IMAGES, method, target=target)
    said = [note for note in found.notes if "weighs each channel by one number for the whole layer" in note]
    assert bool(said) == told
    assert all("; method='hirescam', 'odam' or 'layercam' weighs positions apart" in note for note in said)
    assert [record.getMessage() for record in caplog.records if "weighs each channel" in record.getMessage()] == said


def test_a_class_is_explained_where_it_is_found() -> None:
    network = unet()
    inside = (network(IMAGES).argmax(1) == 2).double()
    assert 0 < float(inside.mean()) < 1
    found = cnnviz.explain(network, IMAGES, target=2)
    torch.testing.assert_close(found.raw.double(), _seg_grad_cam(network, 2, inside), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "saliency", "occlusion", "rise", "scorecam"])
def test_a_batch_gives_what_its_images_give_alone(method: str) -> None:
    options: dict[str, Any] = {"occlusion": {"window": 8, "stride": 8}, "rise": {"masks": 30}}.get(method, {})
    network = unet()
    whole = cnnviz.explain(network, IMAGES, method, target="class:1@all", **options)
    for image in range(2):
        alone = cnnviz.explain(network, IMAGES[image : image + 1], method, target="class:1@all", **options)
        scale = float(alone.raw.abs().max())
        assert scale > 0
        torch.testing.assert_close(whole.raw[image : image + 1], alone.raw, rtol=1e-4, atol=1e-5 * scale)


def test_occlusion_watches_the_mean_of_the_region() -> None:
    network, window = unet(), 8
    found = cnnviz.explain(network, IMAGES, "occlusion", target="class:1@box:5,3,10,9", window=window, stride=window)
    inside = _region(2)
    with torch.no_grad():
        plain = (network(IMAGES)[:, 1] * inside).sum((1, 2)) / inside.sum((1, 2))
        for row in range(3):
            for column in range(4):
                hidden = IMAGES.clone()
                hidden[:, :, row * window : (row + 1) * window, column * window : (column + 1) * window] = 0
                drop = plain - (network(hidden)[:, 1] * inside).sum((1, 2)) / inside.sum((1, 2))
                torch.testing.assert_close(found.raw[:, row, column].double(), drop, rtol=1e-3, atol=1e-5)


def test_a_difference_of_regions() -> None:
    network = unet()
    found = cnnviz.explain(network, IMAGES, "saliency", target="diff:1@all,2@box:5,3,10,9")
    pixels = IMAGES.clone().requires_grad_()
    z = network(pixels)
    score = z[:, 1].sum() - (z[:, 2] * _region(2).float()).sum()
    [expected] = torch.autograd.grad(score, [pixels])
    torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-4)


def test_gradients_and_relevance_sum_to_the_score() -> None:
    network = unet()
    full = cnnviz.explain(network, IMAGES, "fullgrad", target="class:1@all")
    path = cnnviz.explain(network, IMAGES, "integrated_gradients", target="class:1@all", steps=64)
    score = network(IMAGES)[:, 1].sum((1, 2)).detach()
    assert all(abs(gap) < 1e-4 * float(score.abs().max()) for gap in full.scores["completeness_gap"])
    baseline = network(torch.zeros_like(IMAGES))[:, 1].sum((1, 2)).detach()
    torch.testing.assert_close(path.raw.sum((1, 2, 3)), score - baseline, rtol=2e-2, atol=0.5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_score_of_a_region_in_loops(activation: str, reduction: str) -> None:
    torch.manual_seed(1)
    logits, weights = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)
    target = RegionTarget(torch.tensor([2, 0]), weights, "probability", activation, reduction)  # type: ignore[arg-type]
    for image, index in enumerate((2, 0)):
        total = weight = 0.0
        for row in range(4):
            for column in range(5):
                z = logits[image, :, row, column].double()
                p = z.sigmoid()[index] if activation == "sigmoid" else z.exp()[index] / z.exp().sum()
                total += float(p) * float(weights[image, row, column])
                weight += float(weights[image, row, column])
        expected = total if reduction == "sum" else total / weight
        assert float(target(logits)[image]) == pytest.approx(expected, rel=1e-5)
    assert float(target.of(torch.tensor([1, 1]))(logits[[1, 1]])[0]) == pytest.approx(float(target(logits)[1]))


def test_one_score_is_two_classes() -> None:
    z = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    said = Segmentation(ClassNames(("crack",), True), activation="sigmoid").reads(z)
    assert said.found[0].tolist() == [[[False, True], [False, True]], [[True, False], [True, False]]]
    assert said.scores[0].tolist() == [2.0, 1.25]
    ones = RegionTarget(torch.tensor([1]), torch.ones(1, 2, 2), "probability", "sigmoid")
    assert float(ones(z)) == pytest.approx(float(z.sigmoid().sum()))


def test_what_is_not_the_class_of_one_logit_is_its_background() -> None:
    z = torch.full((1, 1, 4, 4), -2.0)
    z[..., :2, :2] = 3
    for names in (("crack",), ("class 0",)):
        task = Segmentation(ClassNames(names, True), activation="sigmoid")
        assert task.ranked(task.reads(z), 0) == [1, 0]  # although it is the larger
        assert task.default_target(z).indices.tolist() == [1]
    both = Segmentation(ClassNames(("sky", "ground"), True), activation="sigmoid")
    assert both.ranked(both.reads(z), 0) == [0, 1]  # someone named both


def test_where_no_label_is_found_there_is_no_class() -> None:
    z = torch.full((1, 2, 4, 4), -2.0)
    z[0, 0, :2, :2], z[0, 1, 3, 3] = 3.0, 3.0
    task = Segmentation(ClassNames(("a", "b"), False), activation="sigmoid")
    said = task.reads(z)
    assert (task.shown(said, 0) == -1).sum() == 11
    parts = {row.spec: row.figures["area"] for row in task.askable(said, 0, 9)}
    assert parts == {"class:0": 0.25, "class:1": 0.0625, "segment:1": 0.25, "segment:2": 0.0625}


def test_evidence_counts_what_lies_on_no_class() -> None:
    values = np.zeros((6, 8), dtype=np.float32)
    values[1:5, 2:6] = 1  # what was seen
    placed = PlacedMap(values, (2, 1, 6, 5), False)
    classes = np.full((6, 8), -1)
    classes[1:3, 2:4], classes[0, 0] = 2, 5
    [row] = evidence_by_class(placed, classes)
    assert (row.class_index, row.share, row.area) == (2, 0.25, 0.25)


def test_several_labels_at_a_position() -> None:
    z = torch.tensor([[[[2.0, -1.0]], [[1.0, -2.0]]]])
    said = Segmentation(ClassNames(("a", "b"), False), activation="sigmoid").reads(z)
    assert said.found[0].tolist() == [[[True, False]], [[True, False]]]
    assert said.areas[0].tolist() == [0.5, 0.5]


# Which layer ------------------------------------------------------------------------------------------------------

LAYERS = {
    "fcn_resnet50": "backbone.layer4",
    "deeplabv3_mobilenet_v3_large": "classifier.0.project.2",
    "lraspp_mobilenet_v3_large": "backbone.16",
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_end_of_the_encoder_of_torchvision_networks(name: str) -> None:
    module = cnnviz.load_model(name, weights=None, num_classes=4).module
    with open_session(module, name, (3, 64, 96), resolve("cpu"), SessionOptions(private=False)) as session:
        assert session.layers[0].name == LAYERS[name]
        assert session.graph is not None
        sizes = [session.graph.shapes[node][2:] for node in stages(session.graph, name)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == (8, 12) if name == "fcn_resnet50" else (4, 6)


def test_a_pyramid_of_pools_is_no_encoder() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3, stride=4, padding=1)
            self.branches = nn.ModuleList(nn.Conv2d(6, 2, 1) for _ in range(3))
            self.join = nn.Conv2d(12, 8, 3, padding=1)
            self.top = nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            a = F.relu(self.body(x))
            pooled = [
                F.interpolate(F.relu(branch(F.adaptive_avg_pool2d(a, size))), a.shape[-2:])
                for branch, size in zip(self.branches, (1, 2, 3), strict=True)
            ]
            joined = F.relu(self.join(torch.cat([a, *pooled], 1)))
            return F.interpolate(self.top(joined), x.shape[-2:], mode="bilinear")

    torch.manual_seed(0)
    found = cnnviz.explain(Pyramid().eval(), IMAGES, target="class:1@all")
    assert found.raw.shape == (2, 6, 8)
    assert found.layer == "body"


def test_a_map_that_is_the_class_map_is_said_to_be() -> None:
    """Behind the last layer the class's scores are a function of each cell alone."""
    network = make()
    z, images = network.scores, torch.rand(1, 3, 64, 64)
    task = Segmentation(ClassNames(("background", "red", "green", "blue"), False))
    found = cnnviz.explain(network, images, target="class:1@all", layer="mix")
    scores = network(images)["out"][0, 1].detach()
    assert class_map_correlation(found.raw[0], scores) > 0.99
    assert class_map_correlation(torch.rand(16, 16), scores) < 0.5
    assert class_map_correlation(torch.ones(16, 16), scores) == 0.0
    assert z.bias is not None
    assert task.background == (0,)


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("class:9@all", "9"),
        ("class:1@bx:1,2,3,4", "expected @pred"),
        ("class:1@box:1,2,0,4", "expected @pred"),
        ("class:1@point:1", "expected @pred"),
        ("@all", "no class stands before"),
        ("segment:0", "segment:largest"),
        ("segment:bigest", "segment:largest"),
        ("segment:900", "there is no segment 900"),
        ("segment:900", "largest connected part, of whatever class; class:NAME is a class"),
        ("class:1@box:500,3,10,9", "lies outside"),
        ("diff:1@all,1@all", "both sides"),
        ("diff:top:2,1@all", "top:2 means several classes"),
        ("diff:1,all@all", "all means several classes"),
        ("top:2", "means several"),
        ("class:1@mask:nowhere.png", "nowhere.png cannot be read"),
    ],
)
def test_what_matches_nothing_is_said(target: str, message: str) -> None:
    with pytest.raises(CnnvizError) as refused:
        cnnviz.explain(unet(), IMAGES, target=target)
    assert message in f"{refused.value.message} {refused.value.hint}"


def test_a_class_that_is_found_nowhere() -> None:
    network = unet()
    with torch.no_grad():
        network.top.bias[0] = -100.0  # type: ignore[index]
    with pytest.raises(CnnvizError, match="image 0: class 0 is found nowhere"):
        cnnviz.explain(network, IMAGES, target=0)
    assert cnnviz.explain(network, IMAGES, target="class:0@all").raw.shape == (2, 6, 8)


def test_methods_that_are_of_a_class_of_the_image_refuse() -> None:
    for method in ("cam", "finercam", "excitation_backprop"):
        with pytest.raises(CnnvizError):
            cnnviz.explain(unet(), IMAGES, method, target="class:1@all")


def test_ablation_cam_watches_the_mean_of_the_region() -> None:
    network = unet()
    with torch.no_grad():
        network.top.bias += 5  # positive scores, by which the drop is divided
        one, two, a = network.encoded(IMAGES)
        y = network.decoded(one, two, a)[:, 1].mean((1, 2))
        weights = torch.empty(2, a.shape[1])
        for channel in range(a.shape[1]):
            without = a.clone()
            without[:, channel] = 0
            weights[:, channel] = (y - network.decoded(one, two, without)[:, 1].mean((1, 2))) / y
        expected = (weights[:, :, None, None] * a).sum(1).clamp_min(0)
    found = cnnviz.explain(network, IMAGES, "ablationcam", target="class:1@all")
    assert float(expected.max()) > 1e-5
    torch.testing.assert_close(found.raw, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_relevance_is_conserved_where_there_are_no_biases() -> None:
    network = unet()
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.bias = None
    found = cnnviz.explain(network, IMAGES, "lrp", target="class:1@all", rule="epsilon")
    score = network(IMAGES)[:, 1].sum((1, 2)).detach()
    torch.testing.assert_close(found.raw.sum((1, 2, 3)), score, rtol=5e-2, atol=0.05 * float(score.abs().max()))
