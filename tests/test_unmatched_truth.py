"""Annotations whose labels are no classes of the network: what is left out, told, refused, and what to type next."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.io.annotations import Annotation, Annotations
from cnnviz.models.loading.coco_classes import imagenet_classes
from cnnviz.models.loading.load import load
from cnnviz.run.truth_classes import truth_classes_of
from cnnviz.settings import ModelSpec, TargetSettings
from cnnviz.tasks.class_names import ClassNames
from tests.support import segment_network
from tests.support.colour_photos import MODEL, SQUARES, run, write_truth

ERRORS = ("top1_error", "top5_error", "top1_classification_error", "top5_classification_error")


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def _told(photos: Path, out: Path, *options: str, command: str = "localize", code: int = 0) -> dict[str, Any]:
    """The report of a run that tells what it has to tell."""
    labels = ["--labels", str(photos.parent / "labels.txt"), "-o", str(out)]
    assert main([command, str(photos), *MODEL, *labels, *options]) == code
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def _marked(path: Path, labels: dict[str, list[str]]) -> None:
    """Annotations of several labels an image, all by the same box."""
    write_truth(path, {name: own[0] for name, own in labels.items()})
    known = json.loads(path.read_text())
    names = sorted({label for own in labels.values() for label in own})
    known["categories"] = [{"id": i, "name": name} for i, name in enumerate(names)]
    known["annotations"] = [
        {"id": 10 * i + k, "image_id": i, "category_id": names.index(label), "bbox": list(SQUARES[name][1])}
        for i, (name, own) in enumerate(labels.items())
        for k, label in enumerate(own)
    ]
    path.write_text(json.dumps(known))


@pytest.mark.parametrize("method", ["cam", "cam,saliency"])
def test_an_image_that_nothing_could_be_right_about_is_no_error(
    rectangles: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three images one is marked rightly, one wrongly, one as what is no class of the network."""
    write_truth(tmp_path / "odd.json", {"a.png": "red", "b.png": "green", "c.png": "violet"})
    options = ("--truth", str(tmp_path / "odd.json"), "--method", method)
    report = _told(rectangles, tmp_path / "out", *options)
    for name in method.split(","):
        found = report["summary"]["localization"][name]
        # By hand, of a.png and b.png: the first class of b.png is blue; all three classes are among five guesses.
        values = {error: (found[error]["value"], found[error]["n"]) for error in ERRORS[2:]}
        assert values == {"top1_classification_error": (0.5, 2), "top5_classification_error": (0.0, 2)}
        # Three maps an image, those of c.png left out.
        assert (found["maps"], found["without_truth"]) == (6, 3)
        assert [found[error]["n"] for error in ERRORS] == [2] * 4
    beside = report["summary"]["localization"]["whole_image"]
    assert [beside[error]["n"] for error in ERRORS] == [2] * 4
    # What the run itself says of its images is counted elsewhere.
    assert report["summary"]["outcomes"] == {"correct": 1, "wrong": 1}
    said = _said(capsys)
    assert said.count("1 of 3 images is left out: nothing that is marked on it is a class of the model") == 1
    assert "maps of images without boxes" not in said


def test_what_is_no_class_beside_what_is_one_leaves_an_image_in(rectangles: Path, tmp_path: Path) -> None:
    """Only the classes that are marked are explained: they are all that could be right."""
    _marked(tmp_path / "some.json", {"a.png": ["red", "violet"], "b.png": ["green", "violet"], "c.png": ["violet"]})
    options = ("--truth", str(tmp_path / "some.json"), "--method", "cam", "--class", "truth", "--save", "none")
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    assert main(["localize", str(rectangles), *MODEL, *labels, *options]) == 3  # nothing to explain in c.png
    found = json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["localization"]["cam"]
    assert (found["top1_classification_error"]["value"], found["top1_classification_error"]["n"]) == (0.5, 2)
    assert found["top1_error"]["n"] == found["gt_known_accuracy"]["n"] == 2


def test_five_guesses_are_five_however_few_are_listed(rectangles: Path, tmp_path: Path) -> None:
    write_truth(tmp_path / "wrong.json", {"a.png": "green", "b.png": "green", "c.png": "red"})
    options = ("--truth", str(tmp_path / "wrong.json"), "--method", "cam", "--save", "none")
    few = run("localize", rectangles, tmp_path / "few", *options, "--top", "1")
    found = few["summary"]["localization"]["cam"]
    assert len(few["images"][0]["predictions"]) == 1
    assert (found["top1_classification_error"]["value"], found["top5_classification_error"]["value"]) == (1.0, 0.0)
    usual = run("localize", rectangles, tmp_path / "usual", *options)["summary"]["localization"]["cam"]
    assert {error: found[error] for error in ERRORS} == {error: usual[error] for error in ERRORS}


