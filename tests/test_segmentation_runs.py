"""Runs over photographs of networks with scores at positions, as a user starts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.registry.tasks import TaskSpec
from cnnviz.tasks.segmentation import Segmentation
from tests.support import segment_network
from tests.support.segment_network import CELL, CLASSES, SIDE

MODEL = [
    "-m", f"{segment_network.__file__}:make", "--input-size", str(SIDE), "--resize", str(SIDE),
    "--mean", "0,0,0", "--std", "1,1,1",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two coloured rectangles, one green and smaller; nothing; and a photograph that is turned by its EXIF."""
    base = tmp_path_factory.mktemp("segments")
    folder = base / "photos"
    folder.mkdir()
    rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    rgb[8:40, 8:32, 0] = 255
    rgb[40:56, 40:56, 1] = 255
    Image.fromarray(rgb).save(folder / "a.png")
    Image.fromarray(np.zeros_like(rgb)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: the upright picture is np.rot90(stored, -1)
    Image.fromarray(np.rot90(rgb, 1)).save(folder / "c.png", exif=exif)
    (base / "labels.txt").write_text("\n".join(CLASSES))
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[8:24, 8:32], mask[40:56, 40:56] = 7, 9
    Image.fromarray(mask).save(base / "mask.png")
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 24, 16]}],
    }
    (base / "truth.json").write_text(json.dumps(truth))
    return folder


def _run(photos: Path, out: Path, *more: str, command: str = "gradcam", code: int = 0) -> dict[str, Any]:
    labels = ["--labels", str(photos.parent / "labels.txt")]
    assert main([command, str(photos), *MODEL, *labels, "-o", str(out), "-q", *more]) == code
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


def test_a_region_that_the_network_was_not_shown_is_said(photos: Path, tmp_path: Path, capsys: Any) -> None:
    """A centre crop of a picture of twice its width: of the left half it saw half, of the left fifth nothing."""
    rgb = np.zeros((SIDE, 2 * SIDE, 3), dtype=np.uint8)
    rgb[8:40, 40:72, 0] = 255
    (tmp_path / "wide").mkdir()
    Image.fromarray(rgb).save(tmp_path / "wide" / "a.png")
    words = ["-t", "class:1@box:0,0,50%,100%", "-t", "class:1@box:0,0,20%,100%", "-t", "class:1@box:200%,0,9,9"]
    how = [*MODEL, "--view", "crop", "--save", "none"]
    out = tmp_path / "out"
    assert main(["gradcam", str(tmp_path / "wide"), *how, "-o", str(out), *words, "-t", "class:1"]) == 0
    said = capsys.readouterr().err
    assert "the network saw 50.0 % of the region box:0,0,50%,100%: it cannot look at the rest; --view whole" in said
    [image] = json.loads((out / "report.json").read_text("utf-8"))["images"]
    seen = {row["target"]["region"]: row["target"]["region_seen"] for row in image["explanations"]}
    assert seen == {"box:0,0,50%,100%": pytest.approx(0.5), "pred": None}
    hidden, beside = image["unmatched"]
    assert "outside the part of this image that the network saw; --view whole shows it all" in hidden["reason"]
    assert beside["reason"] == "@box:200%,0,9,9 lies outside this image"


