"""``--target``: classes and differences of classes from the command line, against plain autograd."""

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

MODEL = ["-m", f"{tiny_model.__file__}:make", "--input-size", "64", "--resize", "64"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        cells = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(np.kron(cells, np.ones((12, 12, 1), np.uint8))).save(folder / f"{number}.png")
    return folder


def run(photos: Path, out: Path, *words: str, command: str = "gradcam") -> list[dict[str, Any]]:
    assert app.main([command, str(photos), *MODEL, "--save", "raw,panel", "-o", str(out), "-q", *words]) in (0, 3)
    images: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["images"]
    return images


def gradcam(path: Path, first: int, second: int) -> np.ndarray[Any, Any]:
    network = tiny_model.make()
    model = cnnviz.load_model(f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)
    activations = network[:5](model.transform(Image.open(path))[None]).detach().requires_grad_()
    logits = network[5:](activations)[0]
    [gradient] = torch.autograd.grad(logits[first] - logits[second], activations)
    found = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).clamp_min(0)[0].detach()
    return found.numpy()


def test_the_contrast_of_finercam_is_a_class_as_any_other(photos: Path, tmp_path: Path) -> None:
    """By label or by index, from the command line and from Python."""
    (tmp_path / "labels.txt").write_text("lynx\npolar cat\ndog\nbird\nfish\n")
    named = ["--labels", str(tmp_path / "labels.txt"), "--variant", "finercam", "-c", "dog"]
    maps = []
    for number, word in enumerate(("bird", "3", "Bird")):
        out = tmp_path / f"out{number}"
        [row] = run(photos, out, *named, "--limit", "1", "--contrast-class", word)[0]["explanations"]
        assert row["scores"]["references"] == [3]
        with np.load(out / row["files"]["raw"]) as arrays:
            maps.append(arrays["raw"])
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])
    common = ["gradcam", str(photos), *MODEL, *named, "-o", str(tmp_path / "none"), "-q", "--contrast-class"]
    assert app.main([*common, "brid"]) == 2
    path = f"{tiny_model.__file__}:make"
    model = cnnviz.load_model(path, input_size=(3, 64, 64), resize=64, labels=str(tmp_path / "labels.txt"))
    batch = model.transform(Image.open(photos / "0.png"))[None]
    found = cnnviz.explain(model, batch, "finercam", target=2, contrast_class="bird")
    np.testing.assert_allclose(found.raw[0].numpy(), maps[0], rtol=1e-3, atol=1e-6)
    assert cnnviz.explain(model, batch, "finercam", target=2, contrast_class=3).scores["references"] == [[3]]


def test_differences_beside_classes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for record in run(photos, out, "-c", "3", "-t", "diff:1,4", "-t", "class:2", "-t", "diff:1,4", "-b", "3"):
        rows = record["explanations"]
        assert [row["target"].get("class_index", row["target"].get("spec")) for row in rows] == [3, 2, "diff:1,4"]
        target = rows[2]["target"]
        assert target["kind"] == "diff"
        assert target["label"] == "class 1 rather than class 4"
        assert target["score"] == pytest.approx(target["first"]["logit"] - target["second"]["logit"], abs=1e-5)
        with np.load(out / rows[2]["files"]["raw"]) as arrays:
            expected = gradcam(Path(record["path"]), 1, 4)
            np.testing.assert_allclose(arrays["raw"], expected, rtol=1e-3, atol=1e-6)


def test_the_predicted_class_compared_with_another(photos: Path, tmp_path: Path) -> None:
    records = run(photos, tmp_path / "out", "-t", "diff:pred,2", "-b", "4")
    assert any(record["explanations"] for record in records)
    for record in records:
        best = record["predictions"][0]["class_index"] if record["predictions"] else 2
        if best == 2:
            assert record["error"]["type"] == "no-target"
            continue
        [row] = record["explanations"]
        assert (row["target"]["first"]["class_index"], row["target"]["second"]["class_index"]) == (best, 2)
        with np.load(tmp_path / "out" / row["files"]["raw"]) as arrays:
            np.testing.assert_allclose(arrays["raw"], gradcam(Path(record["path"]), best, 2), rtol=1e-3, atol=1e-6)


