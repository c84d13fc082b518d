"""Targets that are read of something else than the class scores: functions of the whole output, similarity, components.

The network is convolutions, a mean, and a linear layer, so that Grad-CAM of anything that is made of the mean vector v
is known: the weight of channel k is ds/dv_k over the number of cells.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

import cnnviz
from cnnviz.cli import app
from cnnviz.engine.vector_targets import SimilarityTarget
from cnnviz.errors import CnnvizError
from tests.support import tiny_model

NETWORK = f"{tiny_model.__file__}:make"
MODEL = ["-m", NETWORK, "--input-size", "64", "--resize", "64"]
Floats = NDArray[np.float64]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        cells = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(np.kron(cells, np.ones((12, 12, 1), np.uint8))).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "scores.py"
    file.write_text(
        "import torch\n"
        "def first(output): return output[:, 3] - 2 * output[:, 1]\n"
        "def second(output): return output.logsumexp(1)\n"
        "def wide(output): return output[:, :2]\n"
        "def apart(output): return output.detach()[:, 1]\n"
        "def raises(output): return output.nothing\n"
        "LIMIT = 3\n"
    )
    return file


def run(photos: Path, out: Path, *words: str, command: str = "gradcam") -> dict[str, Any]:
    found = app.main([command, str(photos), *MODEL, "--save", "raw,panel", "-o", str(out), "-q", *words])
    assert found in (0, 3)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def cells_of(path: Path) -> Floats:
    """What feeds the mean [C, h, w], in float64."""
    model = cnnviz.load_model(NETWORK, input_size=(3, 64, 64), resize=64)
    with torch.no_grad():
        found = tiny_model.make()[:5].double()(model.transform(Image.open(path))[None].double())[0]
    return np.asarray(found)


def cosine(v: Floats, r: Floats) -> tuple[float, Floats]:
    """The cosine of the angle between v and r, and its gradient by v, from their definition."""
    lengths = np.sqrt((v**2).sum()) * np.sqrt((r**2).sum())
    value = float((v * r).sum() / lengths)
    return value, r / lengths - value * v / (v**2).sum()


def gradcam(cells: Floats, gradient: Floats) -> Floats:
    """Of a score with this gradient by the mean over the cells."""
    weights = gradient / cells[0].size
    return np.asarray(np.maximum((weights[:, None, None] * cells).sum(0), 0))


def raw(out: Path, row: dict[str, Any]) -> NDArray[np.float32]:
    with np.load(out / row["files"]["raw"]) as arrays:
        found: NDArray[np.float32] = arrays["raw"]
    return found


def test_similarity_and_components(photos: Path, tmp_path: Path) -> None:
    other, third, out = photos / "1.png", photos / "2.png", tmp_path / "out"
    asked = [f"similar:{other}", f"diff:similar:{other},similar:{third}", "embedding:2", "diff:embedding:2,embedding:0"]
    report = run(photos, out, *(word for spec in asked for word in ("-t", spec)), "-t", "pred")
    assert set(report["option_files_sha256"]) == {str(other), str(third)}
    alive = 0
    for image in report["images"]:
        cells = cells_of(Path(image["path"]))
        v = cells.mean((1, 2))
        first, second = (cosine(v, cells_of(path).mean((1, 2))) for path in (other, third))
        unit = np.eye(len(v))
        wanted = [
            first, (first[0] - second[0], first[1] - second[1]), (v[2], unit[2]), (v[2] - v[0], unit[2] - unit[0])
        ]  # fmt: skip
        predicted, *rows = image["explanations"]
        assert "kind" not in predicted["target"]
        for row, spec, (score, gradient) in zip(rows, asked, wanted, strict=True):
            assert row["target"]["spec"] == spec
            assert row["target"]["score"] == pytest.approx(score, abs=1e-5)
            np.testing.assert_allclose(raw(out, row), gradcam(cells, gradient), atol=2e-6)
            alive += bool(raw(out, row).any())
        assert [row["target"]["kind"] for row in rows] == ["similar", "diff", "embedding", "diff"]
    assert alive >= 7
    itself = report["images"][1]["explanations"][1]
    assert itself["target"]["score"] == pytest.approx(1, abs=1e-6)
    assert itself["target"]["file"] == str(other)


def test_the_output_is_the_vector_where_the_task_says_so(photos: Path, tmp_path: Path) -> None:
    other, out = photos / "1.png", tmp_path / "out"
    report = run(photos, out, "--task", "embed", "-t", f"similar:{other}", "-t", "embedding:4")
    assert report["model"]["task"] == "embed"
    linear = tiny_model.make()[-1].double()
    weight, bias = np.asarray(linear.weight.detach()), np.asarray(linear.bias.detach())
    reference = weight @ cells_of(other).mean((1, 2)) + bias
    for image in report["images"]:
        assert image["predictions"] == []
        cells = cells_of(Path(image["path"]))
        vector = weight @ cells.mean((1, 2)) + bias
        score, gradient = cosine(vector, reference)
        first, second = image["explanations"]
        assert first["target"]["score"] == pytest.approx(score, abs=1e-5)
        np.testing.assert_allclose(raw(out, first), gradcam(cells, weight.T @ gradient), atol=2e-6)
        assert second["target"]["score"] == pytest.approx(vector[4], abs=1e-5)
        np.testing.assert_allclose(raw(out, second), gradcam(cells, weight[4]), atol=2e-6)


def test_what_is_hidden_changes_the_similarity(photos: Path, tmp_path: Path) -> None:
    """Occlusion watches the cosine, and its map has both signs."""
    other, out = photos / "1.png", tmp_path / "out"
    words = ("-t", f"similar:{other}", "--window", "32", "--stride", "32", "--limit", "1")
    [image] = run(photos, out, *words, command="occlusion")["images"]
    model = cnnviz.load_model(NETWORK, input_size=(3, 64, 64), resize=64)
    vector = tiny_model.make()[:-1]
    with torch.no_grad():
        pixels, reference = (model.transform(Image.open(path))[None] for path in (image["path"], other))
        against = vector(reference).flatten()
        whole = torch.cosine_similarity(vector(pixels).flatten(), against, dim=0)
        drops = torch.zeros(2, 2)
        for row in range(2):
            for column in range(2):
                hidden = pixels.clone()
                hidden[..., 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 0
                drops[row, column] = whole - torch.cosine_similarity(vector(hidden).flatten(), against, dim=0)
    np.testing.assert_allclose(raw(out, image["explanations"][0]), drops.numpy(), atol=1e-5)
    assert (drops > 0).any()
    assert (drops < 0).any()


def test_a_function_of_the_whole_output(photos: Path, code: Path, tmp_path: Path) -> None:
    """From the command line, from a YAML file and from Python, beside a class; and the difference of two."""
    asked = [f"{code}:first", f"diff:{code}:second,{code}:first"]
    (tmp_path / "options.yaml").write_text(yaml.safe_dump({"target": ["class:2", *asked]}))
    typed = run(photos, tmp_path / "typed", *(word for spec in ("class:2", *asked) for word in ("-t", spec)))
    listed = run(photos, tmp_path / "listed", "--config", str(tmp_path / "options.yaml"))
    assert list(typed["option_files_sha256"]) == [str(code)]
    assert typed["images"] == [
        {**row, "input": was["input"]} for row, was in zip(listed["images"], typed["images"], strict=True)
    ]
    network, weight = tiny_model.make(), np.asarray(tiny_model.make()[-1].weight.detach().double())
    model = cnnviz.load_model(NETWORK, input_size=(3, 64, 64), resize=64)
    for image in typed["images"]:
        pixels = model.transform(Image.open(image["path"]))[None]
        with torch.no_grad():
            logits = network(pixels).double()[0]
        gradients = [weight[3] - 2 * weight[1]]
        gradients.append(np.asarray(logits.softmax(0)) @ weight - gradients[0])
        score = float(logits[3] - 2 * logits[1])
        scores = [score, float(logits.logsumexp(0)) - score]
        for row, spec, gradient, value in zip(image["explanations"][1:], asked, gradients, scores, strict=True):
            assert (row["target"]["kind"], row["target"]["spec"]) == ("function", spec)
            assert row["target"]["score"] == pytest.approx(value, abs=1e-5)
            expected = gradcam(cells_of(Path(image["path"])), gradient)
            np.testing.assert_allclose(raw(tmp_path / "typed", row), expected, atol=2e-6)
            found = cnnviz.explain(model, pixels, target=spec)
            np.testing.assert_allclose(found.raw[0].numpy(), expected, atol=2e-6)


def test_another_function_is_another_run(
    photos: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(photos, tmp_path / "out", "-t", f"{code}:first")
    code.write_text(code.read_text().replace("output[:, 3]", "output[:, 4]"))
    words = ["gradcam", str(photos), *MODEL, "--save", "raw,panel", "-o", str(tmp_path / "out"), "-q", "--resume"]
    assert app.main([*words, "-t", f"{code}:first"]) == 2
    assert str(code) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{code}:wide", "returned [1, 2]; expected one score an image, shape [1]"),
        ("{code}:apart", "does not depend on the network's output"),
        ("{code}:raises", "raises raised AttributeError"),
        ("{code}:furst", "Did you mean first"),
        ("{code}:LIMIT", "is int, not a function"),
        ("{folder}/score.py:first", "Did you mean scores.py"),
        ("no.such.module:first", "importing no.such.module raised ModuleNotFoundError"),
        ("diff:{code}:first,class:1", "a class and a function have no common scale"),
        ("diff:{code}:first,{code}:first", "both are the same function"),
        ("similar:{folder}/none.png", "there is no such picture"),
        ("similar:{folder}/in/5.pgn", "There are {folder}/in/"),
        ("similar:{folder}/in/nothing-like-it", "There are {folder}/in/"),
        ("similar:{folder}/nowhere/5.png", "nowhere' does not exist"),
        ("similar:{code}", "similar:"),
        ("similar:", "names no picture"),
        ("embedding:9999", "the vector has"),
        ("embedding:x", "expected embedding:K"),
        ("diff:embedding:1,unit:4:1", "a component and a unit have no common scale"),
    ],
)
def test_what_cannot_be_asked(
    photos: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: str, message: str
) -> None:
    spec = spec.format(code=code, folder=tmp_path)
    assert app.main(["gradcam", str(photos), *MODEL, "-o", str(tmp_path / "out"), "-t", spec]) == 2
    assert message.format(code=code, folder=tmp_path) in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_vector_alone_says_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gradcam", str(photos), *MODEL, "--task", "embed", "-o", str(tmp_path / "out")]
    for more, message in (([], "nothing was asked for"), (["-c", "1"], "no classes"), (["-t", "output:1"], "regress")):
        assert app.main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert app.main(["targets", str(photos / "0.png"), *MODEL, "--task", "embed", "--top", "2"]) == 0
    assert "embedding:" in capsys.readouterr().out


def test_a_vector_of_ones_own(photos: Path) -> None:
    """In Python without files: a module, whose inputs nobody knows how to make, takes the vector itself."""
    network, pixels = tiny_model.make(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        vectors = network[:-1](pixels).flatten(1)
    found = cnnviz.explain(network, pixels, target=SimilarityTarget(vectors.flip(0)))
    for image in range(2):
        with torch.no_grad():
            cells = np.asarray(network[:5](pixels[image : image + 1])[0].double())
        _, gradient = cosine(cells.mean((1, 2)), np.asarray(vectors[1 - image].double()))
        np.testing.assert_allclose(found.raw[image].numpy(), gradcam(cells, gradient), atol=2e-6)
    with pytest.raises(CnnvizError, match="nobody knows how a file becomes an input"):
        cnnviz.explain(network, pixels, target=f"similar:{photos / '0.png'}")


def test_a_lower_precision_is_compared_where_something_else_is_read() -> None:
    """The map of a probe is one of what is read: of a component, and of a class in a region."""
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    dense = torch.nn.Sequential(*tiny_model.make()[:5], torch.nn.Conv2d(12, 4, 1))
    for network, target in ((tiny_model.make(), "embedding:2"), (dense, "class:1@all")):
        exact = cnnviz.explain(network, pixels, "saliency", target=target)
        lower = cnnviz.explain(network, pixels, "saliency", target=target, precision="bf16")
        assert 0.5 < lower.checks["precision_agreement"] <= 1
        both = torch.stack([exact.raw.flatten(), lower.raw.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.9
