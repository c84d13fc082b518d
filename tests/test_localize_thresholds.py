"""``localize --threshold-from`` and ``--per-component``: thresholds of other images, and a box for each region."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

from cnnviz.cli.app import main
from cnnviz.geometry.boxes import Box
from cnnviz.metrics.localization_boxes import _matched
from cnnviz.metrics.localization_thresholds import at_thresholds, level_of, threshold_of
from cnnviz.registry.localization_metrics import MaxBoxAccOptions
from cnnviz.render.box_figure import FOUND
from tests.support.colour_network import CLASSES, SIDE, Colours
from tests.support.colour_photos import MODEL, SQUARES, run
from tests.support.pictures import pixels


@pytest.mark.parametrize("protocol", ["cnnviz", "wsol"])
def test_levels_and_thresholds_are_each_others_inverse(protocol: Any) -> None:
    params = MaxBoxAccOptions(protocol=protocol)
    for level in range(255):
        assert level_of(threshold_of(level, params), protocol) == level
        assert level_of(round(threshold_of(level, params), 6) + 1e-4, protocol) == level


def test_accuracy_at_given_thresholds() -> None:
    """Against counting: of each map whether the level lies in a span."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        spans = {f"hits_{iou}": [sorted(rng.integers(0, 255, 2).tolist())] for iou in (30, 50, 70)}
        rows.append((f"{number // 2}", {"hits": spans["hits_50"], **spans, "true_labels": ["dog"] if number else []}))
    chosen = [0.31, 0.5, 0.25]

    def fits(span: list[list[int]], threshold: float) -> float:
        return float(any(first <= int(threshold * 256) <= last for first, last in span))

    one = at_thresholds("max_box_acc", rows, chosen[:1], "cnnviz")
    by_hand = [fits(scores["hits"], chosen[0]) for _, scores in rows[1:]]
    assert one["value"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    several = at_thresholds("max_box_acc_v2", rows, chosen, "cnnviz")
    by_hand = [
        np.mean([fits(scores[f"hits_{iou}"], t) for iou, t in zip((30, 50, 70), chosen, strict=True)])
        for _, scores in rows[1:]
    ]
    assert several["value"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert several["n"] == 39


@pytest.fixture
def other(rectangles: Path, tmp_path: Path) -> Path:
    """Photographs like the others, but other files."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name in SQUARES:
        rgb = pixels(rectangles / name).copy()
        rgb[-1, -1] = 9
        Image.fromarray(rgb).save(folder / name)
    return folder


def test_the_best_threshold_of_another_run_is_used(rectangles: Path, other: Path, tmp_path: Path) -> None:
    options = ("--truth", str(tmp_path / "truth.json"), "--method", "cam,saliency")
    first = run("localize", other, tmp_path / "first", *options)["summary"]["localization"]
    again = run("localize", rectangles, tmp_path / "own", *options)
    options = (*options, "--threshold-from", str(tmp_path / "first"))
    report = run("localize", rectangles, tmp_path / "out", *options)
    for method, row in report["summary"]["localization"].items():
        figure, before = row["max_box_acc"], first[method]["max_box_acc"]
        assert before["oracle"]
        assert (figure["threshold"], figure["oracle"]) == (before["threshold"], False)
        assert figure["threshold_from"] == str(tmp_path / "first")
        assert row["max_box_acc_v2"]["thresholds"] == first[method]["max_box_acc_v2"]["thresholds"]
    # A figure at a threshold is what the boxes at that threshold say.
    for method in ("cam", "saliency"):
        row = report["summary"]["localization"][method]
        assert row["box_threshold"] == first[method]["max_box_acc"]["threshold"]
        assert row["gt_known_accuracy"]["value"] == row["max_box_acc"]["value"]
    thresholds = {m: again["summary"]["localization"][m]["box_threshold"] for m in ("cam", "saliency")}
    assert thresholds == {"cam": 0.2, "saliency": 0.2}


def test_images_on_which_they_were_chosen_are_told(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = ("--truth", str(tmp_path / "truth.json"))
    run("localize", rectangles, tmp_path / "first", *truth, "--method", "cam")
    (tmp_path / "some").mkdir()
    shutil.copy(rectangles / "a.png", tmp_path / "some" / "a.png")
    shutil.copy(rectangles / "b.png", tmp_path / "some" / "b.png")
    rgb = pixels(rectangles / "b.png").copy()
    rgb[0, 0] = 7
    Image.fromarray(rgb).save(tmp_path / "some" / "b.png")
    more = ["--threshold-from", str(tmp_path / "first" / "report.json"), "--labels", str(tmp_path / "labels.txt")]
    out = tmp_path / "out"
    assert main(["localize", str(tmp_path / "some"), *MODEL, *truth, "--method", "cam", *more, "-o", str(out)]) == 0
    assert "1 of 2 images is in" in capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["localization"]["cam"]["max_box_acc"]["oracle"]
    assert str(tmp_path / "first" / "report.json") in report["option_files_sha256"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "saliency"), "it has no best threshold of 'saliency'; it has cam"),
        (("--method", "cam", "--protocol", "wsol"), "of --protocol cnnviz, those of this run of wsol"),
        (("--method", "cam", "--threshold", "0.3"), "--threshold-from and --threshold both say"),
        (("--method", "cam", "--metric", "max_box_acc:at=0.3"), "--threshold-from and --metric max_box_acc:at both"),
    ],
)
def test_what_does_not_fit_is_refused(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    truth = ("--truth", str(tmp_path / "truth.json"))
    run("localize", rectangles, tmp_path / "first", *truth, "--method", "cam", "--limit", "1")
    more = ("--threshold-from", str(tmp_path / "first"), "-o", str(tmp_path / "out"))
    assert main(["localize", str(rectangles), *MODEL, *truth, *options, *more]) == 2
    assert said in capsys.readouterr().err


def test_thresholds_of_another_network_are_told(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--truth", str(tmp_path / "truth.json"), "--labels", str(tmp_path / "labels.txt"), "--method", "cam"]
    for name, model in (("own", MODEL), ("other", [*MODEL[:1], f"{__file__}:make_other", *MODEL[2:]])):
        run("localize", rectangles, tmp_path / "first", *options[:2], "--method", "cam", "--overwrite")
        more = ["--threshold-from", str(tmp_path / "first"), "-o", str(tmp_path / name)]
        assert main(["localize", str(rectangles), *model, *options, *more]) == 0
        assert ("its thresholds are of another network" in capsys.readouterr().err) == (name == "other")


def make_other() -> Colours:
    network = Colours()
    with torch.no_grad():
        network.fc.weight *= 2
    return network


def test_a_run_that_chose_none_is_refused(rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("cam", rectangles, tmp_path / "maps", "--limit", "1")
    run("localize", rectangles, tmp_path / "boxes", "--limit", "1")
    for name, said in (("maps", "a run of cnnviz cam chooses no thresholds"), ("boxes", "nothing was measured there")):
        more = ["--threshold-from", str(tmp_path / name), "-o", str(tmp_path / "out")]
        assert main(["localize", str(rectangles), *MODEL, *more]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two red rectangles and one spot of which nobody says that it is red."""
    boxes = [(0, 0, 16, 16), (32, 32, 24, 24), (0, 48, 8, 8)]
    rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    for x, y, w, h in boxes:
        rgb[y : y + h, x : x + w, 0] = 255
    (tmp_path / "photos").mkdir()
    Image.fromarray(rgb).save(tmp_path / "photos" / "a.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    annotations = [{"id": i, "image_id": 0, "category_id": 0, "bbox": list(box)} for i, box in enumerate(boxes[:2])]
    images = [{"id": 0, "file_name": "a.png", "width": SIDE, "height": SIDE}]
    truth = {"images": images, "categories": [{"id": 0, "name": "red"}], "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path / "photos"


def test_every_region_has_a_box(several: Path, tmp_path: Path) -> None:
    """Those of OpenCV's components of the map on the photograph; matched one to one by hand."""
    options = ("--truth", str(tmp_path / "truth.json"), "--class", "red", "--per-component", "--threshold", "0.5")
    report = run("localize", several, tmp_path / "out", "--method", "cam", "--save", "raw,boxes", *options)
    [each] = report["images"][0]["explanations"]
    found = each["scores"]["box_localization"]
    cells = np.load(tmp_path / "out" / each["files"]["raw"])["raw"]
    on_image = cv2.resize(cells, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    count, _, stats, _ = cv2.connectedComponentsWithStats((on_image > 0.5 * on_image.max()).astype(np.uint8))
    expected = sorted(stats[1:count].tolist(), key=lambda row: -row[4])
    assert found["boxes_xywh"] == [row[:4] for row in expected]
    assert len(expected) == 3
    assert found["boxes_xywh"][0] == found["box_xywh"]
    assert (found["objects"], found["objects_found"]) == (2, 2)
    summary = report["summary"]["localization"]["cam"]
    assert summary["object_recall"]["value"] == 1
    assert summary["box_precision"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    picture = pixels(tmp_path / "out" / each["files"]["boxes"])
    framed, _ = cv2.connectedComponents((picture == FOUND).all(axis=2).astype(np.uint8), connectivity=8)
    assert framed - 1 == 3


def test_pairs_are_matched_one_to_one() -> None:
    """Never more than the best assignment, and in these cases as many."""
    assert _matched(np.array([[0.9, 0.8], [0.7, 0.1]])) == 1  # the best pair first, as COCO's evaluation does
    assert _matched(np.array([[0.9, 0.4], [0.45, 0.6]])) == 2
    assert _matched(np.zeros((0, 2))) == 0
    rng = np.random.default_rng(1)
    for _ in range(50):
        boxes = [[Box(*rng.integers(1, 20, 4).tolist()) for _ in range(4)] for _ in range(2)]
        iou = np.array([[a.iou(b) for b in boxes[1]] for a in boxes[0]])
        rows, columns = linear_sum_assignment(-(iou >= 0.5).astype(float))
        assert _matched(iou) <= (iou[rows, columns] >= 0.5).sum()