def test_a_drop_of_the_difference(photos: Path, tmp_path: Path) -> None:
    words = ("--window", "32", "--stride", "32")
    both = run(photos, tmp_path / "a", "-t", "class:1", "-t", "class:4", *words, command="occlusion")
    one = run(photos, tmp_path / "b", "-t", "diff:1,4", *words, command="occlusion")
    for pair, alone in zip(both, one, strict=True):
        maps = []
        for folder, row in [
            *((tmp_path / "a", row) for row in pair["explanations"]),
            (tmp_path / "b", alone["explanations"][0]),
        ]:
            with np.load(folder / row["files"]["raw"]) as arrays:
                maps.append(arrays["raw"])
        np.testing.assert_allclose(maps[2], maps[0] - maps[1], rtol=1e-4, atol=1e-6)


def test_units_and_neurons_beside_classes(photos: Path, tmp_path: Path) -> None:
    """Against a forward pass and its gradients by hand; batches of three give what images give alone."""
    network = tiny_model.make()
    model = cnnviz.load_model(f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)
    specs = ("unit:4:2", "neuron:4:1:2:3", "unit:4:5/strongest", "diff:unit:4:2,unit:4:0")
    asked = ("-c", "3", *(word for spec in specs for word in ("-t", spec)))
    for record in run(photos, tmp_path / "out", *asked, "-b", "3", command="saliency"):
        pixels = model.transform(Image.open(record["path"]))[None].requires_grad_()
        maps = network[:5](pixels)
        scores = [maps[0, 2].sum(), maps[0, 1, 2, 3], maps[0, 5].amax(), maps[0, 2].sum() - maps[0, 0].sum()]
        assert [row["target"].get("kind", "class") for row in record["explanations"]] == [
            "class", "unit", "neuron", "unit", "diff"]  # fmt: skip
        for row, score in zip(record["explanations"][1:], scores, strict=True):
            assert row["target"]["score"] == pytest.approx(float(score.detach()), rel=1e-4)
            [gradient] = torch.autograd.grad(score, pixels, retain_graph=True)
            with np.load(tmp_path / "out" / row["files"]["raw"]) as arrays:
                np.testing.assert_allclose(arrays["raw"], gradient[0].numpy(), rtol=1e-3, atol=1e-6)
        unit, neuron, strongest = (record["explanations"][i]["target"] for i in (1, 2, 3))
        assert (unit["layer"], unit["index"], unit["reduction"]) == ("4", 2, "sum")
        assert (neuron["position"], neuron["reduction"]) == ([2, 3], None)
        assert strongest["reduction"] == "strongest"
        assert record["predictions"], "classes are predicted as ever"


MIXING = """
import torch
from torch import nn


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.side, self.out = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 4, 3), nn.Identity()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        a = self.stem(x).relu()
        side = self.side(a)
        return self.fc(a.mean((2, 3))), self.out(side - side.mean(0, keepdim=True) / 2)


def make():
    torch.manual_seed(0)
    return Mixing()
"""