def test_a_network_without_classes_of_the_image_has_no_errors_of_guesses(rectangles: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(segment_network.CLASSES))
    model = ["-m", f"{segment_network.__file__}:make", *MODEL[2:], "--labels", str(tmp_path / "labels.txt")]
    options = ["--truth", str(tmp_path / "truth.json"), "--class", "truth", "-o", str(tmp_path / "out"), "-q"]
    assert main(["localize", str(rectangles), *model, *options]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["localization"]["gradcam"]
    assert found["gt_known_accuracy"]["n"] == 3
    assert [found[error]["n"] for error in ERRORS] == [0] * 4


def test_shares_and_a_run_that_goes_on_leave_out_the_same(rectangles: Path, tmp_path: Path) -> None:
    write_truth(tmp_path / "odd.json", {"a.png": "red", "b.png": "green", "c.png": "violet"})
    options = ("--truth", str(tmp_path / "odd.json"), "--method", "cam", "--save", "none")
    whole = run("localize", rectangles, tmp_path / "whole", *options)["summary"]["localization"]
    for share in ("1/2", "2/2"):
        labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "parts"), "-q"]
        assert main(["localize", str(rectangles), *MODEL, *labels, *options, "--shard", share]) == 0
    assert main(["merge", str(tmp_path / "parts"), "-q"]) == 0
    merged = json.loads((tmp_path / "parts" / "report.json").read_text())["summary"]["localization"]
    run("localize", rectangles, tmp_path / "on", *options, "--limit", "2")
    on = run("localize", rectangles, tmp_path / "on", *options, "--resume")["summary"]["localization"]
    assert whole == merged == on
    assert whole["cam"]["top1_classification_error"]["n"] == 2


def test_labels_that_are_all_no_classes_are_refused_before_anything_is_run(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_truth(tmp_path / "odd.json", {"a.png": "violet", "b.png": "pink"})
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    arguments = ["localize", str(rectangles), *MODEL, *labels, "--truth", str(tmp_path / "odd.json")]
    assert main(arguments) == 2
    said = _said(capsys)
    assert "nothing to measure by: none of the 2 labels of --truth is a class of the model ('pink', 'violet')" in said
    assert "--truth-classes FILE says what they mean" in said
    assert not (tmp_path / "out" / "report.json").exists()
    # What looks at no class is measured all the same, and other commands draw what is marked.
    assert main([*arguments, "--metric", "region_energy:objects=any", "--metric", "sparseness"]) == 0
    assert main(["gradcam", *arguments[1:], "--overwrite"]) == 0
    (tmp_path / "table.yaml").write_text("violet: [red, blue]\npink: blue\n")
    assert main([*arguments, "--truth-classes", str(tmp_path / "table.yaml"), "--overwrite"]) == 0


@pytest.mark.parametrize("command", ["localize", "evaluate"])
@pytest.mark.parametrize(
    ("labels", "renamed", "options", "reason"),
    [
        (["red", "blue"], "x.png", [], "does not have this image: give the annotations of what is explained"),
        (["red", "blue"], "a.png", ["--class", "blue"], "marks on its image: --class truth asks for them"),
        (["violet", "blue"], "a.png", [], "nothing that --truth marks on these images is a class of the model"),
    ],
)
def test_why_nothing_was_measured_and_what_to_type(
    rectangles: Path, tmp_path: Path, command: str, labels: list[str], renamed: str, options: list[str], reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_truth(tmp_path / "odd.json", dict(zip(SQUARES, labels, strict=False)))
    (tmp_path / "odd.json").write_text((tmp_path / "odd.json").read_text().replace("a.png", renamed))
    metric = ["--metric", "pointing_game"] if command == "evaluate" else []
    asked = ["--truth", str(tmp_path / "odd.json"), "--limit", "1", "--save", "none", *metric, *options]
    report = _told(rectangles, tmp_path / "out", *asked, command=command, code=3)
    assert report["summary"]["failed"] == 0
    said = _said(capsys)
    assert said.count("nothing was measured: ") == 1
    assert reason in said
    # Who reads the report or its page is told as well.
    assert reason in report["summary"]["unmeasured"]
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert f"<dt>nothing was measured</dt><dd>{report['summary']['unmeasured']}</dd>" in page
    # Of a share that is chance: only all of them together say so.
    labelled = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "share"), "-q"]
    assert main([command, str(rectangles), *MODEL, *labelled, *asked[:2], *asked[4:], "--shard", "1/9"]) == 0


