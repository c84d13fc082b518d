"""KernelSHAP and LIME against Shapley's definition and the normal equations in float64."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cnnviz
from cnnviz.engine import perturbed_scores as perturb
from cnnviz.errors import CnnvizError
from cnnviz.methods.baselines import baseline
from cnnviz.methods.perturbation import superpixels
from tests.oracles import superpixels as oracle
from tests.support import networks as nets

CLASSES = [1, 3, 0]
SQUARE = 100  # compactness: the images are noise, whose colours make no superpixels


def close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    wanted = np.asarray(expected, dtype=np.float64)
    largest = np.abs(wanted).max()
    assert largest > 1e-4
    np.testing.assert_allclose(np.asarray(found, dtype=np.float64), wanted, rtol=0, atol=tolerance * largest)


def _games(found: Any, network: Any, batch: Tensor, kind: str) -> Iterator[tuple[int, Any, int]]:
    fill = baseline(batch, kind, (2, 2), 0, None)
    for i, index in enumerate(CLASSES):
        segments = found.arrays["segments"][i].numpy()
        yield i, oracle.game(network, batch[i], fill[i], segments, index), int(segments.max()) + 1


@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("name", ["residual", "untraceable"])
def test_kernelshap_with_all_samples_is_shapley(name: str, kind: str) -> None:
    network, batch = nets.TOYS[name].build(), nets.images()
    asked = {"segments": 6, "samples": 1000, "baseline": kind, "compactness": SQUARE}
    found = cnnviz.explain(network, batch, "kernelshap", target=CLASSES, **asked)
    for i, score, count in _games(found, network, batch, kind):
        assert 2 <= count <= 8
        values = oracle.shapley(score, count)
        segments = found.arrays["segments"][i].numpy()
        close(found.raw[i], np.array(values)[segments])
        assert found.scores["superpixels"][i] == count


def test_kernelshap_with_few_samples_is_complete_and_near() -> None:
    """The values sum to the difference of the scores however few are drawn, and come near with more."""
    network, batch = nets.TOYS["residual"].build(), nets.images()
    errors = []
    for samples in (8, 60):
        asked = {"segments": 8, "samples": samples, "compactness": SQUARE}
        found = cnnviz.explain(network, batch, "kernelshap", target=CLASSES, **asked)
        error = []
        for i, score, count in _games(found, network, batch, "zero"):
            segments = found.arrays["segments"][i]
            own = [float(found.raw[i][segments == k][0]) for k in range(count)]
            close([sum(own)], [score(frozenset(range(count))) - score(frozenset())], 1e-4)
            exact = np.array(oracle.shapley(score, count))
            error.append(np.abs(np.array(own) - exact).max() / np.abs(exact).max())
        errors.append(max(error))
    assert errors[1] < 0.15
    assert errors[1] < errors[0]


def test_lime() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    asked = {"segments": 6, "samples": 30, "seed": 4, "compactness": SQUARE}
    found = cnnviz.explain(network, batch, "lime", target=CLASSES, width=0.4, ridge=0.2, **asked)
    for i, score, count in _games(found, network, batch, "zero"):
        design = superpixels._lime_design(count, 30, seed=4)
        assert 0.3 < design.mean() < 0.7
        values = oracle.lime(score, design.tolist(), 0.4, 0.2)
        close(found.raw[i], np.array(values)[found.arrays["segments"][i].numpy()])
        assert 0 < found.scores["fit"][i] <= 1


def test_a_sum_over_superpixels_is_found_exactly() -> None:
    """A score that is linear in the pixels: every superpixel's value is its own part of it, with any sample."""
    weights = torch.linspace(-1, 1, 3 * 12 * 16).reshape(3, 12, 16)

    class Linear(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            value = (x * weights.to(x)).sum((1, 2, 3))
            return torch.stack([value, -value], 1)

    batch = nets.images()
    for method, options in (("kernelshap", {}), ("lime", {"ridge": 0.0})):
        asked = {"segments": 12, "samples": 64, "compactness": SQUARE, **options}
        found = cnnviz.explain(Linear(), batch, method, target=0, **asked)
        for raw, segments, image in zip(found.raw, found.arrays["segments"], batch, strict=True):
            parts = [(image * weights)[:, segments == k].sum() for k in range(int(segments.max()) + 1)]
            close(raw, torch.stack(parts)[segments.long()], 1e-4)
        assert min(found.scores["fit"]) > 1 - 1e-6


def test_segments_cover_the_image_and_depend_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    asked: dict[str, Any] = {"segments": 9, "samples": 20, "compactness": SQUARE}
    found = cnnviz.explain(network, batch, "kernelshap", target=1, **asked)
    for i, segments in enumerate(found.arrays["segments"]):
        assert found.scores["superpixels"][i] > 4
        assert sorted(segments.unique().tolist()) == list(range(found.scores["superpixels"][i]))
        alone = cnnviz.explain(network, batch[i : i + 1], "kernelshap", target=1, **asked)
        assert torch.equal(alone.arrays["segments"][0], segments)
    monkeypatch.setattr(perturb, "chunk_size", lambda run, of_layer=False: 3)
    close(cnnviz.explain(network, batch, "kernelshap", target=1, **asked).raw, found.raw, 1e-5)


def test_slic_sees_the_colours_of_the_image() -> None:
    """Two halves of different colour are two superpixels' worth of borders: none crosses the edge."""
    model = nets.as_model(nets.TOYS["residual"].build().requires_grad_(False), (24, 32))
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[:, :13] = (200, 30, 30)
    image[:, 13:] = (20, 60, 220)
    found = cnnviz.explain(model, model.transform(image)[None], "kernelshap", segments=8, samples=4, compactness=0.1)
    segments = found.arrays["segments"][0]
    assert not set(segments[:, :13].unique().tolist()) & set(segments[:, 13:].unique().tolist())


def test_without_scikit_image_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("skimage"):
            raise ModuleNotFoundError("No module named 'skimage'")
        return load(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(CnnvizError, match="scikit-image") as raised:
        cnnviz.explain(nets.TOYS["residual"].build(), nets.images(), "lime")
    assert raised.value.hint == "pip install 'cnnviz[superpixels]'"


def test_as_many_drawn_samples_as_there_are_subsets_are_no_complete_design() -> None:
    """With 4 superpixels there are 14 subsets; 13 samples are made 14, drawn by the kernel's weight already."""
    from cnnviz.methods.perturbation.superpixels import _shap_design, _solve_shap

    design = _shap_design(4, 13, seed=0)
    assert len(design) == 14 != len(np.unique(design, axis=0))
    answers = (design * [1.0, 2.0, 3.0, 4.0]).sum(1) + 0.5 * (design[:, 0] & design[:, 1])
    found, _ = _solve_shap(design, answers, (0.0, 10.5))
    z = design.astype(float)
    left, right = z[:, :-1] - z[:, -1:], answers - z[:, -1] * 10.5
    others = np.linalg.solve(left.T @ left, left.T @ right)
    np.testing.assert_allclose(found[:-1], others, atol=1e-9)


def test_the_number_of_samples_is_each_images_own() -> None:
    images = torch.cat([nets.images()[:1], torch.zeros_like(nets.images()[:1])])
    asked = {"method": "kernelshap", "target": 1, "segments": 3, "samples": 6, "compactness": 100}
    network = nets.TOYS["plain"].build()
    together = cnnviz.explain(network, images, **asked).scores["samples"]
    alone = [cnnviz.explain(network, images[i : i + 1], **asked).scores["samples"][0] for i in (0, 1)]
    assert together == alone
