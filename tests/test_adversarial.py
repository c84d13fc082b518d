"""``cnnviz adversarial``: what is written is read again and fools the network; records, curve, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import LoadedModel, load
from cnnviz.models.preprocess import normalize, override, prepare
from cnnviz.render.comparison import Cell, Point, accuracy_curve, comparison, noise_picture
from cnnviz.settings import ModelSpec
from cnnviz.studies.adversarial import study as adversarial
from cnnviz.studies.adversarial.tally import Outcome, Robustness, Tally
from tests.support import digits, tiny_model
from tests.support.pictures import photograph
from tests.support.runs import TINY, Quiet, ran, tiny_options

BUNDLED = ModelSpec()
NONE = {"curve": "none"}
DIGITS = 32


def run(inputs: Path | list[Path], out: Path, **more: Any) -> tuple[dict[str, Any], Quiet]:
    """The report, and what was told."""
    batch, names = more.pop("batch", 3), inputs if isinstance(inputs, list) else [inputs]
    report, _, told = ran("adversarial", names, out, device="cpu", batch_size=batch, workers=2, **more)
    return report, told


def read_again(inputs: list[Path], out: Path, model: ModelSpec) -> list[dict[str, Any]]:
    """First predictions of files by another command, in another session."""
    report, _, _ = ran("gradcam", inputs, out, model=model, device="cpu")
    return [row["predictions"][0] for row in report["images"]]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    for seed in range(5):
        Image.fromarray(photograph(seed, (90 + 7 * seed, 70))).save(root / f"{seed}.png")
    return root


# The bundled network, real pictures


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    return load(BUNDLED)


@pytest.mark.parametrize(("attack", "at"), [("pgd", "image"), ("deepfool", "input")])
def test_the_written_file_read_again_still_fools_the_network(
    bundled: LoadedModel, sample_images: Path, tmp_path: Path, attack: str, at: str
) -> None:
    inputs = [sample_images / "cat.jpg", sample_images / "rocket.jpg"]
    report, _ = run(inputs, tmp_path, model=BUNDLED, params={"attack": attack, "at": at, **NONE})
    assert [row["read_with"] for row in report["images"]] == ["" if at == "image" else "--view squash"] * 2
    spec = override(bundled.preprocess, view="squash" if at == "input" else None)
    for row in report["images"]:
        after = pixels(tmp_path / row["files"]["adversarial"])
        assert after.shape == (pixels(Path(row["path"])).shape if at == "image" else (224, 224, 3))
        with torch.no_grad():
            said = bundled.module(normalize(prepare(after, spec)[0][None], spec)).softmax(dim=1)[0]
        best = row["adversarial_predictions"][0]
        assert row["success"] is True
        assert int(said.argmax()) == best["class_index"] != row["predictions"][0]["class_index"]
        assert best["probability"] == pytest.approx(float(said.max()), abs=1e-3)
        assert row["steps"] >= 1


def test_a_class_is_reached_and_explained_and_another_command_says_so(sample_images: Path, tmp_path: Path) -> None:
    params = {"target_class": "goldfish", "epsilon": "6/255", "explain": "gradcam"}
    report, _ = run(sample_images / "espresso.jpg", tmp_path / "a", model=BUNDLED, params=params)
    [row] = report["images"]
    assert row["to"] == row["adversarial_predictions"][0]["label"] == "goldfish"
    assert row["success"] is True
    [said] = read_again([tmp_path / "a" / row["files"]["adversarial"]], tmp_path / "b", BUNDLED)
    assert said["label"] == "goldfish"
    assert row["linf"] <= 6 / 255 + 1e-9
    assert "goal_not_reached" not in report["summary"]["adversarial"]  # of one image
    height, width = pixels(tmp_path / "a" / row["files"]["figure"]).shape[:2]
    assert height > 0.5 * width  # two rows of three


# Records against the files


@pytest.mark.parametrize("at", ["image", "input"])
@pytest.mark.parametrize("attack", ["fgsm", "ifgsm", "pgd", "deepfool", "cw"])
def test_norms_predictions_and_noise_are_those_of_the_files(
    photographs: Path, tmp_path: Path, attack: str, at: str
) -> None:
    params = {"attack": attack, "at": at, "steps": None if attack != "cw" else 20, "amplify": 4.0, **NONE}
    if attack not in ("deepfool", "cw"):
        params["epsilon"] = "24/255"
    report, _ = run(photographs, tmp_path, params=params)
    module, spec = tiny_model.make(), load(TINY).preprocess
    fooled = 0
    for row in report["images"]:
        clean, after = pixels(Path(row["path"])), pixels(tmp_path / row["files"]["adversarial"])
        if at == "input":
            clean = prepare(clean, spec)[0].permute(1, 2, 0).numpy()
        moved = after.astype(float) - clean
        assert row["linf"] == pytest.approx(np.abs(moved).max() / 255, abs=1e-12)
        assert row["l2"] == pytest.approx(np.sqrt((moved**2).sum()) / 255, rel=1e-9)
        if "epsilon" in params:
            assert row["linf"] <= 24 / 255 + 1e-12
        noise = pixels(tmp_path / row["files"]["noise"]).astype(float)
        np.testing.assert_array_equal(noise, np.clip(128 + 4 * moved, 0, 255))
        with torch.no_grad():
            said = module(normalize(prepare(after, spec)[0][None], spec)).softmax(dim=1)[0]
        best = row["adversarial_predictions"][0]
        assert best["class_index"] == int(said.argmax())
        assert best["probability"] == pytest.approx(float(said.max()), abs=1e-4)
        assert row["success"] == (best["class_index"] != row["predictions"][0]["class_index"])
        fooled += row["success"]
    summary = report["summary"]["adversarial"]
    assert (summary["attacked"], summary["fooled"]) == (5, fooled)
    assert fooled >= 1


@pytest.mark.parametrize("at", ["image", "input"])
def test_batches_do_not_matter_and_the_seed_does(photographs: Path, tmp_path: Path, at: str) -> None:
    def files(name: str, **more: Any) -> list[np.ndarray]:
        report, _ = run(photographs, tmp_path / name, params={"at": at, **NONE}, **more)
        return [pixels(tmp_path / name / row["files"]["adversarial"]).astype(int) for row in report["images"]]

    ones, all_, other = files("1", batch=1), files("5", batch=5), files("s", batch=5, seed=1)
    for one, many, seeded in zip(ones, all_, other, strict=True):
        # The sign of a gradient that is nearly zero may turn with the order of a sum.
        assert (one != many).mean() < 1e-3
        assert (one != seeded).mean() > 0.05


def test_one_logit_is_two_classes(photographs: Path, tmp_path: Path) -> None:
    model = ModelSpec(model=TINY.model.replace(":make", ":make_one_logit"), input_size=(3, 64, 64), resize=64)
    report, _ = run(photographs, tmp_path, model=model, params={"epsilon": "60/255", "steps": 20, **NONE})
    for row in report["images"]:
        before, after = row["predictions"][0], row["adversarial_predictions"][0]
        assert row["success"] == (before["class_index"] != after["class_index"])
    assert report["summary"]["adversarial"]["fooled"] >= 1


def test_a_picture_that_is_too_large_fails_alone(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversarial, "_LARGE", 100)
    monkeypatch.setattr(adversarial, "_LARGEST", 70 * 100)
    report, _ = run(photographs, tmp_path / "a", params=NONE)
    kinds = [row["error"] and row["error"]["type"] for row in report["images"]]
    assert kinds == [None, None, "too-large", "too-large", "too-large"]
    assert "--at input" in report["images"][2]["error"]["message"]
    report, _ = run(photographs, tmp_path / "b", params={"at": "input", **NONE})
    assert all(row["error"] is None for row in report["images"])


@pytest.mark.parametrize("method", ["gradcam", "saliency", "guided", "occlusion"])
@pytest.mark.parametrize("at", ["image", "input"])
def test_methods_of_every_space_explain(photographs: Path, tmp_path: Path, method: str, at: str) -> None:
    report, _ = run(photographs / "3.png", tmp_path, params={"explain": method, "at": at})
    [row] = report["images"]
    height, width = pixels(tmp_path / row["files"]["figure"]).shape[:2]
    assert row["error"] is None
    assert height > 0.5 * width


def test_images_that_are_there_already_are_not_counted(photographs: Path, tmp_path: Path) -> None:
    clean, _ = run(photographs, tmp_path / "a", params=NONE)
    label = clean["images"][0]["predictions"][0]["label"]
    there = sum(row["predictions"][0]["label"] == label for row in clean["images"])
    report, _ = run(photographs, tmp_path / "b", params={"target_class": label, "curve": "0,8"})
    summary = report["summary"]["adversarial"]
    assert (summary["already"], summary["attacked"]) == (there, 5 - there)
    first = report["images"][0]
    assert (first["already"], first["success"], first["steps"], first["l2"]) == (True, True, 0, 0.0)
    more = {"model": TINY, "params": {"target_class": label}}
    report, result, _ = ran("adversarial", [Path(first["path"])], tmp_path / "c", **more)
    assert report["summary"]["adversarial"]["attacked"] == 0
    assert result.exit_code == 3, "there was nothing to measure"
    assert result.sentences == (
        f"nothing was measured: the network takes every image for {label} already: --target-class takes another class",
    )
    assert result.sentences == (f"nothing was measured: {report['summary']['unmeasured']}",)
    assert np.array_equal(pixels(Path(first["path"])), pixels(tmp_path / "b" / first["files"]["adversarial"]))


# A grey network of one channel, with labels, and the curve


@pytest.fixture(scope="module")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec]:
    base = tmp_path_factory.mktemp("digits")
    return digits.write(base / "images", DIGITS), digits.trained(base)


@pytest.mark.parametrize(("at", "attack"), [("image", "pgd"), ("input", "pgd"), ("input", "deepfool")])
def test_digits_fool_a_grey_network_when_they_are_read_again(
    digit_folder: tuple[Path, ModelSpec], tmp_path: Path, at: str, attack: str
) -> None:
    folder, model = digit_folder
    params = {"at": at, "attack": attack, **({"epsilon": "0.25", "steps": 20} if attack == "pgd" else {})}
    report, _ = run(folder, tmp_path / "a", model=model, batch=16, classes=("folder",), params=params)
    rows = report["images"]
    assert {row["read_with"] for row in rows} == {""}  # a file of 8 x 8 pixels is seen as it is
    files = [tmp_path / "a" / row["files"]["adversarial"] for row in rows]
    for row, said in zip(rows, read_again(files, tmp_path / "b", model), strict=True):
        assert (said["class_index"] != row["predictions"][0]["class_index"]) == row["success"]
        seen = pixels(tmp_path / "a" / row["files"]["adversarial"])
        assert np.array_equal(seen[:, :, 0], seen[:, :, 1])  # still grey
    summary = report["summary"]["adversarial"]
    assert summary["success_rate"] > 0.9
    assert summary["labelled"] == DIGITS
    curve = summary["robust_accuracy"]
    right = sum(row["predictions"][0]["label"].endswith(row["label"]) for row in rows)
    assert curve[0]["epsilon"] == 0
    assert curve[0]["value"] == right / DIGITS
    values = [point["value"] for point in curve]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    assert (tmp_path / "a" / "robustness.png").exists()
    assert "robustness.png" in (tmp_path / "a" / "index.html").read_text()


def test_the_curve_is_that_of_single_runs(digit_folder: tuple[Path, ModelSpec], tmp_path: Path) -> None:
    """At whole levels the rounded attack of a run and the curve's are the same for digits of 8 bits."""
    folder, model = digit_folder
    values = []
    for level in (8, 32):
        params = {"at": "input", "attack": "fgsm", "epsilon": f"{level}/255", "curve": "8,32"}
        report, _ = run(folder, tmp_path / str(level), model=model, batch=16, params=params)
        summary = report["summary"]["adversarial"]
        values.append(1 - summary["success_rate"])
    curve = [point["value"] for point in summary["prediction_unchanged"]]
    # An image that falls at 8 stays fallen in the curve; success needs a margin. Both are rare.
    assert curve[0] == pytest.approx(values[0], abs=1 / DIGITS)
    assert curve[1] == pytest.approx(values[1], abs=2 / DIGITS)
    assert curve[1] < curve[0] < 1