@pytest.mark.parametrize("command", ["gradcam", "targets"])
def test_what_it_was_not_shown_is_grey_in_the_prediction(command: str, tmp_path: Path) -> None:
    """A red picture of twice its height, of which the crop hides both outer quarters."""
    Image.fromarray(np.full((SIDE, 2 * SIDE, 3), (255, 0, 0), dtype=np.uint8)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    save = ["--save", "segments"] if command == "gradcam" else []
    assert main([command, str(tmp_path / "a.png"), *MODEL, "--view", "crop", *save, "-o", str(out), "-q"]) == 0
    [name] = [*out.rglob("a.png.segments.png"), *out.rglob("a.png.targets.png")]
    with Image.open(name) as opened:
        figure = np.asarray(opened.convert("RGB")).astype(int)
    # The photograph is red from edge to edge; its copy with the prediction in no column of its outer quarters.
    red = (figure == (255, 0, 0)).all(axis=2)
    columns = np.flatnonzero(red.sum(axis=0) > 100)
    assert columns.max() - columns.min() + 1 == len(columns) == 420


def test_what_is_found_is_explained_and_said(photos: Path, tmp_path: Path) -> None:
    report = _run(photos, tmp_path, "-c", "pred", "-c", "top:5", "-t", "segment:2", "-t", "class:blue", code=3)
    assert report["model"]["task"] == "segment"
    first, nothing, turned = report["images"]
    found = {row["label"]: row["area"] for row in first["predictions"]}
    assert found == pytest.approx({"background": 1 - (32 * 24 + 256) / SIDE**2, "red": 768 / 4096, "green": 256 / 4096})
    slugs = [Path(row["files"]["overlay"]).name for row in first["explanations"]]
    assert slugs == [f"a.png.{s}.gradcam.overlay.png" for s in ("red", "green", "segment-2-green")]
    target = first["explanations"][0]["target"]
    assert (target["kind"], target["region"], target["elements"], target["reduction"]) == ("region", "pred", 768, "sum")
    assert target["score"] == pytest.approx(target["logit"] * 768, rel=1e-5)
    assert first["unmatched"] == [{"spec": "blue", "reason": "blue is found nowhere in this image"}]
    assert nothing["error"]["type"] == "no-target"
    assert "nothing but the background" in nothing["error"]["message"]
    # The upright picture of c.png is that of a.png.
    for one, other in zip(first["explanations"], turned["explanations"], strict=True):
        assert {**one["target"]} == pytest.approx({**other["target"]})
        assert one["scores"]["peak"] == other["scores"]["peak"]
    for name in first["explanations"][0]["files"].values():
        assert (tmp_path / name).stat().st_size > 0


_LEFT, _RIGHT = "class:red@box:0,0,40%,100%", "class:red@box:70%,0,30%,100%"


@pytest.mark.parametrize(
    ("variant", "targets", "told"),
    [
        ("gradcam", (_LEFT, _RIGHT), True),
        ("hirescam", (_LEFT, _RIGHT), False),
        ("gradcam", ("class:red", "class:red@all"), False),
    ],
)
def test_a_region_moves_a_map_by_positions_alone_and_the_run_says_so(
    photos: Path, tmp_path: Path, variant: str, targets: tuple[str, str], told: bool, capsys: Any
) -> None:
    two = Image.new("RGB", (SIDE, SIDE))
    for left in (8, 48):
        two.paste((255, 0, 0), (left, 8, left + 8, 24))
    two.save(tmp_path / "two.png")
    labels = ["--labels", str(photos.parent / "labels.txt")]
    ask = ["gradcam", str(tmp_path / "two.png"), *MODEL, *labels, "--variant", variant, "-t", targets[0]]
    assert main([*ask, "-t", targets[1], "-l", "encoder", "--save", "raw", "-o", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert ("--variant hirescam, odam or layercam weighs positions apart" in said) == told
    [image] = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["images"]
    raws = [np.load(tmp_path / "out" / row["files"]["raw"])["raw"] for row in image["explanations"]]
    one, other = (raw / raw.max() for raw in raws)
    assert bool(np.abs(one - other).max() < 1e-5) == (variant == "gradcam")


def test_rows_of_panels_name_the_region(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def panel(done: Any, rows: Any, how: Any) -> str:
        told.extend(row.label for row in rows)
        return "images/none.png"

    monkeypatch.setattr("cnnviz.maps.write_image._write_panel", panel)
    _run(photos, tmp_path, "-t", "segment:2", "-t", "class:red@all", "-c", "red", "--save", "panel", "--limit", "1")
    assert told == ["red", "green @segment:2", "red @all"]


def test_the_evidence_for_red_lies_on_red(photos: Path, tmp_path: Path) -> None:
    report = _run(photos, tmp_path, "-c", "red", "-l", "encoder", "--save", "raw,segments", code=3)
    first = report["images"][0]["explanations"][0]
    with np.load(tmp_path / first["files"]["raw"]) as stored:
        raw = stored["raw"]
    # The gradient at the encoder's red channel is the kernel's, of the others zero: the map is the red of each cell.
    expected = np.zeros((SIDE // CELL, SIDE // CELL))
    expected[2:10, 2:8] = 1
    np.testing.assert_allclose(raw / raw.max(), expected, atol=1e-6)
    shares = {row["label"]: row["share"] for row in first["evidence"]}
    assert shares["red"] > 0.85
    assert shares["green"] == 0
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / first["files"]["segments"]).is_file()


@pytest.mark.parametrize(("height", "width", "resize"), [(37, 37, SIDE), (40, 64, 40)])
def test_outlined_is_the_same_share_as_in_the_list(
    photos: Path, tmp_path: Path, height: int, width: int, resize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph whose pixels are no cells of the network, and one that is smaller than what it is shown."""
    rgb = np.zeros((height, width, 3), dtype=np.uint8)
    rgb[5:30, 7:29, 0] = 255
    (tmp_path / "odd").mkdir()
    Image.fromarray(rgb).save(tmp_path / "odd" / "a.png")
    told: list[Any] = []
    monkeypatch.setattr("cnnviz.maps.segment_picture.segment_figure", lambda *figure: told.append(figure) or rgb)
    how = ["--view", "crop", "--resize", str(resize)]
    words = ["-c", "red", "-t", "segment:1", "-t", "class:red@box:0,0,50%,100%", "--save", "segments"]
    _run(tmp_path / "odd", tmp_path / "out", *how, *words, "--labels", str(photos.parent / "labels.txt"))
    [(_, _, names, tiles, _)] = told
    listed = {bar.label: bar.area for bar in names}
    # The figure of the list, with the digits that a picture shows.
    assert sum(listed.values()) == pytest.approx(1, abs=1e-9)
    red = f"outlined: {100 * listed['red']:.1f} % of what was seen"
    assert [tile.detail for tile in tiles] == [red, red, "outlined: 50.0 % of what was seen"]
    assert abs(listed["red"] - 25 * 22 / (height * width)) < 0.05


@pytest.mark.parametrize(
    ("region", "elements"),
    [
        ("@all", SIDE * SIDE),
        ("@box:8,8,24,16", 384),
        ("@box:12.5%,12.5%,37.5%,25%", 384),
        ("@point:10.5,9", 1),
        ("@mask:{mask}", 384 + 256),
        ("@mask:{mask}#7", 384),
        ("@truth", 384),
    ],
)
def test_regions_of_the_photograph(photos: Path, tmp_path: Path, region: str, elements: int) -> None:
    mask, truth = photos.parent / "mask.png", photos.parent / "truth.json"
    spec = f"class:red{region.format(mask=mask)}"
    more = ["--truth", str(truth)] if region == "@truth" else []
    report = _run(photos, tmp_path, "-t", spec, "--save", "none", *more, code=3 if more else 0)
    row = report["images"][0]["explanations"][0]
    assert row["target"]["elements"] == elements
    assert row["target"]["region_area"] == pytest.approx(elements / SIDE**2)
    assert row["target"]["spec"] == spec
    # 0.84 of the red and what the neighbours give: by hand where the whole region lies inside.
    if region == "@point:10.5,9":
        assert row["target"]["score"] == pytest.approx(0.84 + 3 * 0.02, abs=1e-5)
    if region == "@truth":
        assert "mark no red" in report["images"][1]["error"]["message"]


def test_a_mask_of_another_size_is_a_row_with_its_reason(photos: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.fromarray(np.ones((3, 5), dtype=np.uint8)).save(small)
    report = _run(photos, tmp_path / "out", "-t", f"class:red@mask:{small}", code=3)
    assert [row["error"]["message"] for row in report["images"]] == [
        f"mask {small} has 5 x 3 pixels, its image 64 x 64"
    ] * 3


@pytest.mark.parametrize("command", ["occlusion", "guided", "localize", "evaluate"])
def test_other_commands(photos: Path, tmp_path: Path, command: str) -> None:
    more = {"occlusion": ["--window", "16", "--stride", "16"], "evaluate": ["--metric", "insertion"]}.get(command, [])
    report = _run(photos, tmp_path, "-t", "class:red@all", *more, command=command)
    rows = report["images"][0]["explanations"]
    assert rows[0]["target"]["kind"] == "region"
    assert all((row.get("watched") == "mean") == (row["method"] == "occlusion") for row in rows)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--view", "tiles"], "--view tiles joins maps of whole crops"),
        (["--task", "classify"], "--task classify: the explained output has shape"),
        (["--task", "segmnt"], "Did you mean segment"),
        (["-t", "class:red@truth"], "Give --truth PATH"),
        (["-t", "box:1"], "box is asked of a detector, which this is not"),
    ],
)
def test_what_cannot_be_asked(photos: Path, tmp_path: Path, more: list[str], message: str, capsys: Any) -> None:
    labels = ["--labels", str(photos.parent / "labels.txt")]
    assert main(["gradcam", str(photos), *MODEL, *labels, "-o", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err


def test_a_study_of_classes_says_what_it_needs(photos: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["embed", str(photos), *MODEL, "-o", str(tmp_path / "out")]) == 2
    assert "needs class scores for the whole image" in capsys.readouterr().err


def test_segments_are_of_networks_that_have_them(photos: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["gradcam", str(photos), "-t", "segment:1", "-o", str(tmp_path / "out")]) == 2
    assert "segment is asked of a network with scores at positions" in capsys.readouterr().err


def test_a_task_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "depth"

        @staticmethod
        def load() -> TaskSpec:
            return TaskSpec(name="depth", entry="cnnviz.tasks.segmentation:Segmentation", summary="Far.", dense=True)

    monkeypatch.setattr(lookup, "entry_points", lambda group: [Point] if group == lookup.TASK_GROUP else [])
    lookup.all_tasks.cache_clear()
    try:
        assert lookup.find_task(lookup.read_task("depth"), (1, 3, 4, 5)).load() is Segmentation
        assert lookup.find_task(lookup.read_task("auto"), (1, 3, 4, 5)).name == "segment"
        assert lookup.find_task(lookup.read_task("auto"), (1, 3)).name == "classify"
        with pytest.raises(CnnvizError, match="--task depth: the explained output has shape"):
            lookup.find_task(lookup.read_task("depth"), (1, 3))
    finally:
        lookup.all_tasks.cache_clear()


def test_layers_of_a_network_with_skips(capsys: pytest.CaptureFixture[str]) -> None:
    """The end of the encoder is not on every path to the output: no CAM, and said so."""
    assert main(["layers", f"{segment_network.__file__}:unet", "--input-size", "24,32", "--json"]) == 0
    [target] = [row for row in json.loads(capsys.readouterr().out) if row["default_target"]]
    assert (target["name"], target["output_stride"]) == ("act:3", [4, 4])
    assert "connections lead past act" in target["cam"]
