"""Several methods in one run: their maps are those of each alone, passes are shared, and truth chooses classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnviz.cli.app import main
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError
from cnnviz.report.text_table import text_table
from cnnviz.settings import listed
from tests.support.colour_photos import MODEL, SQUARES, run, write_truth


def test_a_list_of_methods_with_options() -> None:
    assert listed(["cam,rise:masks=5,seed=1", " gradcam "]) == ["cam", "rise:masks=5,seed=1", "gradcam"]
    assert listed(["occlusion:window=8"]) == ["occlusion:window=8"]


@pytest.mark.parametrize(("text", "words"), [("cam,cam", "twice"), ("camm", "cam"), ("cam:x=1", "no option")])
def test_what_cannot_be_compared_is_refused(rectangles: Path, text: str, words: str, capsys: Any) -> None:
    assert main(["localize", str(rectangles), *MODEL, "--method", text]) == 2
    assert words in capsys.readouterr().err


def test_each_map_is_that_of_its_method_alone(rectangles: Path, tmp_path: Path) -> None:
    methods = {
        "gradcam": [],
        "layercam": ["--variant", "layercam"],
        "saliency": [],
        "occlusion": ["--window", "16"],
        "rise": ["--masks", "50"],
    }
    both = tmp_path / "both"
    report = run(
        "localize",
        rectangles,
        both,
        "--method",
        "gradcam,layercam,saliency,occlusion:window=16,rise:masks=50",
        "--save",
        "raw",
    )
    for name, options in methods.items():
        command = "gradcam" if name == "layercam" else name
        alone = run(command, rectangles, tmp_path / name, "--class", "top:5", "--save", "raw", *options)
        for together, single in zip(report["images"], alone["images"], strict=True):
            own = [each for each in together["explanations"] if each["method"] == name]
            assert [each["target"] for each in own] == [each["target"] for each in single["explanations"]]
            for one, other in zip(own, single["explanations"], strict=True):
                a = np.load(both / one["files"]["raw"])["raw"]
                b = np.load(tmp_path / name / other["files"]["raw"])["raw"]
                np.testing.assert_array_equal(a, b)
                assert one["layer"] == other["layer"]


def test_a_table_has_the_columns_of_which_there_are_values() -> None:
    rows = {"cam": {"a": {"value": 0.25}, "b": {"value": None}}, "random": {"a": {"value": None}}}
    told = text_table(rows, {"a": "first", "b": "second"}, ["cam"], "evaluate")
    assert told == ["method  first", "cam     0.25", "random     -"]
    [line] = text_table(rows, {"b": "second"}, ["cam"], "evaluate")
    assert "nothing to compare" in line


def test_methods_of_one_layer_share_a_pass(rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = Session.forward

    def counted(session: Session, pixels: Any) -> Any:
        passes.append(len(pixels))
        return forward(session, pixels)

    monkeypatch.setattr(Session, "forward", counted)
    run("localize", rectangles, tmp_path / "one", "--method", "gradcam", "-b", "3")
    one = passes.copy()
    passes.clear()
    run("localize", rectangles, tmp_path / "four", "--method", "gradcam,layercam,hirescam,gradcam++", "-b", "3")
    assert [count for count in passes if count == 3] == [count for count in one if count == 3] == [3]
    assert passes == one  # nor is the probe run more often


def test_truth_says_which_classes(rectangles: Path, tmp_path: Path) -> None:
    """Classes of labels of the same name; by a table a label means any of several, and the likeliest is taken."""
    options = ("--truth", str(tmp_path / "truth.json"), "--class", "truth")
    report = run("gradcam", rectangles, tmp_path / "same", *options)
    found = [[each["target"]["label"] for each in image["explanations"]] for image in report["images"]]
    assert found == [[label] for label, _ in SQUARES.values()]

    write_truth(tmp_path / "other.json", {"a.png": "warm", "b.png": "cold", "c.png": "cold"})
    table = tmp_path / "table.yaml"
    table.write_text("warm: red\ncold: [blue, 1]\n")
    options = ("--truth", str(tmp_path / "other.json"), "--truth-classes", str(table), "--class", "truth")
    report = run("gradcam", rectangles, tmp_path / "table", *options)
    found = [[each["target"]["label"] for each in image["explanations"]] for image in report["images"]]
    assert found == [["red"], ["blue"], ["green"]]


def test_an_image_of_which_nothing_is_known_is_a_row(rectangles: Path, tmp_path: Path, capsys: Any) -> None:
    write_truth(tmp_path / "part.json", {"a.png": "red", "c.png": "violet"})
    arguments = [
        "gradcam",
        str(rectangles),
        *MODEL,
        "--labels",
        str(tmp_path / "labels.txt"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--truth", str(tmp_path / "part.json"), "--class", "truth"]) == 3
    assert "1 of 2 labels of --truth is no class of the model: 'violet'" in " ".join(capsys.readouterr().err.split())
    images = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    assert [image["error"] and image["error"]["type"] for image in images] == [None, "no-truth", "no-truth"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "truth"], "--truth PATH"),
        (["--truth-classes", "coco"], "--truth PATH"),
        (["--truth", "TRUTH", "--truth-classes", "coco"], "1000 classes of ImageNet; the model has 3"),
        (["--truth", "TRUTH", "--truth-classes", "TABLE"], "no class is called 'violet'"),
        (["--truth", "TRUTH", "--truth-classes", "nowhere.yaml"], "there is no such file"),
    ],
)
def test_tables_that_cannot_be_meant(
    rectangles: Path, tmp_path: Path, options: list[str], words: str, capsys: Any
) -> None:
    (tmp_path / "table.yaml").write_text("red: violet\n")
    known = {"TRUTH": str(tmp_path / "truth.json"), "TABLE": str(tmp_path / "table.yaml")}
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    assert main(["gradcam", str(rectangles), *MODEL, *labels, *(known.get(word, word) for word in options)]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_cocos_classes_are_names_of_imagenet() -> None:
    """Checked against the names that come with the bundled weights."""
    from cnnviz.models.loading.coco_classes import imagenet_classes
    from cnnviz.models.loading.load import load
    from cnnviz.settings import ModelSpec

    labels = load(ModelSpec(), None).labels
    found = imagenet_classes()
    assert labels[found["zebra"][0]] == "zebra"
    assert {labels[index] for index in found["elephant"]} == {"tusker", "Indian elephant", "African elephant"}
    every = [index for indices in found.values() for index in indices]
    assert len(every) == len(set(every))
    assert all("bird" not in labels[index] or index in found["bird"] for index in every)
    assert len(found["dog"]) == 118


def test_errors_are_ours() -> None:
    with pytest.raises(CnnvizError):
        listed_method("gradcam:samples")


def listed_method(text: str) -> Any:
    from cnnviz.registry import lookup

    name, _, given = text.partition(":")
    return lookup.find_method(name).read_params(given, text)
