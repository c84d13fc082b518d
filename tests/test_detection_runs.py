"""Runs over photographs of detectors, as a user starts them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnviz.cli.app import main
from tests.support import box_network
from tests.support.box_network import CLASSES, SIDE

KEY = (8, 16, 24, 40)  # x0, y0, x1, y1 of the red box in the network's input


class KnownBoxes(nn.Module):
    """[N, M, 6]: three boxes that lie where they lie, scored by the mean of a colour in the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 8, stride=8)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64)
            self.conv.bias.zero_()  # type: ignore[union-attr]
        self.mix = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        with torch.no_grad():
            self.mix.weight.fill_(0.1)
            self.mix.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.mix(self.conv(x)))
        scores = torch.sigmoid(40 * a.mean((2, 3)) - 2)
        fixed = torch.tensor([[*KEY, 0.0], [32.0, 32.0, 64.0, 64.0, 1.0], [0.0, 0.0, 64.0, 64.0, 2.0]])
        rows = fixed + 0 * scores[..., None]
        return torch.cat([rows[..., :4], scores[..., None], rows[..., 4:]], 2)


def known() -> KnownBoxes:
    return KnownBoxes().eval()


MODEL = ["-m", f"{__file__}:known", "--input-size", str(SIDE), "--mean", "0,0,0", "--std", "1,1,1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph with much red and some green, one with nothing, and the first turned by its EXIF."""
    base = tmp_path_factory.mktemp("boxes")
    folder = base / "photos"
    folder.mkdir()
    rgb = np.zeros((96, 128, 3), dtype=np.uint8)
    rgb[20:80, 30:90, 0] = 255
    rgb[60:90, 80:110, 1] = 220
    Image.fromarray(rgb).save(folder / "a.png")
    Image.fromarray(np.zeros_like(rgb)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(rgb, 1)).save(folder / "c.png", exif=exif)
    (base / "labels.txt").write_text("\n".join(CLASSES))
    return folder


def _run(photos: Path, out: Path, *more: str, command: str = "gradcam", code: int = 3) -> dict[str, Any]:
    labels = ["--labels", str(photos.parent / "labels.txt")]
    assert main([command, str(photos), *MODEL, *labels, "-o", str(out), "-q", *more]) == code
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


def _close(found: list[float], expected: list[float]) -> bool:
    return found == pytest.approx(expected, abs=1e-4)


def test_boxes_are_found_explained_and_said(photos: Path, tmp_path: Path) -> None:
    asked = ["-c", "pred", "-c", "all", "-t", "box:9", "-c", "green", "-c", "blue", "-t", "diff:red,green"]
    report = _run(photos, tmp_path, "--view", "squash", *asked, "--task", "detect:score=0.4")
    model = report["model"]
    assert model["task"] == "detect"
    assert (model["boxes"]["form"], model["boxes"]["score"], model["boxes"]["iou"]) == ("end-to-end", 0.4, None)
    first, nothing, turned = report["images"]
    assert [(row["number"], row["label"]) for row in first["predictions"]] == [(1, "red"), (2, "green")]
    # The whole photograph was pressed into 64 x 64.
    assert _close(first["predictions"][0]["box_xywh"], [16, 24, 32, 36])
    assert _close(first["predictions"][1]["box_xywh"], [64, 48, 64, 48])
    rows = first["explanations"]
    assert [row["method"] for row in rows] == ["odam"] * 3
    assert [row["target"]["kind"] for row in rows] == ["box", "box", "diff"]
    target = rows[0]["target"]
    assert target["score"] == pytest.approx(np.log(target["probability"] / (1 - target["probability"])), rel=1e-4)
    assert (target["number"], target["part"], target["iou"]) == (1, "score", None)
    assert _close(target["box_xywh"], [16, 24, 32, 36])
    assert [row["spec"] for row in first["unmatched"]] == ["blue", "box:9"]
    assert [row["reason"] for row in first["unmatched"]] == [
        "blue is none of the boxes", "there is no box 9: the network finds 2 boxes",
    ]  # fmt: skip
    assert nothing["error"]["type"] == "no-target"
    assert nothing["error"]["message"].startswith("the network finds no box")
    # The upright picture of c.png is that of a.png.
    for one, other in zip(rows[:2], turned["explanations"][:2], strict=True):
        assert one["target"]["box_xywh"] == pytest.approx(other["target"]["box_xywh"])
        assert one["scores"]["peak"] == other["scores"]["peak"]
    assert Path(rows[0]["files"]["detections"]).name == "a.png.detections.png"
    assert all((tmp_path / name).stat().st_size > 0 for name in rows[0]["files"].values())


def test_boxes_of_a_crop_lie_on_the_photograph(photos: Path, tmp_path: Path) -> None:
    # The shorter side of 96 becomes 72, and the middle 64 x 64 of 72 x 96 are shown.
    spec = "box:34,28,20,30"
    report = _run(photos, tmp_path, "--resize", "72", "-t", spec, "-c", "green", "--save", "none")
    first = report["images"][0]
    scale = 96 / 72
    x0, y0, x1, y1 = KEY
    expected = [(x0 + 16) * scale, (y0 + 4) * scale, (x1 - x0) * scale, (y1 - y0) * scale]
    row = next(row for row in first["explanations"] if row["target"]["label"] == "red")
    assert _close(row["target"]["box_xywh"], expected)
    ax, ay, aw, ah = 34, 28, 20, 30
    bx, by, bw, bh = expected
    inside = (min(ax + aw, bx + bw) - max(ax, bx)) * (min(ay + ah, by + bh) - max(ay, by))
    assert row["target"]["iou"] == pytest.approx(inside / (aw * ah + bw * bh - inside), rel=1e-4)
    assert row["target"]["spec"] == spec


def test_a_box_that_nothing_matches(photos: Path, tmp_path: Path) -> None:
    report = _run(photos, tmp_path, "-t", "box:0,0,5%,5%", "-c", "red", "--save", "none")
    [row] = report["images"][0]["unmatched"]
    assert row["reason"] == "no box has an IoU of 0.5 with it; none overlaps with it"


def test_where_no_box_is_found_a_lower_score_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    high = ["--task", "detect:score=1,iou=0.5"]
    told = "the network finds no box in this image with a score of 1 or more; --task "
    report = _run(photos, tmp_path, "--save", "none", *high)
    assert report["images"][0]["error"]["message"].startswith(told)
    assert main(["targets", str(photos / "a.png"), *MODEL, *high, "-q"]) == 0
    said = capsys.readouterr().out
    [lower] = re.findall("--task ([^ ]*) takes lower ones", said)
    assert lower == "detect:iou=0.5,score=0.1"
    assert main(["targets", str(photos / "a.png"), *MODEL, "--task", lower, "-q"]) == 0
    assert "box:1 " in capsys.readouterr().out


def test_two_targets_that_are_one_box_are_said(photos: Path, tmp_path: Path) -> None:
    asked = ["-t", "box:1", "-t", "box:class=red", "-t", "box:2", "-t", "box:1/x0", "--task", "detect:score=0.4"]
    first = _run(photos, tmp_path, *asked, "--save", "none")["images"][0]
    assert [row["target"]["spec"] for row in first["explanations"]] == ["box:1", "box:2", "box:1/x0"]
    assert first["merged"] == [{"spec": "box:class=red", "same_as": "box:1"}]


@pytest.mark.parametrize(
    ("spec", "slugs"),
    [
        ("box:best", ["box-1-red"]),
        ("box:2", ["box-2-green"]),
        ("box:class=green", ["box-2-green"]),
        ("box:1/x0", ["box-1-red-x0"]),
        ("box:1/box", ["box-1-red-box"]),
        ("class:top:2", ["box-1-red", "box-2-green"]),
        ("box:1/score", ["box-1-red"]),
    ],
)
def test_words(photos: Path, tmp_path: Path, spec: str, slugs: list[str]) -> None:
    more = ["--task", "detect:score=0.4", "--save", "heatmap", "--limit", "1", "--variant", "gradcam"]
    report = _run(photos, tmp_path, "-t", spec, *more, code=0)
    rows = report["images"][0]["explanations"]
    assert [row["files"]["heatmap"] for row in rows] == [f"images/a.png.{slug}.gradcam.heatmap.png" for slug in slugs]
    if "/x0" in spec:
        assert rows[0]["target"]["score"] == KEY[0]
        assert rows[0]["target"]["label"] == "red, x0"


@pytest.mark.parametrize("command", ["occlusion", "rise", "guided", "localize", "evaluate"])
def test_other_commands(photos: Path, tmp_path: Path, command: str) -> None:
    more = {
        "occlusion": ["--window", "16", "--stride", "16"],
        "rise": ["--variant", "drise", "--masks", "8", "--cells", "4"],
        "evaluate": ["--metric", "insertion", "--method", "odam,occlusion"],
    }.get(command, [])
    report = _run(photos, tmp_path, "-t", "box:best", *more, command=command)
    rows = report["images"][0]["explanations"]
    assert all(row["target"]["kind"] == "box" for row in rows)
    watching = [row["method"] for row in rows if row.get("watched") == "box"]
    assert watching == [row["method"] for row in rows if row["method"] in {"occlusion", "drise"}]


def test_what_is_taken_for_granted_is_told(photos: Path, tmp_path: Path, capsys: Any) -> None:
    labels = ["--labels", str(photos.parent / "labels.txt")]
    start = ["gradcam", str(photos), *MODEL, *labels, "--save", "none", "--limit", "1"]
    assert main([*start, "-o", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().err
    assert "--task detect:form=end-to-end" in said
    assert "gradcam is ODAM" in said
    assert main([*start, "-o", str(tmp_path / "b"), "--variant", "gradcam"]) == 0
    assert "of a box it shows where its class is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--view", "tiles"], "--view tiles joins maps of whole crops"),
        (["--task", "detect:form=grid"], "which cannot be of the form that was asked for"),
        (["-t", "box:bset"], "expected box:N from 1, box:best"),
        (["-t", "segment:1"], "segment is asked of a network with scores at positions"),
        (["--only", "wrong", "-c", "folder"], "finds several boxes in each"),
    ],
)
def test_what_cannot_be_asked(photos: Path, tmp_path: Path, more: list[str], message: str, capsys: Any) -> None:
    assert main(["gradcam", str(photos), *MODEL, "-o", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err


def test_a_grid_is_told_by_the_number_of_labels(photos: Path, tmp_path: Path) -> None:
    model = ["-m", f"{box_network.__file__}:grid", "--input-size", str(SIDE), "--mean", "0,0,0", "--std", "1,1,1"]
    labels = ["--labels", str(photos.parent / "labels.txt")]
    out = tmp_path / "grid"
    run = ["gradcam", str(photos), *model, "-o", str(out), "-q", "--save", "none", "--limit", "1"]
    assert main([*run, *labels, "--task", "auto"]) in (0, 2, 3)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert (report["model"]["boxes"]["form"], report["model"]["num_classes"]) == ("grid", len(CLASSES))


class Wide(nn.Module):
    """[N, channels, 2, 2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 32, stride=32)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def wide25() -> Wide:
    return Wide(25).eval()


def wide84() -> Wide:
    return Wide(84).eval()


def wide85() -> Wide:
    return Wide(85).eval()


@pytest.mark.parametrize(
    ("channels", "more", "told"),
    [
        (85, [], "5 + 80, a detector's boxes of COCO"),
        (25, [], "5 + 20, a detector's boxes of Pascal VOC"),
        (84, [], ""),
        (85, ["--task", "segment"], ""),
        (85, ["--labels", "names"], ""),
    ],
)
def test_what_looks_like_a_detector_is_told(
    photos: Path, tmp_path: Path, channels: int, more: list[str], told: str, capsys: Any
) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"thing {index}" for index in range(channels)))
    more = [str(tmp_path / "names.txt") if each == "names" else each for each in more]
    model = ["-m", f"{__file__}:wide{channels}", *MODEL[2:]]
    assert main(["saliency", str(photos / "a.png"), *model, *more, "-o", str(tmp_path / "o"), "--save", "none"]) == 0
    notes = " ".join(capsys.readouterr().err.split())
    assert ("--task detect, and --labels FILE" in notes) == bool(told)
    assert told in notes


def test_all_pictures_say_the_score_of_a_box(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a grid it is no probability: the class's to the power of 0.4 times the objectness' to that of 0.6."""
    told: dict[str, float] = {}

    def panel(done: Any, rows: Any, how: Any) -> str:
        told["panel"] = rows[0].probability
        return "images/none.png"

    def legend(picture: Any, label: str, probability: float, *rest: Any) -> Any:
        told["legend"] = probability
        return picture

    monkeypatch.setattr("cnnviz.maps.write_image._write_panel", panel)
    monkeypatch.setattr("cnnviz.maps.write_image.with_legend", legend)
    model = ["-m", f"{box_network.__file__}:grid", *MODEL[2:], "--view", "squash", "--task", "detect:score=0.01"]
    labels = ["--labels", str(photos.parent / "labels.txt")]
    how = ["--save", "panel,overlay", "--legend", "-q", "-o", str(tmp_path / "o")]
    assert main(["gradcam", str(photos / "a.png"), *model, *labels, "-t", "box:1", *how]) == 0
    [image] = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))["images"]
    pixels = np.asarray(Image.open(photos / "a.png").resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255
    with torch.no_grad():
        cells = box_network.grid()(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])[0]
    score = float((cells[5:].amax(0) ** 0.4 * cells[0] ** 0.6).max())
    assert abs(score - image["explanations"][0]["target"]["probability"]) > 0.02
    assert told == pytest.approx({"panel": score, "legend": score}, abs=0.005)


