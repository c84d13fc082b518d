"""``cnnviz targets``: what it lists is what the network says, and can be asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize, prepare
from tests.support import segment_network
from tests.support.runs import TINY, tiny_options
from tests.support.segment_network import CLASSES, SIDE

MODEL = ["-m", f"{segment_network.__file__}:make", "--input-size", str(SIDE), "--resize", str(SIDE)]
PLAIN = ["--mean", "0,0,0", "--std", "1,1,1"]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider than what the network sees: its middle third has two red parts and a green one."""
    folder = tmp_path_factory.mktemp("targets")
    rgb = np.zeros((SIDE, SIDE + 64, 3), dtype=np.uint8)
    rgb[8:40, 40:64, 0] = 255
    rgb[48:56, 40:48, 0] = 255
    rgb[40:56, 72:88, 1] = 255
    Image.fromarray(rgb).save(folder / "street.png")
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    return folder / "street.png"


def listed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["targets", *map(str, words), "--json", "-q"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_segments_are_numbered_with_area_and_box(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["--labels", street.parent / "labels.txt"]
    found = listed(capsys, street, *MODEL, *PLAIN, *labels, "-o", tmp_path)
    assert (found["task"], found["width"], found["height"]) == ("segment", SIDE + 64, SIDE)
    rows = {row["target"]: row for row in found["targets"]}
    assert [row["label"] for row in found["targets"]] == ["background", "red", "green", "red", "green", "red"]
    assert rows["class:1"]["area"] == pytest.approx((32 * 24 + 64) / SIDE**2)
    assert rows["segment:1"]["area"] == pytest.approx(32 * 24 / SIDE**2)
    boxes = [rows[f"segment:{number}"]["box_xywh"] for number in (1, 2, 3)]
    assert boxes == [[40, 8, 24, 32], [72, 40, 16, 16], [40, 48, 8, 8]]
    with Image.open(found["files"]["picture"]) as picture:
        assert picture.size[0] > 2 * picture.size[1] > 0
    # What is listed can be asked for, and is the same region.
    out = tmp_path / "map"
    words = [street, *MODEL, *PLAIN, *labels, "-t", "segment:3", "-o", out, "-q", "--save", "none"]
    assert main(["gradcam", *map(str, words)]) == 0
    [record] = json.loads((out / "report.json").read_text())["images"]
    target = record["explanations"][0]["target"]
    assert (target["label"], target["region_area"]) == ("red", pytest.approx(rows["segment:3"]["area"]))


def test_the_picture_has_the_areas_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a photograph whose pixels are no cells of the network."""
    rgb = np.zeros((37, 37, 3), dtype=np.uint8)
    rgb[5:30, 7:29, 0] = 255
    Image.fromarray(rgb).save(tmp_path / "a.png")
    told: list[Any] = []
    monkeypatch.setattr("cnnviz.maps.target_list.listing_figure", lambda *figure: told.append(figure) or rgb)
    found = listed(capsys, tmp_path / "a.png", *MODEL, *PLAIN, "-o", tmp_path / "out")
    areas = {row["label"]: row["area"] for row in found["targets"] if row["target"].startswith("class:")}
    [(_, _, names, _)] = told
    assert {bar.label: bar.area for bar in names} == pytest.approx(areas, abs=1e-6)


def test_fewer_are_listed_where_that_is_asked(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, street, *MODEL, *PLAIN, "--top", 1)
    assert [row["target"] for row in found["targets"]] == ["class:0", "segment:1"]
    # As above, but nothing says here which class is the background, so that it has a segment too.
    assert found["unlisted"] == {"class": 2, "segment": 3}
    assert main(["targets", str(street), *MODEL, *PLAIN, "--top", "1", "-q"]) == 0
    assert "Not listed: 2 more classes, 3 more segments: --top 4" in capsys.readouterr().out.splitlines()
    assert listed(capsys, street, *MODEL, *PLAIN, "--top", 4)["unlisted"] == {}


def test_a_table_says_how_to_ask(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", str(street), *MODEL, *PLAIN, "--labels", str(street.parent / "labels.txt"), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["--target", "class", "probability", "logit", "area", "x,y,w,h"]
    [first] = [line.split() for line in lines if line.startswith("segment:1 ")]
    assert first == ["segment:1", "red", "18.8", "%", "40,8,24,32"]
    assert lines[-1].endswith(f"cnnviz gradcam {street} --target segment:1")


def test_the_numbers_lie_on_their_segments() -> None:
    from cnnviz.render.segments import numbered

    parts = [np.zeros((200, 300), dtype=bool) for _ in range(2)]
    parts[0][20:90, 20:120], parts[1][110:190, 180:290] = True, True
    drawn = numbered(np.full((200, 300, 3), 100, dtype=np.uint8), parts)
    count, _, _, centres = cv2.connectedComponentsWithStats((drawn.max(axis=2) < 60).astype(np.uint8))
    assert count > 2
    for inside in parts:
        rows, columns = np.nonzero(inside)
        middle = np.array([columns.mean(), rows.mean()])
        assert np.abs(centres[1:] - middle).sum(axis=1).min() < 12


def test_classes_are_those_of_the_network(sample_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, sample_images / "cat.jpg", *tiny_options(), "--resize", 64, "--top", 3)
    loaded = load(TINY)
    rgb = np.asarray(Image.open(sample_images / "cat.jpg").convert("RGB"))
    with torch.no_grad():
        logits = loaded.module(normalize(prepare(rgb, loaded.preprocess)[0][None], loaded.preprocess))[0]
    best = logits.argsort(descending=True)[:3].tolist()
    assert [row["target"] for row in found["targets"]] == [f"class:{index}" for index in best]
    assert [row["logit"] for row in found["targets"]] == pytest.approx(logits[best].tolist(), abs=1e-4)
    assert found["files"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No IMAGE was given"),
        (["{folder}"], "several images"),
        (["{folder}/labels.txt"], "no image"),
        (["{image}", "--view", "tiles"], "listed of one view"),
        (["{image}", "-o", "-"], "Give -o a folder"),
        (["{image}", "--top", "0"], "1 or more"),
    ],
)
def test_what_cannot_be_listed(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "labels.txt").write_text("")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    filled = [word.format(folder=tmp_path, image=street) for word in words]
    assert main(["targets", *filled, *MODEL, *PLAIN]) == 2
    assert message in capsys.readouterr().err


def test_a_broken_image_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    assert main(["targets", str(tmp_path / "a.png"), *MODEL]) == 2
    assert "a.png: " in capsys.readouterr().err
