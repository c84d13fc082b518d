"""Checks of a region that a centre crop hides: from all images, from some, or a part of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cnnviz.audit.attention import Avoid, Inside
from cnnviz.audit.check import Check, Judged
from cnnviz.audit.policy import load_policy
from cnnviz.cli.app import main
from cnnviz.maps.second_look import SecondLook
from cnnviz.metrics.seen_region import share_seen
from tests import test_audit

HINT = "options: {view: whole} in the policy, or --view whole, shows the network the whole picture"
LEFT = "[0, 0, 0.2, 1]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red square in a blue sky: four photographs of 64 x 64 pixels, and eight of 100 x 60, of which the network is
    shown the middle. Marked is the square; of the eight something at the left.
    """
    base = tmp_path_factory.mktemp("hidden")
    (base / "data" / "sun").mkdir(parents=True)
    images, boxes = [], []
    for number in range(12):
        width, height = (64, 64) if number < 4 else (100, 60)
        rgb = np.zeros((height, width, 3), dtype=np.uint8)
        rgb[..., 2] = 200
        x = 20 if number < 4 else 40
        rgb[20:40, x : x + 20] = (255, 0, 0)
        Image.fromarray(rgb).save(base / "data" / "sun" / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"sun/{number:02d}.png", "width": width, "height": height})
        place = [20, 20, 20, 20] if number < 4 else [0, 20, 16, 20]
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": place})
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "sun"}]}
    (base / "truth.json").write_text(json.dumps(truth))
    for row in truth["annotations"][4:]:
        row["bbox"] = [10, 0, 80, 60]
    (base / "large.json").write_text(json.dumps(truth))
    (base / "labels.txt").write_text("cloud\nsun")
    return base


def _audit(base: Path, out: Path, checks: str, *more: str, truth: str = "truth.json") -> tuple[int, dict[str, Any]]:
    """Exit code and ``summary.audit`` of a policy of these checks."""
    model = f"{test_audit.__file__}:weather, labels: labels.txt, input_size: 64, resize: 64, mean: '0', std: '1'"
    path = base / "policy.yaml"
    head = f"version: 1\nmodel: {{name: {model}}}\nimages: data\nlabels: folder\ntruth: {truth}\nmin_images: 4\n"
    path.write_text(f"{head}checks:\n{checks}")
    code = main(["audit", str(path), "-o", str(out), *more])
    audit: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))["summary"]["audit"]
    return code, audit