def test_what_can_be_asked_is_listed(photos: Path, tmp_path: Path, capsys: Any) -> None:
    labels = ["--labels", str(photos.parent / "labels.txt")]
    run = ["targets", str(photos / "a.png"), *MODEL, *labels, "--view", "squash", "--json"]
    assert main([*run, "--task", "detect:score=0.4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "detect"
    assert [(row["target"], row["label"]) for row in found["targets"]] == [("box:1", "red"), ("box:2", "green")]
    assert _close(found["targets"][0]["box_xywh"], [16, 24, 32, 36])


def test_the_sizes_that_a_detector_takes(photos: Path, tmp_path: Path) -> None:
    report = _run(photos, tmp_path, "-c", "red", "--save", "none")
    assert report["model"]["checks"]["input_sizes"]["takes"] == "any"


def test_targets_that_are_not_found_are_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["--labels", str(photos.parent / "labels.txt"), "--save", "none", "-o", str(tmp_path)]
    asked = ["-t", "box:1", "-t", "box:9", "-t", "box:0,0,5%,5%", "-c", "blue", "-c", "red"]
    low = ["--task", "detect:score=0.4"]
    assert main(["gradcam", str(photos / "a.png"), str(photos / "c.png"), *MODEL, *labels, *low, *asked]) == 0
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    records = [row["spec"] for image in report["images"] for row in image["unmatched"]]
    assert report["summary"]["unmatched"] == Counter(records)
    told = [line for line in capsys.readouterr().err.splitlines() if "not found" in line]
    assert len(told) == 1
    assert "3 targets were not found: " in told[0]
    assert "blue in 2 of 2 images (blue is none of the boxes)" in told[0]
    assert "box:9 in 2 of 2 images (there is no box 9: the network finds 2 boxes)" in told[0]
    found = ["gradcam", str(photos / "a.png"), *MODEL, *labels, *low, "-t", "box:1", "--overwrite"]
    assert main(found) == 0
    assert "unmatched" not in json.loads((tmp_path / "report.json").read_text("utf-8"))["summary"]
    assert "not found" not in capsys.readouterr().err
