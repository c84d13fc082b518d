"""``cnnviz factors``: planted parts are found again, weights and classes are those of the definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.render.class_colours import PALETTE
from cnnviz.render.factors import painted
from tests.support.pictures import photographs_in
from tests.support.runs import TINY, ran

pytest.importorskip("sklearn", reason="needs pip install 'cnnviz[embed]'")
pytest.importorskip("scipy", reason="needs pip install 'cnnviz[embed]'")

from cnnviz.studies.factors import study as module
from cnnviz.studies.nonnegative import Positions, factorize, weights_of


def planted(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sparse non-negative parts [4, 30], and mixtures of one or two of them."""
    rng = np.random.default_rng(seed)
    parts = rng.random((4, 30)) * (rng.random((4, 30)) < 0.4)
    weights = rng.random((rows, 4)) * (rng.random((rows, 4)) < 0.4)
    return parts, (weights @ parts).astype(np.float32)


def test_planted_parts_are_found_again() -> None:
    parts, mixed = planted()
    found = factorize(mixed, 4, 2000, 0)
    unit = parts / np.linalg.norm(parts, axis=1, keepdims=True)
    likeness = unit @ found.directions.T
    assert likeness.max(axis=1).min() > 0.95
    assert sorted(likeness.argmax(axis=1)) == [0, 1, 2, 3]
    left = mixed.astype(np.float64) - found.weights.astype(np.float64) @ found.directions.astype(np.float64)
    assert found.error == pytest.approx(np.sqrt((left**2).sum() / (mixed.astype(np.float64) ** 2).sum()), abs=1e-5)
    assert found.error < 0.05
    energy = (found.weights**2).sum(axis=0)
    assert list(energy) == sorted(energy, reverse=True)
    np.testing.assert_array_equal(factorize(mixed, 4, 2000, 0).directions, found.directions)


def test_weights_are_the_best_that_are_not_negative() -> None:
    """The conditions of Karush, Kuhn and Tucker, in float64: the gradient is zero, or positive where w is zero."""
    parts, mixed = planted(50)
    noisy = np.maximum(mixed + np.random.default_rng(1).normal(0, 0.3, mixed.shape), 0).astype(np.float32)
    weights = weights_of(noisy, parts.astype(np.float32)).astype(np.float64)
    gradient = (weights @ parts - noisy) @ parts.T
    assert (weights >= 0).all()
    assert (weights == 0).any()
    assert np.abs(gradient[weights > 0]).max() < 1e-4
    assert gradient[weights == 0].min() > -1e-4


def test_a_sample_of_positions_does_not_depend_on_when_it_is_pruned() -> None:
    images = [np.full((20, 1), number, dtype=np.float32) + np.arange(20)[:, None] / 100 for number in range(9)]
    small, all_ = Positions(25, 3), Positions(1000, 3)
    for number, rows in enumerate(images):
        small.fold(number, rows)
        all_.fold(number, rows)
    every = np.concatenate(images)
    np.testing.assert_array_equal(all_.rows(), every)
    keys = np.concatenate([np.random.default_rng([3, number]).random(20) for number in range(9)])
    np.testing.assert_array_equal(small.rows(), every[np.sort(np.argsort(keys)[:25])])
    assert small.seen == 180


def network_of(photos: Path) -> tuple[nn.Module, torch.Tensor]:
    """The tiny network, and its activations [N, C, h, w] of the photographs, by its own modules in float64."""
    loaded = load(TINY)
    files = sorted(photos.iterdir())
    pixels = torch.stack([prepare(np.asarray(Image.open(file)), loaded.preprocess)[0] for file in files])
    network = loaded.module.double()
    with torch.no_grad():
        return network, network[:5](normalize(pixels, loaded.preprocess).double())


