"""Hundreds of classes of an image at once: their maps are those of one at a time, their figures those of the pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz.cli.app import main
from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.targets import ClassTarget
from cnnviz.maps import prepared_method
from cnnviz.methods.explain import explain_batch, explain_many
from cnnviz.metrics.cell_statistics import cell_grid, cell_scores
from cnnviz.metrics.map_statistics import map_scores
from cnnviz.registry import lookup


def maps_of(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Maps with ties, of few values, negative, flat and empty ones among them."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(40, *shape)).astype(np.float32)
    found[5:15] = rng.integers(-1, 3, (10, *shape))
    found[15:20] = np.abs(found[15:20]) + 5
    found[20], found[21], found[22] = 0, 3, -np.abs(found[22])
    found[23] *= 1e-30
    return found


@pytest.mark.parametrize(
    ("shape", "rect", "size"),
    [
        ((7, 7), (32.0, 32.0, 480.0, 480.0), (512, 512)),
        ((5, 9), (-20.5, 3.25, 130.0, 77.7), (111, 90)),
        ((1, 3), (0.0, 0.0, 40.0, 30.0), (40, 30)),
        ((6, 4), (10.3, -8.0, 33.9, 60.0), (64, 48)),
    ],
)
def test_figures_of_cells_are_those_of_the_map_without_interpolation(shape, rect, size) -> None:
    maps = maps_of(shape, 0)
    raw = 2 * maps - 1
    grid = cell_grid(shape, rect, size)
    assert grid is not None
    # The pixels of a cell, told apart by where their centres lie.
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    column = np.floor((x - rect[0]) / (rect[2] - rect[0]) * shape[1]).astype(int)
    row = np.floor((y - rect[1]) / (rect[3] - rect[1]) * shape[0]).astype(int)
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    for values, own, got in zip(maps, raw, cell_scores(maps, raw, grid), strict=True):
        placed = grid.placed(values)
        np.testing.assert_array_equal(placed.values[inside], values[row[inside], column[inside]])
        assert not placed.values[~inside].any()
        want = map_scores(own, placed)
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert got[key] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-6)), key


def test_cells_smaller_than_pixels_are_left_to_the_pixels() -> None:
    assert cell_grid((50, 50), (0.0, 0.0, 30.0, 30.0), (30, 30)) is None


class Head(nn.Module):
    """A convolution under a head of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.norm = nn.LayerNorm(6) if kind == "norm" else nn.Identity()
        self.pool: nn.Module = nn.AdaptiveMaxPool2d(1) if kind == "max" else nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 1 if kind == "one" else 30)
        self.last = nn.Tanh() if kind == "tanh" else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.conv(x))
        return self.last(self.fc(self.norm(self.pool(maps).flatten(1))))


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("kind", ["mean", "max", "norm", "one", "tanh"])
@pytest.mark.parametrize("name", ["cam", "gradcam"])
def test_many_targets_are_each_alone(name: str, kind: str, score: str) -> None:
    torch.manual_seed(0)
    module, spec = Head(kind).eval(), lookup.find_method(name)
    if name == "cam" and kind == "tanh":
        pytest.skip("CAM refuses this head")
    session = prepare(module, kind, (3, 24, 20), rt.resolve("cpu"), SessionOptions())
    run = session.forward(torch.randn(3, 3, 24, 20))
    classes = 2 if kind == "one" else 30
    targets = [ClassTarget(torch.tensor([k, (k + 1) % classes, k]), score) for k in range(classes)]
    params = spec.resolve_params({"counterfactual": True} if name == "gradcam" and kind == "mean" else {})
    many = explain_many(spec, run, targets, params)
    possible = score == "logit" and (name == "cam" or kind in ("mean", "one"))
    assert (many is not None) == possible
    for place, target in enumerate(targets) if many is not None else ():
        alone = explain_batch(spec, run, target, params)
        torch.testing.assert_close(many.values[place], alone.values, rtol=1e-4, atol=1e-6)
        assert many.facts == alone.facts