# What is refused


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"target_class": "no such thing"}, "no such thing"),
        ({"epsilon": "8"}, "8/255"),
        ({"curve": "a"}, "--curve"),
        ({"explain": "nomethod"}, "nomethod"),
        ({"attack": "cw", "epsilon": "8/255"}, "--epsilon"),
    ],
)
def test_requests_that_cannot_be_met_fail_before_anything_is_written(
    photographs: Path, tmp_path: Path, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(CnnvizError) as error:
        run(photographs, tmp_path / "out", params=params)
    assert words in f"{error.value} {error.value.hint}"
    out = tmp_path / "out"
    assert not out.exists() or not list(out.iterdir())


def test_a_class_to_explain_is_refused_with_the_option_that_is_meant(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(CnnvizError, match="--class 3") as error:
        run(photographs, tmp_path, classes=("3",))
    assert "--target-class 3" in str(error.value.hint)


def test_the_command_line_has_the_options(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adversarial", str(photographs / "0.png"), "-o", str(tmp_path / "o"), "--model", TINY.model]
    words += ["--input-size", "64", "--resize", "64", "--attack", "ifgsm", "--epsilon", "0.05", "--step-size", "2/255"]
    assert app.main([*words, "--target-class", "2", "--amplify", "3", "--at", "input", "--curve", "0,1", "-q"]) == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["options"]["epsilon"] == "0.05"
    assert report["summary"]["adversarial"]["epsilon"] == 0.05


# Pictures


def test_noise_is_centred_on_grey_and_cut_off() -> None:
    clean = np.full((1, 5, 3), 100, np.uint8)
    after = clean.copy()
    after[0, 1:, 0] = [101, 99, 200, 0]
    assert noise_picture(clean, after, 10.0)[0, :, 0].tolist() == [128, 138, 118, 255, 0]
    assert noise_picture(clean, after, 10.0)[0, :, 1].tolist() == [128] * 5


def test_the_figure_has_the_pictures_and_the_curve_its_points() -> None:
    red, blue = (np.full((300, 300, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    figure = comparison([[Cell("a", red, "x", "y"), Cell("b", blue)], [None, Cell("c", red)]], "title")
    assert (figure == (200, 0, 0)).all(axis=2).sum() == 2 * 300 * 300
    assert (figure == (0, 0, 200)).all(axis=2).sum() == 300 * 300
    high, low = (accuracy_curve([Point(0, 1, (0.9, 1), "0"), Point(1, v, (v, v), "1")], "t", "e") for v in (0.9, 0.1))
    line = [np.flatnonzero((plot[:, -60:-44] == (66, 105, 208)).all(axis=2).any(axis=1)).mean() for plot in (high, low)]
    assert line[1] - line[0] == pytest.approx(0.8 * 380, abs=15)


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "deepfool", "cw"])
def test_a_zero_gradient_is_no_robustness(
    attack: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [] if attack == "fgsm" else ["--steps", "5"]
    words = [*tiny_options("make_rounding"), *few, "-o", str(tmp_path / "o"), "--limit", "2"]
    assert app.main(["adversarial", str(photographs), "--attack", attack, *words]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    found = report["summary"]["adversarial"]
    assert (found["attacked"], found["fooled"], found["zero_gradient"]) == (2, 0, 2)
    assert not {"robust_accuracy", "prediction_unchanged"} & found.keys()
    assert [row["gradient_is_zero"] for row in report["images"]] == [True, True]
    assert "the gradient is zero at 2 of 2 images: this says nothing about robustness" in capsys.readouterr().err


def test_images_without_a_gradient_are_left_out_of_the_curve() -> None:
    tally = Tally((0.01, 0.02))
    for falls, blind in ((0, False), (2, False), (2, True)):
        tally.add(Outcome(falls == 0, False, 1, 0.01, 0.1, falls, blind), False, True)
    assert [(row["value"], row["n"]) for row in tally.unchanged()] == [(0.5, 2), (0.5, 2)]
    assert tally.robust_accuracy() == []  # nothing is labelled


def test_accuracy_is_of_labelled_images_only() -> None:
    tally = Tally((0.0, 0.1))
    for falls, labelled, right in ((2, True, True), (1, True, True), (2, True, False), (2, False, False)):
        tally.add(Outcome(falls < 2, False, 1, 0.1, 1.0, falls), labelled, right)
    accuracy = Robustness.of(tally, None)
    assert [(row["value"], row["n"]) for row in accuracy.rows] == [(2 / 3, 3), (1 / 3, 3)]
    # Towards a class it is no accuracy, whatever is labelled: what does not become a goldfish may become a cat.
    towards = Robustness.of(tally, "goldfish")
    assert [(row["value"], row["n"]) for row in towards.rows] == [(1.0, 4), (0.75, 4)]
    assert "goldfish" in towards.words
    assert "accuracy" not in towards.words


def test_the_sentence_is_about_the_epsilon_that_was_asked_for(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """3/255 is not on the default curve, and the images have no labels: nothing may be called accurate."""
    words = ["-m", TINY.model, "--input-size", "64", "-o", str(tmp_path / "o"), "--limit", "2"]
    assert app.main(["adversarial", str(photographs), "--epsilon", "3/255", "--attack", "fgsm", *words]) == 0
    found = json.loads((tmp_path / "o" / "report.json").read_text())["summary"]["adversarial"]
    [row] = [row for row in found["prediction_unchanged"] if row["epsilon"] == 3 / 255]
    said = capsys.readouterr().err
    where = "at epsilon 3/255, attacked at the network's input, not rounded to 8 bits"
    share = f"share of unchanged predictions {where}: {100 * row['value']:.1f} % of 2 images without labels"
    assert share in said
    assert "accuracy" not in said
    assert "accuracy" not in (tmp_path / "o" / "index.html").read_text()
