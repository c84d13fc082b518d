"""``localize`` on pictures whose maps are known: figures by hand, baselines once, boxes drawn where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.geometry.boxes import Box
from cnnviz.render.box_figure import FOUND, TRUE, BoxTile, box_figure, with_boxes
from tests.support.colour_photos import MODEL, SQUARES, run, write_truth


def figures(report: dict[str, Any], method: str) -> dict[str, Any]:
    found: dict[str, Any] = report["summary"]["localization"][method]
    return found


def test_each_object_is_found(rectangles: Path, tmp_path: Path) -> None:
    """The class map of a colour is its rectangle, spread by half a cell where it is enlarged."""
    options = ("--truth", str(tmp_path / "truth.json"), "--method", "cam,gradcam")
    report = run("localize", rectangles, tmp_path / "out", *options)
    for method in ("cam", "gradcam"):
        found = figures(report, method)
        for name in ("top1_error", "top5_error", "top1_classification_error", "top5_classification_error"):
            assert (found[name]["value"], found[name]["n"]) == (0, 3)
        for name in ("gt_known_accuracy", "max_box_acc", "max_box_acc_v2", "pointing_game"):
            assert (found[name]["value"], found[name]["n"]) == (1, 3)
        assert found["gt_known_accuracy"]["ci95"][0] < 0.5 < found["energy_pointing_game"]["value"]
    for image in report["images"]:
        label, (x, y, w, h) = SQUARES[Path(image["path"]).name]
        own = [each for each in image["explanations"] if each["target"]["label"] == label]
        assert len(own) == 2
        for each in own:
            box = Box(*each["scores"]["box_localization"]["box_xywh"])
            np.testing.assert_allclose([box.x, box.y], [x, y], atol=2)
            np.testing.assert_allclose([box.width, box.height], [w, h], atol=4)
            iou = each["scores"]["box_localization"]["iou"]
            np.testing.assert_allclose(iou, box.iou(Box(x, y, w, h)), atol=1e-6)


def test_a_wrong_label_is_an_error_of_classification(rectangles: Path, tmp_path: Path) -> None:
    write_truth(tmp_path / "wrong.json", {"a.png": "red", "b.png": "green", "c.png": "red"})
    report = run("localize", rectangles, tmp_path / "out", "--truth", str(tmp_path / "wrong.json"), "--method", "cam")
    found = figures(report, "cam")
    assert np.isclose(found["top1_classification_error"]["value"], 2 / 3, atol=1e-6)
    assert np.isclose(found["top1_error"]["value"], 2 / 3, atol=1e-6)
    assert found["top5_classification_error"]["value"] == 0  # there are only three classes
    assert np.isclose(found["top5_error"]["value"], 2 / 3, atol=1e-6)  # their maps are empty


def test_baselines_stand_beside_the_methods_once(rectangles: Path, tmp_path: Path) -> None:
    options = ("--truth", str(tmp_path / "truth.json"), "--method", "cam,saliency")
    report = run("localize", rectangles, tmp_path / "out", *options)
    names = list(report["summary"]["localization"])
    assert names == ["cam", "saliency", "centre_box", "centre_gaussian", "whole_image"]
    shares = [w * h / 64**2 for _, (_, _, w, h) in SQUARES.values()]
    assert np.isclose(figures(report, "whole_image")["energy_pointing_game"]["value"], np.mean(shares), atol=1e-6)
    assert (tmp_path / "out" / "max_box_acc.png").exists()


def test_without_truth_there_are_boxes_and_no_figures(rectangles: Path, tmp_path: Path) -> None:
    report = run("localize", rectangles, tmp_path / "out", "--method", "cam")
    assert report["summary"]["localization"] == {}
    assert report["files"] == [f"images/{name}.boxes.png" for name in SQUARES]
    for scores in (each["scores"]["box_localization"] for i in report["images"] for each in i["explanations"]):
        assert scores["iou"] is scores["true_class"] is scores["truth_classes"] is None


def test_boxes_follow_their_options_without_truth_too(rectangles: Path, tmp_path: Path) -> None:
    """In a run without ``--truth``, and on images that it does not have; the figures count neither."""
    write_truth(tmp_path / "part.json", {"a.png": "red"})
    common = ("--method", "cam", "--threshold", "0.7", "--class", "pred", "--save", "raw")
    for name, options in (("none", ()), ("part", ("--truth", str(tmp_path / "part.json")))):
        report = run("localize", rectangles, tmp_path / name, *common, *options)
        for image in report["images"]:
            [each] = image["explanations"]
            cells = np.load(tmp_path / name / each["files"]["raw"])["raw"]
            on_image = cv2.resize(cells, (64, 64), interpolation=cv2.INTER_LINEAR)
            rows, columns = np.nonzero(on_image > 0.7 * on_image.max())
            x, y = columns.min(), rows.min()
            box = [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert each["scores"]["box_localization"]["box_xywh"] == box
            assert each["scores"]["box_xywh"] != box
    assert figures(report, "cam")["gt_known_accuracy"]["n"] == figures(report, "cam")["top1_error"]["n"] == 1


def test_masks_alone_are_measured_by_pixels(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (label, (x, y, w, h)) in SQUARES.items():
        mask = np.zeros((64, 64), dtype=np.uint8)
        mask[y : y + h, x : x + w] = 255
        (tmp_path / "masks" / label).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / "masks" / label / name)
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    arguments = ["localize", str(rectangles), *MODEL, *labels, "--truth", str(tmp_path / "masks"), "--method", "cam"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    # A map is its rectangle, so pixels rank perfectly; of a map that marks everything the precision is the share.
    assert figures(report, "cam")["pxap"]["value"] == 1
    lines = capsys.readouterr().err.splitlines()
    [heads] = [line for line in lines if line.startswith("method")]
    [row] = [line for line in lines if line.startswith("whole_image")]
    areas = np.array([w * h / 64**2 for _, (_, _, w, h) in SQUARES.values()])
    assert heads.split()[1:] == ["PxAP", "↑"]
    assert row.split()[1] == f"{areas.mean():.3g}"
    assert report["files"] == [f"images/{name}.boxes.png" for name in SQUARES]  # no curve, no picture of it


def test_that_nothing_was_measured_is_said(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out"), "--class", "blue", "--limit", "1"]
    arguments = ["localize", str(rectangles), *MODEL, *labels, "--truth", str(tmp_path / "truth.json")]
    assert main([*arguments, "--metric", "pxap"]) == 3
    assert "nothing was measured: no map is of a class that --truth marks" in capsys.readouterr().err


def test_the_help_says_what_is_usual(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["localize", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "or repeatable. [default: gradcam] --protocol" in said
    assert "[default: top:5, and truth with --truth]" in said
    assert "[default: boxes; with -o -: boxes;" in said


def test_frames_lie_inside_their_boxes() -> None:
    """Also on a picture of half the size of the photograph."""
    grey = np.full((50, 100, 3), 90, dtype=np.uint8)
    drawn = with_boxes(grey, [(Box(40, 20, 80, 60), TRUE)], (200, 100))
    changed = np.argwhere((drawn != 90).any(axis=2))
    assert changed.min(axis=0).tolist() == [10, 20]
    assert changed.max(axis=0).tolist() == [39, 59]
    assert (drawn == TRUE).all(axis=2).any()


def test_the_picture_has_a_row_for_each_class(tmp_path: Path) -> None:
    rgb = np.full((60, 80, 3), 128, dtype=np.uint8)
    tiles = [BoxTile(m, c, "", rgb, [(Box(10, 10, 20, 20), FOUND)]) for c in ("cat", "dog") for m in ("cam", "gradcam")]
    figure = box_figure(rgb, [], tiles, "x")
    one = box_figure(rgb, [], tiles[:2], "x")
    assert figure.shape[1] == one.shape[1]
    assert figure.shape[0] > 1.7 * one.shape[0]
    assert (figure == FOUND).all(axis=2).sum() == 2 * (one == FOUND).all(axis=2).sum()
    Image.fromarray(figure).save(tmp_path / "figure.png")


def test_every_command_draws_what_is_marked(rectangles: Path, tmp_path: Path) -> None:
    """On the image of a panel, and in words on the page."""
    plain = run("gradcam", rectangles, tmp_path / "plain", "--save", "panel")
    options = ("--truth", str(tmp_path / "truth.json"), "--save", "panel")
    report = run("gradcam", rectangles, tmp_path / "out", *options)
    for before, after in zip(plain["images"], report["images"], strict=True):
        a, b = (
            np.asarray(Image.open(tmp_path / folder / each["explanations"][0]["files"]["panel"]))
            for folder, each in (("plain", before), ("out", after))
        )
        columns = np.flatnonzero((a != b).any(axis=(0, 2)))
        assert (b == TRUE).all(axis=2).any()
        assert columns.max() < a.shape[1] / 3  # the heatmap and the overlay stay as they are
    assert "marked red" in (tmp_path / "out" / "index.html").read_text()


def test_an_object_counts_once_as_its_likeliest_class(rectangles: Path, tmp_path: Path) -> None:
    """A label that means all three classes: three maps an image, one of which counts."""
    write_truth(tmp_path / "things.json", dict.fromkeys(SQUARES, "thing"))
    (tmp_path / "table.yaml").write_text("thing: [red, green, blue]\n")
    table = ("--truth", str(tmp_path / "things.json"), "--truth-classes", str(tmp_path / "table.yaml"))
    found = figures(run("localize", rectangles, tmp_path / "out", "--method", "cam", *table), "cam")
    for name in ("gt_known_accuracy", "max_box_acc", "max_box_acc_v2", "pointing_game", "energy_pointing_game"):
        assert found[name]["n"] == 3, name
    assert found["gt_known_accuracy"]["value"] == found["pointing_game"]["value"] == 1
    assert found["top1_error"]["value"] == 0


def test_a_metric_without_baselines_may_be_asked_for(rectangles: Path, tmp_path: Path) -> None:
    options = ("--truth", str(tmp_path / "truth.json"), "--method", "cam", "--metric", "sparseness")
    report = run("localize", rectangles, tmp_path / "out", *options)
    values = [each["scores"]["sparseness"]["gini"] for i in report["images"] for each in i["explanations"]]
    found = figures(report, "cam")["gini"]
    assert np.isclose(found["value"], np.mean([each for each in values if each is not None]), atol=1e-6)
    assert "gini" not in figures(report, "whole_image")