def test_images_of_which_the_region_is_hidden_do_not_count(photos: Path, tmp_path: Path, capsys: Any) -> None:
    checks = f"""\
  - {{kind: avoid, region: {LEFT}, max_energy: 0.2}}
  - {{kind: counterfactual, replace: {LEFT}, with: mean, max_flips: 1.0, max_drop: 1.0}}
  - {{kind: inside, min_energy: 0.0, min_pointing: 0.0}}
"""
    _, audit = _audit(photos, tmp_path, checks)
    rows = audit["checks"]
    assert [row["n"] for row in rows] == [4] * 5
    # 13 of 64 columns of the map, which is even but for the square: 0.225; with the other eight it would be 0.075.
    assert rows[0]["measured"] == pytest.approx(13 * 64 / (64 * 64 - 20 * 20), abs=0.01)
    assert rows[0]["verdict"] != "passed"
    first = f"{photos}/data/sun/04.png, {photos}/data/sun/05.png, ..."
    left_out = f"in 8 of 12 images, left out: {first}"
    told = [
        f"avoid, counterfactual: the network saw nothing of the region 0,0,0.2,1 {left_out}",
        f"inside: the network saw nothing of the object {left_out}",
        HINT,
    ]
    assert audit["remarks"] == told
    [invocation] = json.loads((tmp_path / "audit.sarif").read_text())["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is True
    notes = [(each["level"], each["message"]["text"]) for each in invocation["toolExecutionNotifications"]]
    assert notes == [("note", text) for text in told]
    said = capsys.readouterr().err
    assert [said.count(text) for text in told] == [1, 1, 1]


def test_a_region_that_is_hidden_everywhere_decides_nothing(photos: Path, tmp_path: Path) -> None:
    checks = f"  - {{kind: avoid, region: {LEFT}, max_energy: 0.2}}\n"
    checks += f"  - {{kind: counterfactual, replace: {LEFT}, with: mean}}\n"
    wide = [str(photos / "data" / "sun" / f"{number:02d}.png") for number in range(4, 12)]
    code, audit = _audit(photos, tmp_path / "a", checks, *wide, "-q")
    why = "the network saw nothing of the region 0,0,0.2,1 in any of 8 images: it cannot look there"
    assert [(row["verdict"], row["n"], row["reason"]) for row in audit["checks"]] == [("not decided", 0, why)] * 2
    assert (code, audit["remarks"]) == (0, [HINT])
    assert "## Attention audit: not decided" in (tmp_path / "a" / "summary.md").read_text("utf-8")
    skipped = ElementTree.parse(tmp_path / "a" / "junit.xml").getroot().findall(".//skipped")
    assert [each.get("message") for each in skipped] == [f"not decided: {why}"] * 2
    results = json.loads((tmp_path / "a" / "audit.sarif").read_text())["runs"][0]["results"]
    assert [(each["level"], why in each["message"]["text"]) for each in results] == [("note", True)] * 2
    assert _audit(photos, tmp_path / "b", checks, *wide, "-q", "--strict")[0] == 1
    _, audit = _audit(photos, tmp_path / "c", checks, *wide, "-q", "--view", "whole")
    assert [row["n"] for row in audit["checks"]] == [8, 8]


def test_an_object_that_fills_what_the_network_sees_has_no_background(photos: Path, tmp_path: Path) -> None:
    checks = "  - {kind: avoid, max_energy: 1.0}\n  - {kind: counterfactual, with: mean, max_flips: 1.0}\n"
    _, audit = _audit(photos, tmp_path, checks, "-q", truth="large.json")
    assert [row["n"] for row in audit["checks"]] == [4, 4]
    told, hint = audit["remarks"]
    assert told.startswith(
        "avoid, counterfactual: the network saw nothing of the background in 8 of 12 images, left out"
    )
    assert hint == HINT


def test_an_object_of_which_the_network_saw_nothing_counts_for_no_background(photos: Path, tmp_path: Path) -> None:
    """All that it saw of the eight wide pictures is background: no map could lie elsewhere."""
    checks = "  - {kind: avoid, max_energy: 0.9}\n"
    _, audit = _audit(photos, tmp_path / "a", checks, "-q")
    [row] = audit["checks"]
    # The map is even but for the square, which it leaves out, but for its blurred edge; with the other eight: 0.996.
    assert (row["n"], row["measured"]) == (4, pytest.approx(0.99, abs=0.005))
    first = f"{photos}/data/sun/04.png, {photos}/data/sun/05.png, ..."
    told = f"avoid: the network saw nothing of the object in 8 of 12 images, left out: {first}"
    assert audit["remarks"] == [told, HINT]
    wide = [str(photos / "data" / "sun" / f"{number:02d}.png") for number in range(4, 12)]
    _, audit = _audit(photos, tmp_path / "b", checks, *wide, "-q")
    why = "the network saw nothing of the object in any of 8 images: it cannot look there"
    assert [(row["verdict"], row["n"], row["reason"]) for row in audit["checks"]] == [("not decided", 0, why)]


def test_without_its_object_a_picture_has_no_background_to_exchange(photos: Path, tmp_path: Path) -> None:
    """Of the eight wide pictures the exchange would replace all that the network is shown."""
    _, audit = _audit(photos, tmp_path, "  - {kind: counterfactual, with: mean, max_flips: 1.0}\n", "-q")
    assert [row["n"] for row in audit["checks"]] == [4]
    [told] = audit["remarks"]
    assert told.startswith(
        "counterfactual: 8 of 12 images have nothing, or less than 5 % of what the network saw, marked"
    )


def test_the_control_of_a_rectangle_is_as_large_as_what_was_seen_of_it_and_lies_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 107 x 64 pixels the network is shown the middle 64, and of the left 30 %, which end at 32, the last ten."""
    shown: list[Any] = []
    predict = SecondLook.predict

    def watched(look: SecondLook, pictures: Any) -> Any:
        shown.extend(pictures)
        return predict(look, pictures)

    monkeypatch.setattr(SecondLook, "predict", watched)
    wide = [str(photos / "data" / "sun" / f"{number:02d}.png") for number in range(4, 12)]
    _audit(photos, tmp_path, "  - {kind: counterfactual, replace: [0, 0, 0.3, 1], with: mean}\n", *wide, "-q")
    assert len(shown) == 16
    # The mean colour of a sky with a square of 400 of 6000 pixels.
    fill = np.array([255 * 400, 0, 200 * 5600]) / 6000
    replaced = np.array([np.abs(each[:, 22:85] - fill).max(-1) < 4 for each in shown])
    columns = replaced.all(1).sum(1)
    assert (columns[::2] == columns[0]).all()
    assert 9 <= columns[0] <= 11
    assert (np.abs(columns[1::2] - columns[0]) <= 2).all()  # seams on both sides
    starts = replaced[1::2].all(1).argmax(1)
    assert len(set(starts.tolist())) > 3


def test_a_rectangle_that_is_all_that_the_network_saw_decides_nothing(photos: Path, tmp_path: Path) -> None:
    checks = "  - {kind: counterfactual, replace: [0.15, 0, 0.85, 1], with: mean, max_flips: 1.0}\n"
    _, audit = _audit(photos, tmp_path / "a", checks, "-q")
    said = "the region 0.15,0,0.85,1 is more than 95 % of what the network saw of"
    left_out = f"left out, for nothing is left beside it: {photos}/data/sun/04.png, ..."
    assert [row["n"] for row in audit["checks"]] == [4]
    assert audit["remarks"] == [f"counterfactual: {said} 8 of 12 images, {left_out}"]
    wide = [str(photos / "data" / "sun" / f"{number:02d}.png") for number in range(4, 12)]
    _, audit = _audit(photos, tmp_path / "b", checks, *wide, "-q")
    assert [(row["verdict"], row["reason"]) for row in audit["checks"]] == [
        ("not decided", f"{said} 8 of 8 images, {left_out}")
    ]


def test_a_region_of_which_a_part_is_hidden_counts_and_is_told(photos: Path, tmp_path: Path) -> None:
    """Of the lowest tenth the crop of 100 x 60 pixels shows the middle 60 %, of the left 30 % the third from 20 %."""
    wide = [str(photos / "data" / "sun" / f"{number:02d}.png") for number in range(4, 12)]
    checks = "  - {kind: avoid, region: [0, 0.9, 1, 1], max_energy: 1.0}\n"
    checks += "  - {kind: counterfactual, replace: [0, 0, 0.3, 1], with: mean, max_flips: 1.0}\n"
    _, audit = _audit(photos, tmp_path / "a", checks, *wide, "-q")
    assert [(row["verdict"], row["n"]) for row in audit["checks"]] == [("passed", 8)] * 2
    told = [
        f"{kind}: the network saw {share} of the region {region}, the mean of 8 images: it cannot look at the rest"
        for kind, share, region in (("avoid", "60.0 %", "0,0.9,1,1"), ("counterfactual", "34.4 %", "0,0,0.3,1"))
    ]
    assert audit["remarks"] == [*told, HINT]
    scores = json.loads((tmp_path / "a" / "report.json").read_text("utf-8"))["images"][0]["explanations"][0]["scores"]
    assert scores["region_energy"]["seen"] == [pytest.approx(0.6, abs=0.01)]
    _, audit = _audit(photos, tmp_path / "b", checks, *wide, "-q", "--view", "whole")
    assert audit["remarks"] == []


def _judged(name: str, *seen: float | None) -> Judged:
    """An image with a map for each share of the region that the network saw."""
    energy = {"peak_inside": True, "energies": [0.5]}
    rows = [{"scores": {"max": 1.0, "region_energy": {**energy, "seen": [share]}}} for share in seen]
    return Judged({"path": name}, rows, "")


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Inside, "kind: inside, min_energy: 0.1, min_pointing: 0.1"), (Avoid, "kind: avoid, region: truth")],
)
def test_of_several_maps_those_of_hidden_objects_do_not_count(tmp_path: Path, kind: type[Check], text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\nimages: a\ntruth: b.json\nchecks: [{{{text}}}]")
    policy = load_policy(str(path))
    check = kind(policy.checks[0], policy)
    check.regions = ("truth",)  # type: ignore[attr-defined]
    judged = [_judged("both", 1.0, 1.0), _judged("one", 0.0, 0.5), _judged("none", 0.0, 0.0), _judged("unknown", None)]
    for made in check.statements("gradcam", judged, cast("SecondLook", SimpleNamespace())):
        assert [each.image for each in made.observations] == ["both", "both", "one", "unknown"]
    # Of two images that it saw something of: all, and a quarter, the mean of its two objects.
    assert check.remarks[0] == (
        "the network saw nothing of the object in 1 of 3 images, left out: none; "
        "the network saw 62.5 % of the object, the mean of 2 images: it cannot look at the rest"
    )


def test_the_share_of_a_region_that_was_seen() -> None:
    mask = np.zeros((6, 10), dtype=np.bool_)
    assert share_seen(mask, (0, 0, 10, 6)) is None
    mask[1:5, 2:8] = True
    for window in ((0, 0, 10, 6), (4, 0, 10, 3), (8, 0, 10, 6)):
        x0, y0, x1, y1 = window
        counted = sum(mask[y, x] for y in range(y0, y1) for x in range(x0, x1))
        assert share_seen(mask, window) == counted / 24