def test_units_that_other_images_change(photos: Path, tmp_path: Path) -> None:
    """The class scores do not see it; an image gets what it gives alone."""
    source = tmp_path / "mixing.py"
    source.write_text(MIXING)
    network = cnnviz.load_model(f"{source}:make", input_size=(3, 64, 64), resize=64, weights=None)
    common = ["saliency", str(photos), "-m", f"{source}:make", "--weights", "none", "--input-size", "64"]
    common += ["--resize", "64", "--logits-key", "0", "-t", "unit:out:3", "-b", "4", "--save", "raw", "-q"]
    assert app.main([*common, "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model"]["checks"]["batch_independent"] is False
    for record in report["images"]:
        pixels = network.transform(Image.open(record["path"]))[None].requires_grad_()
        score = network.module(pixels)[1][:, 3].sum()
        [gradient] = torch.autograd.grad(score, pixels)
        [row] = record["explanations"]
        assert row["target"]["score"] == pytest.approx(float(score.detach()), rel=1e-3)
        with np.load(tmp_path / "out" / row["files"]["raw"]) as arrays:
            np.testing.assert_allclose(arrays["raw"], gradient[0].numpy(), rtol=1e-3, atol=1e-6)


def test_what_the_method_states_is_that_of_each_map(photos: Path, tmp_path: Path) -> None:
    """Below unit 2 of the second convolution there is one ReLU, below the classes there are two."""
    words = ("-c", "3", "-t", "unit:3:2", "--limit", "1")
    [record] = run(photos, tmp_path / "out", *words, command="guided")
    assert [sum(row["rectified"].values()) for row in record["explanations"]] == [2, 1]


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("gradcam", ("-t", "diff:1"), "expected diff:A,B with two classes"),
        ("gradcam", ("-t", "diff:1,1"), "both are the same class"),
        ("gradcam", ("-t", "class:1@box:1,1,9,9"), "a region such as @box is asked of a network with scores at posi"),
        ("gradcam", ("-c", "1@point:3,3"), "a region such as @point is asked of a network with scores at positions"),
        ("gradcam", ("-t", "@truth"), "a region such as @truth is asked of a network with scores at positions"),
        ("gradcam", ("-t", "dif:1,2"), "there is no kind of target 'dif'"),
        ("gradcam", ("-t", "diff:1,9"), "Class 9 does not exist"),
        ("gradcam", ("-t", "diff:1,2", "--view", "tiles"), "only classes are explained by tiles"),
        ("cam", ("-t", "diff:1,2"), "CAM explains the logit of a class"),
        ("embed", ("-t", "diff:1,2"), "No such option: -t"),
        ("gradcam", ("-t", "unit:4"), "expected unit:LAYER:K"),
        ("gradcam", ("-t", "unit:nowhere:4"), "The network has no layer 'nowhere'"),
        ("saliency", ("-t", "unit:4:99"), "Unit 99 does not exist"),
        ("saliency", ("-t", "neuron:4:0:99:0"), "there is none at row 99"),
        ("saliency", ("-t", "diff:1,unit:4:0"), "no common scale"),
        ("saliency", ("-t", "diff:unit:4:0,unit:4:0"), "both are the same unit"),
        ("saliency", ("-t", "unit:4:1", "--view", "tiles"), "only classes are explained by tiles"),
        ("gradcam", ("-t", "unit:4:1", "--sanity"), "compares maps of classes"),
        ("saliency", ("-t", "unit:4:1", "--score", "probability"), "a unit has no probability"),
        ("cam", ("-t", "unit:4:1"), "CAM explains the logit of a class"),
    ],
)
def test_what_cannot_be_asked(
    command: str, words: tuple[str, ...], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([command, str(photos), *MODEL, "-o", str(tmp_path / "out"), *words]) == 2
    assert message.lower() in " ".join(capsys.readouterr().err.split()).lower()
    assert not (tmp_path / "out").exists()


def test_a_label_that_begins_like_a_kind_of_target(photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("diffuser\ndiffractor\ntop\nclassroom\npred ator\n")
    words = ("-t", "diffuser", "--labels", str(labels), "--view", "tiles", "--limit", "1")
    [record] = run(photos, tmp_path / "out", *words)
    assert [row["target"]["class_index"] for row in record["explanations"]] == [0]


def test_classes_of_a_difference_may_be_written_out(photos: Path, tmp_path: Path) -> None:
    [record] = run(photos, tmp_path / "out", "-t", "diff:class:1,class:4", "--limit", "1")
    target = record["explanations"][0]["target"]
    assert (target["first"]["class_index"], target["second"]["class_index"]) == (1, 4)


@pytest.mark.parametrize(
    ("words", "layers", "precision", "told"),
    [
        (["-t", "unit:3:1"], ["2"], "fp32", True),
        (["-t", "unit:3:1", "-c", "2"], ["4", "2"], "bf16 (float32 for units)", False),
    ],
)
def test_the_report_names_layers_and_precision_of_what_was_explained(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    layers: list[str],
    precision: str,
    told: bool,
) -> None:
    """Units are explained in float32 below their own layer: a run of units alone has nothing to do with another."""
    out = tmp_path / "out"
    arguments = ["gradcam", str(photos), *MODEL, "--limit", "1", "-o", str(out), "--precision", "bf16", *words]
    assert app.main([*arguments, "--device", "cpu"]) == 0
    found = json.loads((out / "report.json").read_text())
    assert found["model"]["layers"] == layers
    assert {row["layer"] for row in found["images"][0]["explanations"]} == set(layers)
    assert found["environment"]["precision"] == precision
    assert ("units are explained in float32: --precision bf16 is not used" in capsys.readouterr().err) == told


def test_sizes_are_those_of_the_network_not_of_what_lies_below_a_unit() -> None:
    """A neuron in the last row is not there in a smaller image; the network takes it all the same."""
    network, image = tiny_model.make(), torch.randn(1, 3, 64, 64)
    of_class = cnnviz.explain(network, image, "occlusion", target=1).checks
    assert of_class["input_sizes"]["any"]
    rows, columns = network[:4](image).shape[2:]
    for target in (f"neuron:3:1:{rows - 1}:{columns - 1}", "unit:3:1"):
        checks = cnnviz.explain(network, image, "occlusion", target=target).checks
        assert checks["input_sizes"] is None
        assert "units are explained" in checks["not_run"]["input_sizes"]