def test_classes_of_a_factor_are_what_the_weights_of_the_head_say(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "in", 6)
    report, result, _ = ran("factors", [photos], tmp_path / "out", params={"components": 3, "iterations": 2000})
    assert result.exit_code == 0
    network, layer = network_of(photos)
    directions = np.load(tmp_path / "out" / "factors.npz")["factors"].astype(np.float64)
    raw = [np.load(tmp_path / "out" / each["raw"])["weights"] for each in report["maps"]]
    head = network[-1].weight.detach().numpy()
    mean = np.stack(raw).astype(np.float64).mean(axis=(0, 2, 3))
    for factor, row in enumerate(report["factors"]):
        expected = head @ directions[factor] * mean[factor]
        assert [each["class_index"] for each in row["classes"]] == [
            index for index in np.argsort(-expected)[:3] if expected[index] > 0
        ]
        for each in row["classes"]:
            assert each["drop"] == pytest.approx(expected[each["class_index"]], rel=1e-3, abs=1e-5)
    values = layer.numpy()
    for image, (each, weights) in enumerate(zip(report["maps"], raw, strict=True)):
        left = values[image] - np.einsum("kc,khw->chw", directions, weights)
        assert each["error"] == pytest.approx(np.linalg.norm(left) / np.linalg.norm(values[image]), rel=1e-3)
        assert np.asarray(Image.open(tmp_path / "out" / each["file"])).std() > 3
        best = [row["patches"][0]["weight"] for row in report["factors"]]
        assert (weights.max(axis=(1, 2)) <= np.array(best) + 1e-6).all()
    assert (
        report["summary"]["factors"]["positions"]
        == values.shape[0] * 64
        == report["summary"]["factors"]["positions_seen"]
    )


def test_batches_change_nothing_and_a_sample_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs_in(tmp_path / "in", 5)
    monkeypatch.setattr(module, "MOST_VALUES", 12 * 100)
    found: list[Any] = []
    for batch in (1, 4):
        report, _, told = ran("factors", [photos], tmp_path / str(batch), params={"components": 2}, batch_size=batch)
        assert report["summary"]["factors"]["positions"] == 100
        assert any("100 of 320 positions" in note for note in told.notes)
        found.append(np.load(tmp_path / str(batch) / "factors.npz")["factors"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_a_layer_that_is_never_active(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "in", 2)
    model = type(TINY)(model=TINY.model.replace(":make", ":make_dead"), input_size=(3, 64, 64), resize=64)
    report, result, _ = ran("factors", [photos], tmp_path / "out", model=model)
    assert report["summary"]["factors"] is None
    assert result.exit_code == 3, "there was nothing to measure"
    assert "nothing was measured: " in result.sentences[0]
    assert "above zero nowhere" in result.sentences[0]
    (tmp_path / "no.png").write_bytes(b"no picture")
    report, result, _ = ran("factors", [tmp_path / "no.png"], tmp_path / "none")
    assert report["summary"]["factors"] is None
    assert result.sentences == ("nothing was measured: no image could be used",), "the layer is not to blame"


def test_images_that_fail_the_second_time_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs_in(tmp_path / "in", 3)
    known, calls = module.weights_of, iter(range(3))

    def failing(activations: np.ndarray, directions: np.ndarray) -> np.ndarray:
        if next(calls) == 1:
            raise RuntimeError("no solution")
        return known(activations, directions)

    monkeypatch.setattr(module, "weights_of", failing)
    report, _, told = ran("factors", [photos], tmp_path / "out", params={"components": 2}, batch_size=1)
    assert len(report["maps"]) == 2
    assert any("1 of 3 images failed when gone through again: left out" in note for note in told.notes)


def test_what_is_refused(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "in", 2)
    with pytest.raises(CnnvizError, match="has 8 channels"):
        ran("factors", [photos], tmp_path / "a", params={"components": 9}, layers=("2",))
    with pytest.raises(CnnvizError, match="one layer, not 2"):
        ran("factors", [photos], tmp_path / "b", layers=("2", "4"))
    with pytest.raises(CnnvizError, match="not from standard input"):
        ran("factors", ["-"], tmp_path / "c")


def test_a_pixel_has_the_colour_of_its_strongest_factor() -> None:
    weights = np.zeros((2, 1, 4), dtype=np.float32)
    weights[0, 0, :2], weights[1, 0, 2:] = 1.0, 0.5
    picture = painted(np.full((40, 160, 3), 100, dtype=np.uint8), weights, (0, 0, 160, 40))
    grey = np.full(3, 100)
    np.testing.assert_allclose(picture[20, 10], 0.2 * grey + 0.8 * np.array(PALETTE[0]), atol=1)
    np.testing.assert_allclose(picture[20, 150], 0.6 * grey + 0.4 * np.array(PALETTE[1]), atol=1)
