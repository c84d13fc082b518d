"""``cnnviz synthesize``: what it writes, reports and refuses; a grey network that is trained here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnviz import pipeline
from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.io.movies import encode_gif, encode_mp4, enlarged
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize
from cnnviz.registry import lookup
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from cnnviz.studies.synthesize.study import Synthesize
from cnnviz.synthesis.ascent import seed_of
from cnnviz.synthesis.objectives import Term, objective_text
from tests.support import digits
from tests.support.runs import ONE, TINY, Quiet, ran


def run(
    out: Path, classes: tuple[str, ...] = ("pred",), model: ModelSpec = TINY, inputs: tuple[Path, ...] = (),
    layers: tuple[str, ...] = (), **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The report; ``more`` are ``seed``, ``reporter`` and the command's own options."""
    asked: dict[str, Any] = {"classes": classes, "model": model, "layers": layers}
    asked.update(seed=more.pop("seed", 3), reporter=more.pop("reporter", None), params={"steps": 12, **more})
    report, result, _ = ran("synthesize", inputs, out, overwrite=True, **asked)
    assert result.exit_code == 0
    return report


STILL = {"jitter": 0, "rotate": 0.0, "zoom": 0.0, "noise": 0.0, "l2": 0.0, "tv": 0.0}
"""No views, no penalties: the score rises at every step of a network of random weights."""


def read(out: Path, name: str) -> NDArray[np.uint8]:
    return np.array(Image.open(out / name))


def test_the_report_is_that_of_the_file(tmp_path: Path) -> None:
    report = run(tmp_path, ("3",))
    [row] = report["synthesized"]
    picture = read(tmp_path, row["files"]["image"])
    assert picture.shape == (64, 64, 3)
    loaded = load(TINY)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    logits = loaded.module.eval()(normalize(pixels, loaded.preprocess)).detach()[0]
    assert row["score"] == pytest.approx(float(logits[3]), rel=1e-4, abs=1e-5)
    best = row["synthesized_predictions"][0]
    assert best["class_index"] == int(logits.argmax())
    assert best["probability"] == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)
    assert len(row["scores"]) == 12
    assert row["score"] > row["scores"][0]
    assert report["summary"]["images"] == 1
    assert report["summary"]["score"] == [pytest.approx(row["score"], abs=1e-4)]
    assert 'src="class_3.png"' in (tmp_path / "index.html").read_text()


