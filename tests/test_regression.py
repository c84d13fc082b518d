"""``--task regress``: outputs that are numbers, against plain autograd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnnviz
from cnnviz.cli import app
from tests.support import tiny_model

NETWORK = f"{tiny_model.__file__}:make"
MODEL = ["-m", NETWORK, "--input-size", "64", "--resize", "64", "--task", "regress"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path / "in" / "old"
    folder.mkdir(parents=True)
    for number in range(3):
        cells = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(np.kron(cells, np.ones((12, 12, 1), np.uint8))).save(folder / f"{number}.png")
    return folder.parent


def run(photos: Path, out: Path, *words: str, command: str = "gradcam") -> dict[str, Any]:
    found = app.main([command, str(photos), *MODEL, "--save", "raw,panel", "-o", str(out), "-q", *words])
    assert found in (0, 3)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app.main([*words, "-q"]) == 2
    return capsys.readouterr().err


def outputs(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The activations behind the second convolution, with the values that they give."""
    network = tiny_model.make()
    model = cnnviz.load_model(NETWORK, input_size=(3, 64, 64), resize=64)
    activations = network[:5](model.transform(Image.open(path))[None]).detach().requires_grad_()
    return activations, network[5:](activations)[0]


def gradcam(path: Path, weights: dict[int, float]) -> np.ndarray[Any, Any]:
    activations, values = outputs(path)
    [gradient] = torch.autograd.grad(sum(w * values[k] for k, w in weights.items()), activations)
    found = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).clamp_min(0)[0].detach()
    return found.numpy()


def test_maps_are_of_the_output_its_negative_and_the_difference(photos: Path, tmp_path: Path) -> None:
    asked = {"output:1": {1: 1.0}, "-output:1": {1: -1.0}, "diff:output:2,output:4": {2: 1.0, 4: -1.0}}
    report = run(photos, tmp_path / "out", *(word for spec in asked for word in ("-t", spec)))
    assert report["model"]["task"] == "regress"
    alive = 0
    for image in report["images"]:
        path = Path(image["path"])
        values = outputs(path)[1].tolist()
        assert [row["logit"] for row in image["predictions"]] == pytest.approx(values, abs=1e-5)
        assert [row["probability"] for row in image["predictions"]] == [None] * 5
        assert image.get("label") is None
        for row, (spec, weights) in zip(image["explanations"], asked.items(), strict=True):
            assert row["target"]["spec"] == spec
            assert row["target"]["score"] == pytest.approx(sum(w * values[k] for k, w in weights.items()), abs=1e-5)
            with np.load(tmp_path / "out" / row["files"]["raw"]) as arrays:
                np.testing.assert_allclose(arrays["raw"], gradcam(path, weights), atol=1e-6)
                alive += bool(arrays["raw"].any())
    assert alive >= 6


def test_names_are_those_of_labels_and_one_output_needs_no_target(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("age\nheight\nweight\nx\ny\n")
    report = run(photos, tmp_path / "named", "--labels", str(tmp_path / "names.txt"), "-t", "-output:weight")
    [row] = report["images"][0]["explanations"]
    assert (row["target"]["label"], row["target"]["class_index"], row["target"]["sign"]) == ("less weight", 2, -1)
    assert [each["label"] for each in report["images"][0]["predictions"]] == ["age", "height", "weight", "x", "y"]
    single = tmp_path / "single.py"
    single.write_text("from tests.support.tiny_model import make as five\n\ndef make():\n    return five(1)\n")
    report = run(photos, tmp_path / "one", "-m", f"{single}:make")
    image = report["images"][0]
    assert [each["label"] for each in image["predictions"]] == ["output 0"]  # of a class score there are two classes
    assert image["explanations"][0]["target"]["spec"] == "output:0"


@pytest.mark.parametrize("method", ["saliency", "occlusion", "lrp"])
def test_other_methods_follow_the_sign(photos: Path, tmp_path: Path, method: str) -> None:
    report = run(photos, tmp_path / method, "-t", "output:3", "-t", "-output:3", "--limit", "1", command=method)
    arrays = []
    for row in report["images"][0]["explanations"]:
        with np.load(tmp_path / method / row["files"]["raw"]) as file:
            arrays.append(file["raw"])
    up, down = arrays
    assert np.abs(up).max() > 0
    np.testing.assert_allclose(up, -down, atol=1e-6)


def test_python_takes_the_same_words(photos: Path) -> None:
    path = next(iter(sorted((photos / "old").iterdir())))
    model = cnnviz.load_model(NETWORK, input_size=(3, 64, 64), resize=64)
    batch = model.transform(Image.open(path))[None]
    found = cnnviz.explain(tiny_model.make(), batch, method="gradcam", target="-output:2", layer="4")
    np.testing.assert_allclose(found.raw[0], gradcam(path, {2: -1.0}), atol=1e-6)
    with pytest.raises(cnnviz.CnnvizError, match="index of an output"):
        cnnviz.explain(tiny_model.make(), batch, method="gradcam", target="output:age", layer="4")


def test_the_list_of_targets_has_values(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted((photos / "old").iterdir())[0]
    assert app.main(["targets", str(path), *MODEL, "-q"]) == 0
    said = capsys.readouterr().out
    values = outputs(path)[1].tolist()
    for index, value in enumerate(values):
        assert f"output:{index}" in said
        assert f"{value:.4g}" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "5 outputs, and none was asked for"),
        (["-t=-output:1"], "there is no output '=-output:1'"),
        (["-t", "output:5"], "there is no output '5'"),
        (["-t", "diff:1,1"], "the same output"),
        (["-t", "diff:1"], "expected diff:A,B"),
        (["-t", "segment:1"], "segment"),
        (["-t", "output:1", "--score", "probability"], "no probability"),
        (["-t", "output:1", "--only", "correct"], "--only correct"),
        (["-c", "2"], "no classes"),
        (["-t", "output:1", "--view", "tiles"], "tiles"),
    ],
)
def test_what_a_regression_cannot_be_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert why in refused(capsys, "gradcam", str(photos), *MODEL, "-o", str(tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_studies_and_classifiers_refuse(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "out")]
    assert "--task regress is explained by maps" in refused(capsys, "dream", str(photos), *MODEL, *out)
    said = refused(capsys, "gradcam", str(photos), *MODEL[:-1], "classify", "-t", "output:1", *out)
    assert "--task regress" in said