def report_of(out: Path, *options: str) -> dict[str, Any]:
    assert main(["gradcam", "sample_images/cat.jpg", "-o", str(out), "--overwrite", "--save", "none", *options]) == 0
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def test_all_classes_of_a_network_are_measured_on_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = report_of(tmp_path, "--class", "all")
    [image] = report["images"]
    assert image["figures_on"] == "cells"
    told = " ".join(capfd.readouterr().err.split())
    assert "figures of maps are of their cells, not of the photograph's pixels: there are 1000 maps of each" in told
    assert [each["target"]["class_index"] for each in image["explanations"]] == list(range(1000))
    # The raw figures are of the cells anyway; the box on cells holds the one on pixels but for a cell.
    best = image["predictions"][0]["class_index"]
    [alone] = report_of(tmp_path, "--class", str(best))["images"]
    assert "figures_on" not in alone
    one, other = image["explanations"][best]["scores"], alone["explanations"][0]["scores"]
    assert [one[key] for key in ("min", "max", "mean")] == pytest.approx([other[key] for key in ("min", "max", "mean")])
    cell = alone["seen_xywh"][2] / 7
    np.testing.assert_allclose(one["box_xywh"], other["box_xywh"], atol=2 * cell)
    np.testing.assert_allclose(one["peak"], other["peak"], atol=cell / 2 + 1)
    assert "maps; all are in the report" not in (tmp_path / "index.html").read_text()
    [pixels] = report_of(tmp_path, "--class", "all", "--metric", "map_statistics:on=pixels")["images"]
    assert "figures_on" not in pixels
    for key, value in pixels["explanations"][best]["scores"].items():
        assert value == pytest.approx(other[key], rel=1e-4), key
    page = (tmp_path / "index.html").read_text()
    assert page.count("the likeliest 20 of 1000 maps; all are in the report") == 1
    assert page.count("<figcaption>") == 20


def test_what_cannot_be_made_at_once_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two chunks of classes the second is refused: all are made one by one, and each is there once."""
    whole = [image["explanations"] for image in report_of(tmp_path, "--class", "top:18")["images"]]
    answers = iter([explain_many, lambda *_: None])
    monkeypatch.setattr(prepared_method, "_AT_ONCE", 10)
    monkeypatch.setattr(prepared_method, "explain_many", lambda *args: next(answers)(*args))
    [again] = [image["explanations"] for image in report_of(tmp_path, "--class", "top:18")["images"]]
    assert next(answers, None) is None
    assert [each["target"] for each in again] == [each["target"] for each in whole[0]]
    for one, other in zip(again, whole[0], strict=True):
        assert one["scores"]["max"] == pytest.approx(other["scores"]["max"], rel=1e-4)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_an_image_that_fails_leaves_the_others_one_batch(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its network knows no score of a grey image; the others get what they get without it, all classes at once."""
    rng = np.random.default_rng(0)
    for name in ("b", "c"):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    one_by_one: list[Any] = []
    alone = prepared_method.PreparedMethod._add_maps
    monkeypatch.setattr(
        prepared_method.PreparedMethod, "_add_maps", lambda *args: one_by_one.append(args) or alone(*args)
    )

    def images(out: str) -> list[dict[str, Any]]:
        model = ["-m", "tests.support.tiny_model:make_undefined_of_one_colour", "--batch-size", "3"]
        model += ["--input-size", "64", "--mean", "0.5", "--std", "0.25"]
        done = main([method, str(tmp_path), *model, "-c", "all", "--save", "none", "-o", str(tmp_path / out), "-q"])
        assert done == (3 if (tmp_path / "a.png").exists() else 0)
        found: list[dict[str, Any]] = json.loads((tmp_path / out / "report.json").read_text())["images"]
        return found

    without = images("without")
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "a.png")
    failed, *others = images("with")
    assert failed["error"]["type"] == "not-finite"
    assert [len(each["explanations"]) for each in others] == [30, 30]
    assert one_by_one == []
    for one, other in zip(others, without, strict=True):
        for got, want in zip(one["explanations"], other["explanations"], strict=True):
            assert got["target"] == want["target"]
            for key, value in want["scores"].items():
                assert got["scores"][key] == (value if value is None else pytest.approx(value, rel=1e-4)), key


def test_cells_are_refused_where_something_needs_the_pixels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cells = ["gradcam", "sample_images/cat.jpg", "-o", str(tmp_path), "--metric", "map_statistics:on=cells"]
    assert main(cells) == 2
    assert "--save heatmap,overlay needs the photograph's pixels" in capfd.readouterr().err
    assert main([*cells, "--save", "none", "--metric", "region_energy:regions=background"]) == 2
    assert "--metric region_energy needs" in capfd.readouterr().err
    assert main([*cells, "--save", "none", "-q"]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["images"][0]["figures_on"] == "cells"
