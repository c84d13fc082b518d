"""Words of a text under an image, against plain autograd in float64 with the text fed in."""

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

NETWORK = f"{tiny_writers.__file__}:writer"
MODEL = ["-m", NETWORK, "--input-size", "64", "--resize", "64", "--mean", "0.5", "--std", "0.17", "--task", "caption"]


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


def words_of(pixels: Tensor) -> list[tuple[int, int, str]]:
    """Step, token and word of what is no mark, by hand."""
    tokens = tiny_writers.writer().generate(pixels)[0].tolist()
    return [(t, k, tiny_writers.WORDS[k]) for t, k in enumerate(tokens) if not tiny_writers.WORDS[k].startswith("<")]


def oracle(pixels: Tensor, steps: list[int], score: str = "logit") -> tuple[float, NDArray[np.float64]]:
    """The score of some steps of the text under an image, and its Grad-CAM at the encoder."""
    network = tiny_writers.writer()
    tokens = network.generate(pixels)
    network.double()
    cells = network.encoder(pixels.double()).detach().requires_grad_()
    values = network.decoded(torch.relu(cells), tokens)[0]
    if score != "logit":
        values = values - values.exp().sum(1, keepdim=True).log()
    total = sum(values[step, tokens[0, step]] for step in steps)
    assert isinstance(total, Tensor)
    [gradient] = torch.autograd.grad(total, cells)
    found = (gradient.mean((2, 3), keepdim=True) * cells).sum(1).clamp_min(0)[0]
    return float(total.detach()), np.asarray(found.detach())


def run(photos: Path, out: Path, *words: str, command: str = "gradcam") -> dict[str, Any]:
    found = app.main([command, str(photos), *MODEL, "--save", "raw,words", "-o", str(out), "-q", *words])
    assert found in (0, 3)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def raw(out: Path, row: dict[str, Any]) -> NDArray[np.float32]:
    with np.load(out / row["files"]["raw"]) as arrays:
        found: NDArray[np.float32] = arrays["raw"]
    return found


