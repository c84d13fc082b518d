"""KPCA-CAM, FEM, Recipro-CAM, layer conductance and GradientSHAP against computations written anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import cnnviz
from cnnviz.methods.gradient.gradient_shap import _stratified
from tests.oracles import gradcam_relatives as oracle
from tests.oracles import gradients as pixel_oracle
from tests.oracles.gradcam import Array, class_score
from tests.support import networks as nets
from tests.support.comparisons import closeness
from tests.support.toy_maps import CLASSES, explained

close = closeness(2e-4, 1e-6)
NAMES = ["plain", "residual", "deep head", "silu"]


def _layers(name: str) -> list[tuple[Array, object]]:
    toy = nets.TOYS[name]
    return oracle.layers(toy.build(), toy.split, nets.images())  # type: ignore[return-value]


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "poly"])
@pytest.mark.parametrize("name", NAMES)
def test_kpcacam_is_scikit_learns_first_kernel_component(name: str, kernel: str) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    found = explained(name, "kpcacam", kernel=kernel, gamma=0.3)
    for map_, (activations, _) in zip(found.raw, _layers(name), strict=True):
        rows = activations.reshape(len(activations), -1).T
        model = decomposition.KernelPCA(1, kernel=kernel, gamma=0.3, coef0=1, degree=3, eigen_solver="dense")
        projection = model.fit_transform(rows)[:, 0]
        length = np.sqrt((rows**2).sum(1))
        projection *= np.sign((projection * (length - length.mean())).sum())
        close(map_, np.maximum(projection, 0).reshape(map_.shape))


def test_kpcacam_of_positions_that_are_all_alike_is_zero() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    found = cnnviz.explain(network, torch.ones(1, 3, 12, 16), method="kpcacam")
    assert not bool(found.raw.any())


@pytest.mark.parametrize("sigmas", [0.5, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_fem(name: str, sigmas: float) -> None:
    found = explained(name, "fem", sigmas=sigmas)
    for map_, (activations, _) in zip(found.raw, _layers(name), strict=True):
        expected = np.zeros(activations.shape[1:])
        for channel in activations:
            mean = sum(channel.flat) / channel.size
            spread = (sum((v - mean) ** 2 for v in channel.flat) / channel.size) ** 0.5
            for place in np.ndindex(*channel.shape):
                if spread > 0 and channel[place] >= mean + sigmas * spread:
                    expected[place] += mean
        if np.maximum(expected, 0).max() > 1e-6:
            close(map_, np.maximum(expected, 0))
        else:
            assert float(map_.max()) <= 1e-6


@pytest.mark.parametrize("mask", ["gaussian", "cell"])
@pytest.mark.parametrize("name", NAMES)
def test_reciprocam(name: str, mask: str) -> None:
    found = explained(name, "reciprocam", mask=mask)
    weights = {(0, 0): 1.0}
    if mask == "gaussian":
        weights = {(i, j): 2.0 ** -(2 + abs(i) + abs(j)) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    for image, (activations, head) in enumerate(_layers(name)):
        height, width = activations.shape[1:]
        expected = np.zeros((height, width))
        for row, column in np.ndindex(height, width):
            seen = np.zeros_like(activations)
            for (i, j), weight in weights.items():
                if 0 <= row + i < height and 0 <= column + j < width:
                    seen[:, row + i, column + j] = weight * activations[:, row + i, column + j]
            with torch.no_grad():
                logits = head(torch.from_numpy(seen)[None])  # type: ignore[operator]
            expected[row, column] = float(class_score(logits, CLASSES[image])[0])
        close(found.raw[image], expected - expected.min())
        assert found.scores["floor"][image] == pytest.approx(expected.min(), rel=1e-4, abs=1e-5)


def test_reciprocam_of_single_cells_behind_a_pooled_linear_head_is_cam() -> None:
    """y of one cell is (sum_k w_k A_k) / (h w) + b."""
    cam = explained("plain", "cam").raw
    found = explained("plain", "reciprocam", mask="cell").raw
    flat = cam.flatten(1)
    expected = (flat - flat.amin(1, keepdim=True)).reshape(cam.shape) / flat.shape[1]
    close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_conductance(name: str) -> None:
    toy = nets.TOYS[name]
    steps, images = 6, nets.images()
    found = explained(name, "conductance", steps=steps, baseline="mean")
    start = images.mean((2, 3), keepdim=True).expand_as(images)
    points = [oracle.layers(toy.build(), toy.split, start + k / steps * (images - start)) for k in range(steps + 1)]
    for i, class_index in enumerate(CLASSES):
        expected = np.zeros(found.raw.shape[1:])
        slopes = [oracle.slope(point[i][1], point[i][0], class_index) for point in points]
        for k in range(steps):
            step = (slopes[k] + slopes[k + 1]) / 2 * (points[k + 1][i][0] - points[k][i][0])
            expected += step.sum(0)
        close(found.raw[i], expected)


@pytest.mark.parametrize("name", NAMES)
def test_conductance_sums_to_the_difference_in_score(name: str) -> None:
    found = explained(name, "conductance", steps=200, baseline="mean")
    images = nets.images()
    with torch.no_grad():
        network = nets.TOYS[name].build().double()
        start = images.mean((2, 3), keepdim=True).expand_as(images)
        difference = (network(images.double()) - network(start.double()))[torch.arange(3), CLASSES]
    for i in range(3):
        assert found.scores["score_difference"][i] == pytest.approx(float(difference[i]), rel=1e-4, abs=1e-5)
        assert float(found.raw[i].sum()) == pytest.approx(
            float(difference[i]), abs=0.01 * float(found.raw[i].abs().sum())
        )


def test_gradient_shap_by_its_formula() -> None:
    """From one baseline: the mean of gradients at the points that were drawn."""
    network, images, samples = nets.TOYS["residual"].build(), nets.images(2), 4
    found = cnnviz.explain(
        network, images, method="gradient_shap", target=[1, 3], baseline="zero", samples=samples, seed=6
    )
    for i, class_index in enumerate([1, 3]):
        places = _stratified(images[i], samples, 6)
        assert sorted((places * samples).int().tolist()) == list(range(samples))
        slopes = [pixel_oracle.gradient(network, a * images[i], class_index) for a in places]
        expected = images[i].double().numpy() * np.mean(slopes, axis=0)
        close(found.raw[i], expected, 1e-3)
        close(found.maps[i], expected.sum(0), 1e-3)


def test_gradient_shap_over_many_baselines_sums_to_the_difference_in_score() -> None:
    found = cnnviz.explain(
        nets.TOYS["silu"].build(), nets.images(), method="gradient_shap", target=CLASSES, samples=300, noise=0.05
    )
    for gap, difference in zip(found.scores["completeness_gap"], found.scores["score_difference"], strict=True):
        assert abs(gap) < 0.1 * max(abs(difference), 0.1)