def test_the_seed_decides(tmp_path: Path) -> None:
    one, two, other = (
        read(tmp_path, run(tmp_path, ("3",), seed=seed)["synthesized"][0]["files"]["image"]) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_objectives_add_and_subtract(tmp_path: Path) -> None:
    report = run(tmp_path, ("0",), unit=("0.5*3:2",), minus=("1", "2*3:4"), plus=("0.25*class:2",), layers=("1",))
    [row] = report["synthesized"]
    assert row["objective"] == "class 0 + 0.5*3:2 + layer 1 + 0.25*class 2 - class 1 - 2*3:4"
    pixels = torch.from_numpy(read(tmp_path, row["files"]["image"])).permute(2, 0, 1)[None]
    loaded = load(TINY)
    net, batch = loaded.module.eval(), normalize(pixels, loaded.preprocess)
    with torch.no_grad():
        logits, norm, conv = net(batch)[0], net[:2](batch)[0], net[:4](batch)[0]
        square = torch.where(norm > 0, norm**2, 0.01 * norm).mean()
        units = 0.5 * conv[2].mean() - 2 * conv[4].mean()
        expected = logits[0] + units + square + 0.25 * logits[2] - logits[1]
    assert row["score"] == pytest.approx(float(expected), rel=1e-3, abs=1e-4)


def test_each_objective_its_own_image(tmp_path: Path) -> None:
    report = run(tmp_path, ("1", "4"), unit=("3:2",), neuron=("-1:5:1:1",), each=True, **STILL)
    rows = report["synthesized"]
    assert [row["objective"] for row in rows] == ["class 1", "class 4", "3:2", "4:5:1:1"]
    assert all(row["score"] > row["scores"][0] for row in rows)
    files = [row["files"]["image"] for row in rows]
    assert files == ["class_1.png", "class_4.png", "3.2.png", "4.5.1.1.png"]
    assert set(report["files"]) == {*files, "sheet.png", "synthesized.jsonl"}


def test_several_images_differ(tmp_path: Path) -> None:
    report = run(tmp_path, ("1",), images=3)
    pictures = [read(tmp_path, row["files"]["image"]).astype(int) for row in report["synthesized"]]
    assert len(pictures) == 3
    assert min(np.abs(a - b).mean() for a in pictures for b in pictures if a is not b) > 3


def test_the_ascent_is_filmed_and_told(tmp_path: Path) -> None:
    told = Quiet()
    report = run(tmp_path, ("1",), gif=True, video=True, reporter=told)
    [row] = report["synthesized"]
    assert set(row["files"]) == {"image", "gif", "video"}
    with Image.open(tmp_path / row["files"]["gif"]) as film:
        assert film.n_frames == 12
        film.seek(11)
        last = np.array(film.convert("RGB")).astype(int)
    final = enlarged(read(tmp_path, row["files"]["image"])).astype(int)
    assert final.shape == last.shape == (128, 128, 3)
    assert np.abs(last - final).mean() < 12  # 256 colours
    film = cv2.VideoCapture(str(tmp_path / row["files"]["video"]))
    frames = []
    while (got := film.read())[0]:
        frames.append(got[1])
    film.release()
    assert len(frames) == 12 + 18
    assert np.abs(frames[-1][:, :, ::-1].astype(int) - final).mean() < 12
    progress = [text for text in told.said if "step" in text]
    assert not any("step" in text for text in told.notes)  # which are of the results
    assert progress[-1].startswith("step 12 of 12: score ")
    assert progress[-1].endswith(" of that step's view; that of the finished image follows")
    assert not any("finished" in text for text in progress[:-1])
    assert float(progress[-1].split("score ")[1].split()[0]) == pytest.approx(row["scores"][-1], abs=0.006)


def test_films_of_odd_sides_and_grey_levels() -> None:
    frames = [np.full((31, 45, 3), 20 * i, np.uint8) for i in range(5)]
    assert encode_gif(frames, 10)[:6] == b"GIF89a"
    assert b"ftyp" in encode_mp4(frames, 10)[:16]


def test_from_images_what_they_show_grows(tmp_path: Path, sample_images: Path) -> None:
    out = tmp_path / "out"
    report = run(out, inputs=(sample_images / "cat.jpg", sample_images / "rocket.jpg"), **STILL)
    assert [Path(row["path"]).name for row in report["images"]] == ["cat.jpg", "rocket.jpg"]
    for row in report["images"]:
        before, after = row["predictions"][0], row["synthesized_predictions"]
        same = next(score for score in after if score["class_index"] == before["class_index"])
        assert same["logit"] > before["logit"]
        assert row["objective"] == before["label"]
        assert row["score"] == pytest.approx(same["logit"], rel=1e-3)
        assert read(out, row["files"]["image"]).shape == (64, 64, 3)


def test_from_an_image_it_stays_that_image(tmp_path: Path, sample_images: Path) -> None:
    """One small step of pixels changes little: the start is what the network sees of the input."""
    out = tmp_path / "out"
    report = run(
        out, ("2",), inputs=(sample_images / "cat.jpg",), steps=1, rate=0.004, param="pixel", jitter=2, tv=0.0, l2=0.0
    )
    made = read(out, report["images"][0]["files"]["image"]).astype(int)
    from cnnviz.io.decode import decode
    from cnnviz.models.preprocess import prepare

    seen, _ = prepare(decode((sample_images / "cat.jpg").read_bytes()).rgb, load(TINY).preprocess)
    change = np.abs(made - seen.permute(1, 2, 0).numpy().astype(int))
    assert change.max() <= 2
    assert change.mean() > 0.2


def test_one_logit_has_two_classes(tmp_path: Path) -> None:
    rows = run(tmp_path, ("0", "1"), ONE, each=True, **STILL)["synthesized"]
    for index, row in enumerate(rows):
        said = {score["class_index"]: score for score in row["synthesized_predictions"]}
        assert row["score"] == pytest.approx(said[index]["logit"], rel=1e-4)
        assert said[0]["logit"] == pytest.approx(-said[1]["logit"])
        assert row["score"] > row["scores"][0]


def test_a_grey_network_is_sure_of_every_digit_that_is_made_for_it(tmp_path: Path) -> None:
    model = digits.trained(tmp_path)
    report = run(tmp_path / "out", tuple("0123456789"), model, each=True, steps=64)
    for digit, row in enumerate(report["synthesized"]):
        best = row["synthesized_predictions"][0]
        assert best["class_index"] == digit
        assert best["probability"] >= 0.9
        assert read(tmp_path / "out", row["files"]["image"]).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("classes", "params", "said"),
    [
        (("pred",), {}, "Nothing says what to maximise"),
        (("top:3",), {}, "--class top:3 needs images"),
        (("all",), {}, "--class all needs images"),
        (("9",), {}, "class 9 does not exist"),
        (("pred",), {"unit": ("3",)}, "expected LAYER:K"),
        (("pred",), {"unit": ("3:12",)}, "Unit 12 does not exist: layer 3 has 12"),
        (("pred",), {"neuron": ("3:1:8:0",)}, "8x8 positions"),
        (("pred",), {"unit": ("nowhere:1",)}, "no layer 'nowhere'"),
        (("1",), {"minus": ("nobody",)}, "no class is called 'nobody'"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, classes: tuple[str, ...], params: dict[str, Any], said: str
) -> None:
    with pytest.raises(CnnvizError, match=said.replace("[", r"\[")):
        run(tmp_path / "out", classes, **params)
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("params", [{"each": True}, {"images": 2}])
def test_images_from_images_are_one_each(tmp_path: Path, sample_images: Path, params: dict[str, Any]) -> None:
    with pytest.raises(CnnvizError, match="for images from noise"):
        run(tmp_path / "out", inputs=(sample_images / "cat.jpg",), **params)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["-m", TINY.model, "--input-size", "64", "--resize", "64", "--steps", "4", "-o", str(out)]
    assert app.main(["synthesize", "-c", "2", "--minus", "0.5*3:1", "--param", "pixel", *words]) == 0
    assert "step 4 of 4: score" in capsys.readouterr().err
    assert json.loads((out / "report.json").read_text())["synthesized"][0]["objective"] == "class 2 - 0.5*3:1"


def test_words_and_seeds() -> None:
    terms = (Term("class", 1, label="hen", weight=-1.0), Term("unit", 2, "a", label="a:2", weight=0.5))
    assert objective_text(terms) == "-hen + 0.5*a:2"
    assert len({seed_of(seed, row) for seed in range(20) for row in range(20)}) == 400


def test_images_that_do_not_fit_into_memory_are_made_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(tmp_path / "a", ("1", "2", "3"), each=True)["synthesized"]
    make = Synthesize._make

    def tight(self: Synthesize, rows: Any, start: Any, said: str) -> Any:
        if len(rows) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return make(self, rows, start, said)

    monkeypatch.setattr(Synthesize, "_make", tight)
    found = run(tmp_path / "b", ("1", "2", "3"), each=True)["synthesized"]
    assert [row["objective"] for row in found] == [row["objective"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], rel=1e-2)
    with pytest.raises(CnnvizError, match="Out of memory: 2 images at once"):
        run(tmp_path / "c", ("1",), images=2)


def test_a_network_that_cannot_be_traced(tmp_path: Path) -> None:
    path = tmp_path / "branching.py"
    path.write_text(
        "from tests.support.tiny_model import make as tiny\n"
        "from torch import nn\n\n\n"
        "class Branching(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = tiny()\n\n"
        "    def forward(self, x):\n"
        "        return self.body(x) if float(x.detach().sum()) < 1e30 else self.body(-x)\n\n\n"
        "def make():\n"
        "    return Branching().eval()\n"
    )
    model = ModelSpec(model=f"{path}:make", input_size=(3, 64, 64), resize=64)
    [row] = run(tmp_path / "out", ("1",), model, unit=("body.3:2",), **STILL)["synthesized"]
    assert row["objective"] == "class 1 + body.3:2"
    assert row["score"] > row["scores"][0]


# Cut short and continued.


def again(out: Path, reporter: Quiet, **changes: Any) -> tuple[int, dict[str, Any]]:
    settings = RunSettings(
        command="synthesize",
        inputs=(),
        model=TINY,
        target=TargetSettings(
            method="synthesize",
            params=lookup.find_entry("synthesize").resolve_params({"steps": 8, "each": True}).to_dict(),
            classes=("0", "1", "3"),
        ),
        runtime=RuntimeSettings(seed=3, batch_size=1),
        output=OutputSettings(out=str(out), **changes),
    )
    code = pipeline.run(settings, reporter).exit_code
    return code, json.loads((out / "report.json").read_text())


class Stopping(Quiet):
    """Presses Ctrl-C when the second image is half way."""

    def say(self, text: str) -> None:
        super().say(text)
        if "step 4 of 8" in text and sum("step 4 of 8" in each for each in self.said) == 2:
            raise KeyboardInterrupt


def test_an_interrupted_ascent_writes_what_it_has_and_is_continued(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _, expected = again(whole, Quiet())
    code, report = again(parts, Stopping())
    assert code == 130
    assert report["summary"]["interrupted"] is True
    first, second = report["synthesized"]
    assert first == expected["synthesized"][0]
    assert second["interrupted_at_step"] == 4
    np.testing.assert_array_equal(read(parts, first["files"]["image"]), read(whole, first["files"]["image"]))
    half = read(parts, second["files"]["image"])
    assert (half != read(whole, second["files"]["image"])).any()
    network = load(TINY)
    seen = torch.from_numpy(half).permute(2, 0, 1)[None]
    logits = network.module(normalize(seen, network.preprocess))[0]
    assert second["score"] == pytest.approx(float(logits[1]), rel=1e-4)
    told = Quiet()
    code, report = again(parts, told, resume=True)
    assert code == 0
    assert report["synthesized"] == expected["synthesized"]
    assert sum("step 8 of 8" in text for text in told.said) == 2  # of the second and the third
    written = {path.name: path.read_bytes() for path in whole.iterdir() if path.suffix in {".png", ".jsonl"}}
    assert {path.name: path.read_bytes() for path in parts.iterdir() if path.suffix in {".png", ".jsonl"}} == written
    assert report["files"] == expected["files"]


def test_overwrite_begins_again(tmp_path: Path) -> None:
    again(tmp_path, Stopping())
    told = Quiet()
    code, _ = again(tmp_path, told, overwrite=True)
    assert code == 0
    assert sum("step 8 of 8" in text for text in told.said) == 3
