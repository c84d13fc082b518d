"""Answers to a question about an image, against plain autograd in float64."""

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
from torch import Tensor

import cnnviz
from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from tests.support import tiny_writers

NETWORK = f"{tiny_writers.__file__}:answerer"
MODEL = ["-m", NETWORK, "--input-size", "64", "--resize", "64", "--mean", "0.5", "--std", "0.17"]
QUESTION = "is there a red shape"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, picture in enumerate(tiny_writers.pictures(3)):
        levels = ((picture * 0.17 + 0.5) * 255).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(folder / f"{number}.png")
    return folder


def pixels_of(path: str) -> Tensor:
    rgb = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None].float() / 255
    return (rgb - 0.5) / 0.17


def oracle(
    pixels: Tensor, weights: dict[int, float], question: str = QUESTION
) -> tuple[list[float], NDArray[np.float64]]:
    """The scores of the answers, and Grad-CAM of a sum of them at the encoder."""
    network = tiny_writers.answerer()
    asked = torch.tensor([network.encode(question)])
    network.double()
    cells = network.encoder(pixels.double()).detach().requires_grad_()
    scores = network.scores(torch.relu(cells).mean((2, 3)) * network.embedding(asked).mean(1))[0]
    [gradient] = torch.autograd.grad(sum(w * scores[k] for k, w in weights.items()), cells)
    found = (gradient.mean((2, 3), keepdim=True) * cells).sum(1).clamp_min(0)[0]
    return scores.tolist(), np.asarray(found.detach())


def raw(out: Path, row: dict[str, Any]) -> NDArray[np.float32]:
    with np.load(out / row["files"]["raw"]) as arrays:
        found: NDArray[np.float32] = arrays["raw"]
    return found


def run(photos: Path, out: Path, *words: str) -> dict[str, Any]:
    assert app.main(["gradcam", str(photos), *MODEL, "--save", "raw", "-o", str(out), "-q", *words]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_answers(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["answer:red", "answer:pred", "diff:answer:yes,answer:no"]
    report = run(photos, out, "--question", QUESTION, *(word for spec in asked for word in ("-t", spec)))
    assert report["options"]["question"] == QUESTION
    (tmp_path / "options.yaml").write_text(yaml.safe_dump({"target": asked, "question": QUESTION}))
    listed = run(photos, tmp_path / "listed", "--config", str(tmp_path / "options.yaml"))
    alive = 0
    for image, other in zip(report["images"], listed["images"], strict=True):
        assert [row["target"] for row in image["explanations"]] == [row["target"] for row in other["explanations"]]
        pixels = pixels_of(image["path"])
        scores, _ = oracle(pixels, {0: 1.0})
        best = int(np.argmax(scores))
        assert image["predictions"][0]["label"] == tiny_writers.answerer().answers[best]
        rows = {row["target"].get("label"): row for row in image["explanations"]}
        for index, label in {2: "red", best: image["predictions"][0]["label"]}.items():
            target = rows[label]["target"]
            assert (target["kind"], target["question"], target["class_index"]) == ("answer", QUESTION, index)
            assert target["logit"] == pytest.approx(scores[index], abs=1e-5)
            assert target["probability"] == pytest.approx(float(torch.tensor(scores).softmax(0)[index]), abs=1e-5)
            np.testing.assert_allclose(raw(out, rows[label]), oracle(pixels, {index: 1.0})[1], atol=1e-6)
            alive += bool(raw(out, rows[label]).any())
        difference = rows["yes rather than no"]
        assert difference["target"]["score"] == pytest.approx(scores[1] - scores[0], abs=1e-5)
        np.testing.assert_allclose(raw(out, difference), oracle(pixels, {1: 1.0, 0: -1.0})[1], atol=1e-6)
    assert alive >= 3


def test_another_question_is_another_score(photos: Path, tmp_path: Path) -> None:
    one = run(photos, tmp_path / "one", "--question", QUESTION, "-t", "answer:red")
    two = run(photos, tmp_path / "two", "--question", "what", "-t", "answer:red")
    assert one["model"]["weights_sha256"] == two["model"]["weights_sha256"]
    for image in two["images"]:
        scores, expected = oracle(pixels_of(image["path"]), {2: 1.0}, "what")
        [row] = image["explanations"]
        assert row["target"]["logit"] == pytest.approx(scores[2], abs=1e-5)
        np.testing.assert_allclose(raw(tmp_path / "two", row), expected, atol=1e-6)


def test_in_python() -> None:
    network, pixels = tiny_writers.answerer(), tiny_writers.pictures(3)
    found = cnnviz.explain(network, pixels, target="answer:red", question=QUESTION)
    for image in range(3):
        scores, expected = oracle(pixels[image : image + 1], {2: 1.0})
        np.testing.assert_allclose(found.logits[image].numpy(), scores, atol=1e-5)
        np.testing.assert_allclose(found.raw[image].numpy(), expected, atol=1e-6)
    model = cnnviz.load_model(NETWORK, question=QUESTION, input_size=(3, 64, 64))
    assert model.labels == ("no", "yes", "red", "blue")
    np.testing.assert_allclose(cnnviz.explain(model, pixels, target="answer:red").raw, found.raw, atol=1e-6)
    with pytest.raises(CnnvizError, match="--question"):
        cnnviz.explain(network, pixels)


def test_what_cannot_be_asked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gradcam", str(photos), *MODEL, "-o", str(tmp_path / "out")]
    plain = ["gradcam", str(photos), "-m", f"{Path(tiny_writers.__file__).parent / 'tiny_model.py'}:make"]
    plain += ["-o", str(tmp_path / "plain")]
    cases = (
        ([*words, "--question", QUESTION, "-t", "answer:rad"], "Did you mean red"),
        ([*words, "--question", QUESTION, "-t", "answer:purple"], "they are no, yes, red, blue"),
        ([*words, "--question", QUESTION, "-t", "answr:red"], "Did you mean answer"),
        ([*plain, "--input-size", "64", "-t", "answer:red"], "or FILE.py:function"),
        ([*words, "--question", ""], "expected token ids"),
        (words, "Ask it with --question"),
        ([*plain, "--input-size", "64", "--question", "what?"], "does not answer questions"),
        ([*plain, "--input-size", "64", "-t", "answer:red"], "answers questions (--question TEXT)"),
    )
    for line, message in cases:
        assert app.main(line) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert app.main(["targets", str(photos / "0.png"), *MODEL, "--question", QUESTION]) == 0
    assert "answer:red" in capsys.readouterr().out
