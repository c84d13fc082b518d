"""Shapley values, KernelSHAP and LIME against Shapley's definition and the normal equations in float64."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cnnviz
from cnnviz.engine import perturbed_scores as perturb
from cnnviz.errors import CnnvizError
from cnnviz.methods.baselines import baseline
from cnnviz.methods.perturbation import superpixels
from cnnviz.metrics.chosen import gathered, requested, summed_up
from cnnviz.registry.metrics import FIT, REPEATABILITY
from cnnviz.settings import TargetSettings
from tests.oracles import superpixels as oracle
from tests.support import networks as nets
from tests.support.pictures import photograph
from tests.support.runs import ran

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


@pytest.mark.parametrize("method", ["kernelshap", "shapley"])
@pytest.mark.parametrize("kind", ["zero", "mean"])
@pytest.mark.parametrize("name", ["residual", "untraceable"])
def test_with_all_samples_these_are_the_shapley_values(name: str, kind: str, method: str) -> None:
    network, batch = nets.TOYS[name].build(), nets.images()
    asked = {"segments": 6, "samples": 1000, "baseline": kind, "compactness": SQUARE}
    found = cnnviz.explain(network, batch, method, target=CLASSES, **asked)
    assert (max(found.scores["standard_error"]), min(found.scores["reliability"])) == (0, 1)
    for i, score, count in _games(found, network, batch, kind):
        assert 2 <= count <= 8
        values = oracle.shapley(score, count)
        segments = found.arrays["segments"][i].numpy()
        close(found.raw[i], np.array(values)[segments])
        assert found.scores["superpixels"][i] == count


def test_orders_give_the_mean_of_their_gains() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    asked = {"segments": 8, "samples": 60, "seed": 3, "compactness": SQUARE}
    found = cnnviz.explain(network, batch, "shapley", target=CLASSES, **asked)
    for i, score, count in _games(found, network, batch, "zero"):
        design = superpixels._orders(count, 60, seed=3)
        assert len(design) == found.scores["samples"][i] == 60 // (2 * (count - 1)) * 2 * (count - 1)
        orders = oracle.orders(design.reshape(-1, count - 1, count))
        assert all(one == other[::-1] for one, other in zip(orders[::2], orders[1::2], strict=True))
        gains = np.array([oracle.gains(score, order) for order in orders])
        segments = found.arrays["segments"][i].numpy()
        close(found.raw[i], gains.mean(0)[segments])
        pairs = gains.reshape(-1, 2, count).mean(1)
        square = np.mean([np.var(each, ddof=1) / len(pairs) for each in pairs.T])
        assert found.scores["standard_error"][i] == pytest.approx(square**0.5, rel=1e-3)
        alike = max(0.0, 1 - square / np.var(gains.mean(0)))
        assert found.scores["reliability"][i] == pytest.approx(alike, abs=1e-3)


def _game(count: int) -> Any:
    """Scores of z [S, d] with interactions of two and of three, and its Shapley values in closed form."""
    random = np.random.default_rng(1)
    alone, two, three = random.normal(size=count), random.normal(size=(count,) * 2), random.normal(size=(count,) * 3)

    def score(design: Any) -> Any:
        z = design.astype(float)
        pairs, triples = np.einsum("si,sj,ij->s", z, z, two), np.einsum("si,sj,sk,ijk->s", z, z, z, three)
        return z @ alone + pairs + triples

    values = alone.copy()
    for gain in (two, three):
        for together in np.ndindex(gain.shape):
            players = list(set(together))  # they share what comes when all of them are there
            values[players] += gain[together] / len(players)
    return score, values


@pytest.mark.parametrize("width", [0.25, 0.1])
def test_the_error_that_lime_states_is_that_over_seeds(width: float) -> None:
    """Of a score that is no sum: how far values are from their mean over seeds, and how two seeds correlate."""
    count, samples, ridge = 12, 440, 1.0
    score, _ = _game(count)
    whole = float(score(np.ones((1, count), bool))[0])
    stated, found = [], []
    for seed in range(60):
        design = superpixels._lime_design(count, samples, seed)
        values, figures = superpixels._solve_lime(design, score(design), (0.0, whole), width, ridge)
        found.append(values)
        stated.append([figures["standard_error"] ** 2, figures["reliability"]])
    square, alike = np.mean(stated, 0)
    assert np.var(found, axis=0, ddof=1).mean() ** 0.5 == pytest.approx(square**0.5, rel=0.12)
    between = np.corrcoef(found)[np.triu_indices(60, 1)].mean()
    assert 0.8 < between < 0.98
    assert alike == pytest.approx(between, abs=0.05)
    _, figures = superpixels._solve_lime(design[:13], score(design[:13]), (0.0, whole), width, ridge)
    assert np.isnan([figures["standard_error"], figures["reliability"]]).all(), "too few samples"


@pytest.mark.parametrize("method", ["kernelshap", "shapley"])
def test_the_error_that_is_stated_is_that_over_seeds(method: str) -> None:
    """Of a game whose values are known: the root mean square of errors, and how two seeds correlate."""
    count, samples = 12, 440
    score, exact = _game(count)
    assert score(np.ones((1, count), bool))[0] == pytest.approx(exact.sum())
    stated, found = [], []
    for seed in range(60):
        if method == "shapley":
            design = superpixels._orders(count, samples, seed)
            values, figures = superpixels._mean_gains(design, score(design), (0.0, exact.sum()))
        else:
            design = superpixels._shap_design(count, samples, seed)
            values, figures = superpixels._solve_shap(design, score(design), (0.0, exact.sum()))
        assert values.sum() == pytest.approx(exact.sum())
        found.append(values)
        stated.append([figures["standard_error"] ** 2, figures["reliability"]])
    square, alike = np.mean(stated, 0)
    assert np.mean((np.array(found) - exact) ** 2) == pytest.approx(square, rel=0.15)
    between = np.corrcoef(found)[np.triu_indices(60, 1)].mean()
    assert 0.2 < between < 0.999
    assert alike == pytest.approx(between, abs=0.05)


def test_of_too_few_samples_the_error_is_not_known() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    for method in ("kernelshap", "shapley"):
        found = cnnviz.explain(network, batch, method, target=1, segments=9, samples=6, compactness=SQUARE)
        assert np.isnan(found.scores["standard_error"]).all()
        assert np.isnan(found.scores["reliability"]).all()


def test_two_ways_with_the_same_options_do_not_share_their_images() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    asked = {"segments": 9, "samples": 40, "compactness": SQUARE}
    first, second = (cnnviz.explain(network, batch, each, target=1, **asked) for each in ("kernelshap", "shapley"))
    with_both = cnnviz.explain(network, batch, "shapley", target=1, **asked)
    assert torch.equal(second.raw, with_both.raw)
    assert not torch.allclose(first.raw, second.raw, atol=1e-6)


def test_maps_that_another_seed_would_not_repeat_are_told(tmp_path: Path) -> None:
    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    for samples, unknown in ((2, 1), (70000, 0)):
        options = {"segments": 16, "samples": samples}
        report, _, said = ran("shapley", [tmp_path / "a.png"], tmp_path / str(samples), params=options)
        [row] = report["images"][0]["explanations"]
        assert row["scores"]["reliability"] == (None if unknown else 1)
        assert report["summary"]["repeatability"]["unknown"] == unknown
        too_few = (
            "1 of 1 map: too few samples to tell how alike that of another seed would be; more --samples than 2 would"
        )
        assert any(note.startswith(too_few) for note in said.notes) is bool(unknown)
    records = [
        {"path": str(number), "explanations": [{"scores": {"reliability": each}}]}
        for number, each in enumerate((0.9, 0.8, 0.789, None, 0.25))
    ]
    [request] = [
        each for each in requested(TargetSettings(), {"repeatability": "do that"}) if each.spec is REPEATABILITY
    ]
    found = summed_up([request], gathered({"": [request]}, records)[""])
    expected = {"maps": 5, "below_enough": 2, "unknown": 1, "enough": 0.8, "least": 0.25}
    assert found.figures == {"repeatability": expected}
    assert found.notes == (
        "2 of 5 maps would correlate by less than 0.8 with the map of another seed (the least by 0.25); do that",
        "1 of 5 maps: too few samples to tell how alike that of another seed would be; do that",
    )
    with pytest.raises(CnnvizError, match="does not state"):
        requested(TargetSettings(metrics=("repeatability",)))


def test_values_that_explain_less_than_a_constant_are_told(tmp_path: Path) -> None:
    """Of a score that is one where all superpixels are seen, and about 0 elsewhere, shares of a sum say nothing."""
    count = 10
    design = superpixels._shap_design(count, 200, seed=0)
    _, figures = superpixels._solve_shap(design, np.zeros(len(design)), (0.0, 1.0))
    assert figures["fit"] == 1.0, "nothing varies"
    answers = 0.01 * np.random.default_rng(0).normal(size=len(design))
    values, figures = superpixels._solve_shap(design, answers, (0.0, 1.0))
    expected = 1 - ((answers - design @ values) ** 2).sum() / ((answers - answers.mean()) ** 2).sum()
    assert expected < -10
    assert figures["fit"] == pytest.approx(expected)
    [request] = [each for each in requested(TargetSettings(), {"fit": "do that"}) if each.spec is FIT]
    records = [
        {"path": str(number), "explanations": [{"scores": {"fit": each}}]}
        for number, each in enumerate((0.9, 0.0, -0.25, -0.9, None))
    ]
    found = summed_up([request], gathered({"": [request]}, records)[""])
    assert found.figures == {"fit": {"maps": 4, "below_enough": 2, "enough": 0.0, "least": -0.9}}
    assert found.notes == (
        "2 of 4 maps explain the score of images with hidden parts worse than a constant would (fit -0.90 at the "
        "least); do that",
    )
    with pytest.raises(CnnvizError, match="fits no linear model"):
        requested(TargetSettings(metrics=("fit",)), {"fit": ""})
    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    for method in ("kernelshap", "lime"):
        options = {"segments": 9, "samples": 30}
        report, _, _ = ran(method, [tmp_path / "a.png"], tmp_path / method, params=options)
        [row] = report["images"][0]["explanations"]
        assert report["summary"]["fit"]["least"] == row["scores"]["fit"]


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
    for method, options in (("kernelshap", {}), ("shapley", {}), ("lime", {"ridge": 0.0})):
        asked = {"segments": 12, "samples": 64, "compactness": SQUARE, **options}
        found = cnnviz.explain(Linear(), batch, method, target=0, **asked)
        for raw, segments, image in zip(found.raw, found.arrays["segments"], batch, strict=True):
            parts = [(image * weights)[:, segments == k].sum() for k in range(int(segments.max()) + 1)]
            close(raw, torch.stack(parts)[segments.long()], 1e-4)
        assert min(found.scores.get("fit", found.scores.get("reliability"))) > 1 - 1e-6


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