@pytest.fixture(scope="module")
def imagenet() -> list[str]:
    """The names of the classes of the bundled network."""
    return list(load(ModelSpec(), None).labels)


def _noted(names: list[str], labels: list[str], asked: TargetSettings) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """What is told of labels in a network with these classes, and what they mean."""
    told: list[str] = []
    boxes = Annotations([Annotation(f"{name}.png", labels=(name,)) for name in names], names, "truth.json")
    found = truth_classes_of(boxes, ClassNames(labels, one_logit=False), asked, told.append)
    assert found is not None
    return told, dict(found.indices)


@pytest.mark.parametrize("names", [["cat", "dog"], ["dog", "giraffe", "zebra"], ["banana", "car", "person", "violet"]])
def test_the_table_of_coco_is_named_where_it_says_what_labels_mean(names: list[str], imagenet: list[str]) -> None:
    [note], before = _noted(names, imagenet, TargetSettings())
    without = [name for name in names if name not in imagenet]
    assert [name for name, indices in before.items() if not indices] == without
    # What it tells to type, typed.
    asked = re.search(r"--truth-classes (\S+) says what (they|\d+ of them) mean", note)
    assert asked is not None
    again, after = _noted(names, imagenet, TargetSettings(truth_classes=asked[1]))
    gained = [name for name in without if after[name]]
    assert gained == [name for name in without if name in imagenet_classes()] != []
    assert asked[2] == ("they" if gained == without else f"{len(gained)} of them")
    assert not any("coco" in text for text in again)
    # Of an audit its key.
    [note], _ = _noted(names, imagenet, TargetSettings("audit"))
    assert f"truth_classes: coco says what {asked[2]} mean" in note
    assert "--truth-classes" not in note


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["violet", "zebra"], 0),  # not of COCO
        (["cat", "dog"], 1),  # other 1,000 classes: these in another order
        (["car", "dog"], 990),  # few classes
    ],
)
def test_the_table_of_coco_is_not_named_where_it_would_say_nothing(
    names: list[str], first: int, imagenet: list[str]
) -> None:
    labels = imagenet[first:] + imagenet[:first] * (first == 1)
    [note], _ = _noted(names, labels, TargetSettings())
    assert "coco" not in note
    assert "--truth-classes FILE says what they mean, in YAML: LABEL: [CLASS, ...]" in note


def test_labels_that_are_classes_are_not_told(imagenet: list[str]) -> None:
    assert _noted(["zebra", "banana"], imagenet, TargetSettings())[0] == []
    with pytest.raises(CnnvizError, match="none of the 2 labels of --truth") as raised:
        _noted(["dog", "cat"], imagenet, TargetSettings("localize"))
    assert raised.value.hint == "--truth-classes coco says what they mean."


def test_cocos_kite_is_no_bird(imagenet: list[str]) -> None:
    bird = imagenet.index("kite")
    assert bird in imagenet_classes()["bird"]
    _, found = _noted(["bird", "kite", "zebra"], imagenet, TargetSettings(truth_classes="coco"))
    assert (found["kite"], bird in found["bird"], found["zebra"]) == ((), True, (imagenet.index("zebra"),))


def test_the_figures_of_evaluate_are_those_of_localize(rectangles: Path, tmp_path: Path) -> None:
    """Also in their keys, against which every report of a test is checked: classes, thresholds."""
    names = ["pointing_game", "energy_pointing_game", "max_box_acc", "max_box_acc_v2", "box_localization"]
    write_truth(tmp_path / "odd.json", {"a.png": "red", "b.png": "green", "c.png": "violet"})
    options = ("--truth", str(tmp_path / "odd.json"), "--class", "top:5", "--method", "cam", "--save", "none")
    metrics = tuple(part for name in names for part in ("--metric", name))
    found = run("evaluate", rectangles, tmp_path / "evaluate", *options, *metrics)["summary"]["metrics"]["cam"]
    known = run("localize", rectangles, tmp_path / "localize", *options)["summary"]["localization"]["cam"]
    for name in names[:-1]:
        assert {key: found[name][key] for key in ("value", "ci95", "n")} == {
            key: known[name][key] for key in ("value", "ci95", "n")
        }
    box = found["box_localization"]
    assert box["figure"] == ERRORS[0]
    assert [box["n"], *(box["others"][error]["n"] for error in ERRORS[1:] if error in box["others"])] == [2] * 4