@pytest.mark.parametrize("score", ["logit", "log-probability"])
def test_the_whole_text_and_each_word(photos: Path, tmp_path: Path, score: str) -> None:
    out = tmp_path / "out"
    report = run(photos, out, "--score", score)
    assert report["model"]["task"] == "caption"
    texts, alive = set(), 0
    for image in report["images"]:
        pixels = pixels_of(image["path"])
        words = words_of(pixels)
        text = " ".join(word for _, _, word in words)
        texts.add(text)
        assert image["text"] == text
        assert [(each["number"], each["label"]) for each in image["predictions"]] == [
            (number, word) for number, (_, _, word) in enumerate(words, start=1)
        ]
        whole, *each = image["explanations"]
        score_of_all, expected = oracle(pixels, [step for step, _, _ in words], score)
        assert (whole["target"]["kind"], whole["target"]["label"]) == ("caption", text)
        assert whole["target"]["elements"] == len(words)
        assert whole["target"]["score"] == pytest.approx(score_of_all, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(raw(out, whole), expected, atol=1e-5)
        assert len(each) == len(words)
        for number, (row, (step, token, word)) in enumerate(zip(each, words, strict=True), start=1):
            value, expected = oracle(pixels, [step], score)
            target = row["target"]
            assert (target["kind"], target["number"], target["token"], target["label"]) == (
                "token",
                number,
                token,
                word,
            )
            assert target["score"] == pytest.approx(value, rel=1e-4, abs=1e-4)
            assert target["probability"] == pytest.approx(np.exp(oracle(pixels, [step], "log")[0]), abs=1e-5)
            np.testing.assert_allclose(raw(out, row), expected, atol=1e-5)
            alive += bool(raw(out, row).any())
        with Image.open(out / whole["files"]["words"]) as picture:
            assert picture.size[0] > 500
    assert len(texts) > 1
    assert alive > 6


def test_words_by_number_and_by_name(photos: Path, tmp_path: Path) -> None:
    """From the command line and from YAML; the first time that a word occurs; one that does not is told."""
    (tmp_path / "options.yaml").write_text(yaml.safe_dump({"target": ["token:2", "token:cat", "diff:token:1,token:2"]}))
    typed = run(photos, tmp_path / "typed", "-t", "token:2", "-t", "token:CAT", "-t", "diff:token:1,token:2")
    listed = run(photos, tmp_path / "listed", "--config", str(tmp_path / "options.yaml"))
    found = 0
    for image, other in zip(typed["images"], listed["images"], strict=True):
        assert len(image["explanations"]) == len(other["explanations"])
        pixels = pixels_of(image["path"])
        words = words_of(pixels)
        second, *others = image["explanations"]
        np.testing.assert_allclose(raw(tmp_path / "typed", second), oracle(pixels, [words[1][0]])[1], atol=1e-5)
        places = [step for step, _, word in words if word == "cat"]
        if places:
            found += 1
            assert others[0]["target"]["label"] == "cat"
            np.testing.assert_allclose(raw(tmp_path / "typed", others[0]), oracle(pixels, places[:1])[1], atol=1e-5)
        else:
            reason = f"the text has no word cat: {image['text']}"
            assert {"spec": "token:CAT", "reason": reason} in image["unmatched"]
        difference = others[-1]["target"]
        assert difference["score"] == pytest.approx(
            oracle(pixels, [words[0][0]])[0] - oracle(pixels, [words[1][0]])[0], abs=1e-4
        )
    assert 0 < found < 3


def test_a_word_that_is_nowhere_is_a_row(photos: Path, tmp_path: Path) -> None:
    report = run(photos, tmp_path / "out", "-t", "token:9")
    assert [image["error"]["type"] for image in report["images"]] == ["no-target"] * 3
    assert "has only" in report["images"][0]["error"]["message"]


def test_the_text_stays_while_the_image_changes(photos: Path, tmp_path: Path) -> None:
    """Occlusion compares scores of the words that were written, whatever would be written under the changed image."""
    out = tmp_path / "out"
    words = ("-t", "token:1", "--window", "32", "--stride", "32")
    network, changed = tiny_writers.writer(), 0
    for image in run(photos, out, *words, command="occlusion")["images"]:
        pixels = pixels_of(image["path"])
        tokens = network.generate(pixels)
        step, token, _ = words_of(pixels)[0]
        drops = np.zeros((2, 2))
        with torch.no_grad():
            whole = network(pixels, tokens)[0, step, token]
            for row, column in np.ndindex(2, 2):
                hidden = pixels.clone()
                hidden[..., 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 0
                drops[row, column] = whole - network(hidden, tokens)[0, step, token]
                changed += not torch.equal(network.generate(hidden), tokens)
        np.testing.assert_allclose(raw(out, image["explanations"][0]), drops, atol=1e-4)
    assert changed


def test_in_python_each_image_has_its_own_text() -> None:
    network, pixels = tiny_writers.writer(), tiny_writers.pictures(3)
    network.train()
    found = cnnviz.explain(network, pixels, target="token:2", task="caption")
    assert network.training
    assert not hasattr(network, "given")
    for image in range(3):
        step, token, _ = words_of(pixels[image : image + 1])[1]
        assert int(found.target[image]) == token
        np.testing.assert_allclose(found.raw[image].numpy(), oracle(pixels[image : image + 1], [step])[1], atol=1e-5)
    with pytest.raises(CnnvizError, match="no word of a text"):
        cnnviz.explain(network, pixels, target=3, task="caption")
    with pytest.raises(CnnvizError, match="Say --task caption"):
        cnnviz.explain(network, pixels)


@pytest.mark.parametrize("method", ["lrp", "cam", "excitation_backprop", "fullgrad", "drise"])
def test_what_cannot_explain_a_word_says_why(method: str) -> None:
    with pytest.raises(CnnvizError) as refused:
        cnnviz.explain(tiny_writers.writer(), tiny_writers.pictures(1), method, target="token:1", task="caption")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-t", "token:catt"), "Did you mean cat"),
        (("-t", "token:padd"), "It has a, red, dog, cat, left, of, Tree."),
        (("-t", "token:<pad>"), "is a mark of the vocabulary and no word"),
        (("-t", "token:0"), "counted from 1"),
        (("-t", "cat"), "Did you mean token:cat"),
        (("-c", "cat"), "token:cat"),
        (("-t", "box:1"), "a detector"),
        (("-t", "diff:token:1,token:1"), "two words"),
        (("-t", "similar:x.png"), "similar:x.png"),
        (("-t", "token:1", "--sanity"), "maps of classes, not of words"),
    ],
)
def test_what_cannot_be_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert app.main(["gradcam", str(photos), *MODEL, "-o", str(tmp_path / "out"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_why_nothing_is_traced(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["gradcam", str(photos / "1.png"), *MODEL, "-o", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "is not traced (a trace would keep the text of one image): hooks are used" in said
    assert "tracing is off" not in said


def test_what_is_no_captioner(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for factory, message in (("misplaced", "are those of token t + 1"), ("answerer", "is no captioning network")):
        model = ["-m", f"{tiny_writers.__file__}:{factory}", *MODEL[2:]]
        assert app.main(["gradcam", str(photos), *model, "-o", str(tmp_path / "out")]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_words_are_listed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(photos / "1.png")
    assert app.main(["targets", path, *MODEL, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["targets"]
    words = words_of(pixels_of(path))
    assert [(row["target"], row["label"]) for row in rows] == [
        (f"token:{number}", word) for number, (_, _, word) in enumerate(words, start=1)
    ]
