"""What comparisons say beside their figures: notes, counts, the table of their page, and one picture in a pipe."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.maps.comparison import of_several
from cnnviz.report.figures_table import figures_table
from tests.support.colour_network import CLASSES, SIDE
from tests.support.colour_photos import MODEL, run, write_truth

CHEAP = ("--metric", "insertion:steps=4,baselines=no,sparseness")


def told(command: str, photos: Path, out: Path, *options: str, code: int = 0) -> list[str]:
    """What a run says on standard error, by :data:`MODEL`."""
    import contextlib

    said = io.StringIO()
    labels = ["--labels", str(photos.parent / "labels.txt"), "-o", str(out)]
    with contextlib.redirect_stderr(said):
        assert main([command, str(photos), *MODEL, *labels, *options]) == code
    return said.getvalue().splitlines()


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A picture of which a centre crop leaves out a third, and the names of classes."""
    (tmp_path / "wide").mkdir()
    rgb = np.zeros((SIDE, SIDE * 3 // 2, 3), dtype=np.uint8)
    rgb[:, 40:60, 0] = 255
    Image.fromarray(rgb).save(tmp_path / "wide" / "a.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    return tmp_path / "wide"


@pytest.mark.parametrize(("command", "tiles"), [("cam", True), ("localize", False), ("evaluate", False)])
def test_only_views_that_a_command_takes_are_recommended(wide: Path, tmp_path: Path, command: str, tiles: bool) -> None:
    options = CHEAP if command == "evaluate" else ()
    [note] = [line for line in told(command, wide, tmp_path / "out", *options) if "left out 33.3 %" in line]
    assert ("--view tiles" in note) == tiles
    assert "--view whole" in note


def test_a_layer_that_no_method_looks_at(rectangles: Path, tmp_path: Path) -> None:
    """Refused where no method does, in comparisons and alone; told where some do."""
    for command, options in (("saliency", ()), ("localize", ("--method", "saliency,occlusion"))):
        said = told(command, rectangles, tmp_path / "none", "--layer", "nope", *options, code=2)
        assert "Layer nope was named, but saliency" in said[-2]
    both = ("--method", "gradcam,saliency", "--layer", "conv")
    said = told("localize", rectangles, tmp_path / "some", *both)
    assert [line for line in said if "looks at no layer" in line] == [
        "cnnviz: note: --layer conv: saliency looks at no layer"
    ]


def test_remarks_of_metrics_are_told_once() -> None:
    hidden = ("Insertion", "hidden pixels are grey"), ("Deletion", "hidden pixels are grey")
    found = of_several({"gradcam": hidden, "lrp": [*hidden, ("", "2 of 3 maps leave out more")]})
    assert found == ["Insertion, Deletion: hidden pixels are grey", "lrp: 2 of 3 maps leave out more"]


def test_what_lrp_leaves_out_is_said_and_counted(rectangles: Path, tmp_path: Path) -> None:
    alone = run("lrp", rectangles, tmp_path / "alone")["summary"]["left_out"]
    report = run("evaluate", rectangles, tmp_path / "out", *CHEAP, "--method", "gradcam,lrp", "--no-baselines")
    assert report["summary"]["left_out"] == {"lrp": alone}


def test_what_stands_for_hidden_pixels_is_said(rectangles: Path, tmp_path: Path) -> None:
    said = told("evaluate", rectangles, tmp_path / "out", *CHEAP, "--method", "gradcam,saliency")
    assert "cnnviz: note: Insertion: hidden pixels are the blurred image" in said


def test_what_was_not_measured_is_counted(rectangles: Path, tmp_path: Path) -> None:
    """Of three pictures one is not annotated, and of each image with truth two of three maps are of other classes."""
    write_truth(tmp_path / "part.json", {"a.png": "red", "b.png": "blue"})
    options = ("--method", "cam", "--truth", str(tmp_path / "part.json"))
    found = run("localize", rectangles, tmp_path / "out", *options)["summary"]
    own = found["localization"]["cam"]
    assert found["without_truth"] == 1
    # Three maps an image (top:5 of three classes): green is no label of these annotations.
    assert (own["maps"], own["without_truth"], own["classes_outside_truth"]) == (6, 3, 2)
    assert own["flat"] == 4  # there is nothing of the two other colours
    said = told("localize", rectangles, tmp_path / "again", *options)
    assert any(line.startswith("MaxBoxAcc and MaxBoxAccV2: the best threshold") for line in said)


def test_a_constant_map_is_no_box(tmp_path: Path) -> None:
    """An image of one colour: the class map is the same everywhere, as that of the baseline which marks everything."""
    (tmp_path / "photos").mkdir()
    rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    rgb[..., 0] = 200
    Image.fromarray(rgb).save(tmp_path / "photos" / "a.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    write_truth(tmp_path / "truth.json", {"a.png": "red"})
    options = ("--truth", str(tmp_path / "truth.json"), "--method", "cam", "--class", "truth")
    report = run("localize", tmp_path / "photos", tmp_path / "out", *options)
    [scores] = [each["scores"] for each in report["images"][0]["explanations"]]
    box = scores["box_localization"]
    assert (box["flat"], box["box_xywh"], scores["flat"]) == (True, None, True)
    # It found nothing; the baseline that marks everything does.
    assert box["iou"] == 0.0 < box["baselines"]["whole_image"]["iou"]
    assert not box["baselines"]["whole_image"]["flat"]
    assert (scores["pointing_game"]["point"], scores["pointing_game"]["hit"]) == (None, False)
    said = told("localize", tmp_path / "photos", tmp_path / "again", *options)
    assert any("Box localization: 1 of 1 map is the same everywhere" in line for line in said)


def test_figures_without_maps_are_left_out(rectangles: Path, tmp_path: Path) -> None:
    report = run("evaluate", rectangles, tmp_path / "out", *CHEAP)
    for row in report["summary"]["metrics"].values():
        assert "others" not in row["insertion"]


def test_the_table_of_the_page() -> None:
    """Directions, what is better for certain, and what knows nothing of the model, which is never bold."""

    def figure(value: float | None, better: str, *than: str) -> dict[str, Any]:
        ends = None if value is None else [value, value + 1]
        return {"value": value, "ci95": ends, "n": 1, "better": better, "better_than": list(than)}

    rows = {
        "a<b": {"up": figure(1, "higher"), "down": figure(2, "lower", "c"), "none": figure(None, "higher")},
        "c": {"up": figure(3, "higher", "a<b"), "down": figure(4, "lower"), "none": figure(None, "higher")},
        "random": {"up": figure(9, "higher", "c", "a<b"), "down": figure(0, "lower"), "none": figure(None, "higher")},
    }
    page = figures_table({"study": "evaluate", "methods": ["a<b", "c"], "metrics": rows})
    assert re.findall(r'<th scope="col">([^<]*)', page) == ["up ↑", "down ↓"]
    own, beside = page.split('<tbody class="beside">')
    assert re.findall(r"<strong>(\d+)", own) == ["2", "3"]
    assert re.findall(r'<th scope="row">([^<]*)', own) == ["a&lt;b", "c"]
    assert re.findall(r'<th scope="row">([^<]*)', beside) == ["random"]
    assert "<strong>" not in beside
    assert "<small>3 to 4</small>" in own
    better = {"value": 0.1, "better_than": ["a"]}
    localized = {"a": {"top1_error": figure(0.2, "lower"), "maps": 3}, "b": {"top1_error": better}}
    table = figures_table({"study": "localize", "methods": ["a", "b"], "localization": localized})
    assert "top-1 error ↓" in table
    assert "<strong>0.1</strong>" in table
    assert figures_table({"method": "gradcam", "metrics": rows}) == ""


def test_the_page_has_the_table_and_no_running_text(rectangles: Path, tmp_path: Path) -> None:
    run("localize", rectangles, tmp_path / "out", "--method", "cam,saliency", "--truth", str(tmp_path / "truth.json"))
    page = (tmp_path / "out" / "index.html").read_text()
    assert '<th scope="row">cam</th>' in page
    assert "<dt>cam</dt>" not in page


@pytest.mark.parametrize("command", ["localize", "evaluate"])
def test_one_picture_goes_to_standard_output(
    rectangles: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], command: str
) -> None:
    """The same bytes as in a folder."""
    options = [*MODEL, "--labels", str(tmp_path / "labels.txt"), "--method", "cam,saliency", *CHEAP]
    photo = str(rectangles / "a.png")
    assert main([command, photo, *options, "-o", "-"]) == 0
    piped = capfdbinary.readouterr().out
    kind = "boxes" if command == "localize" else "panel"
    assert main([command, photo, *options, "-o", str(tmp_path / "out"), "--save", kind, "-q"]) == 0
    [row] = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    [name] = {each["files"][kind] for each in row["explanations"] if kind in each["files"]}
    assert piped == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("unit:conv:0",), "mean activation of unit 0 of conv"),
        (("unit:conv:0", "unit:conv:1"), None),
        (("unit:conv:0", "class:red"), "mean probability"),
    ],
)
def test_curves_say_what_they_follow(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...], said: str | None
) -> None:
    from cnnviz.maps import evaluate

    titles: list[str] = []
    drawn = evaluate.curves

    def noted(lines: Any, title: str, *more: Any) -> Any:
        titles.append(title)
        assert all(np.isfinite(line.points).all() for line in lines)
        return drawn(lines, title, *more)

    monkeypatch.setattr(evaluate, "curves", noted)
    asked = [word for target in targets for word in ("--target", target)]
    report = run("evaluate", rectangles, tmp_path / "out", *asked, "--method", "saliency", *CHEAP)
    assert titles == ([] if said is None else [f"Insertion: {said}; a higher area is better"])
    assert ("insertion.png" in report["files"]) == (said is not None)
    followed = "" if said is None else said.removeprefix("mean ")
    assert f"How soon the {followed} rises" in (tmp_path / "out" / "index.html").read_text() or said is None


def test_a_curve_of_other_values_fills_the_plot() -> None:
    from cnnviz.render.curves import Curve, curves

    plot = curves([Curve("a", [(0.0, -2.0), (1.0, 6.0)])], "t", "x", (-2.0, 6.0))
    rows = np.flatnonzero((plot[:, 64:684] == (66, 105, 208)).all(axis=2).any(axis=1))
    assert rows.min() <= 24 + 46 + 3
    assert rows.max() >= 24 + 46 + 380 - 3


@pytest.mark.parametrize(
    ("last", "figures", "labels"), [(1.0, True, 1), (2.0, True, 2), (3.0, True, 3), (30.0, True, 5), (2.0, False, 5)]
)
def test_an_axis_of_epochs_has_no_figures_between_them(last: float, figures: bool, labels: int) -> None:
    from cnnviz.render.curves import Curve, curves

    plot = curves([Curve("a", [(1.0, 0.5), (last, 0.5)])], "t", "epoch", whole=figures)
    below = plot[24 + 46 + 380 + 8 : 24 + 46 + 380 + 30]
    inked = np.flatnonzero((below != 255).any(axis=(0, 2)))
    assert 1 + np.count_nonzero(np.diff(inked) > 40) == labels


@pytest.mark.parametrize(
    ("command", "options", "heads"),
    [
        (
            "evaluate",
            ["--metric", "average_drop,increase,sparseness"],
            "average drop, % ↓|increase, share ↑|sparseness ↑",
        ),
        ("localize", ["--class", "truth"], "GT-known accuracy ↑|energy pointing game ↑|MaxBoxAccV2 ↑"),
    ],
)  # fmt: skip
def test_a_column_is_called_alike_in_a_terminal_and_on_the_page(
    rectangles: Path, tmp_path: Path, command: str, options: list[str], heads: str
) -> None:
    truth = ["--truth", str(tmp_path / "truth.json")] if command == "localize" else []
    said = told(command, rectangles, tmp_path / "out", "--method", "cam", *truth, *options)
    lines = [line for line in said if line.startswith("method ")]
    terminal = {head for line in lines for head in re.split(r"  +", line.strip())[1:]}
    page = set(re.findall(r'<th scope="col">([^<]*)', (tmp_path / "out" / "index.html").read_text()))
    assert set(heads.split("|")) <= terminal <= page
    metrics = json.loads((tmp_path / "out" / "report.json").read_text())["summary"].get("metrics", {"cam": {}})["cam"]
    if metrics:
        assert (metrics["average_drop"]["unit"], metrics["increase"]["unit"]) == ("%", "share")
        assert "unit" not in metrics["sparseness"]


def test_an_error_is_called_by_its_name_and_less_of_it_is_better(rectangles: Path, tmp_path: Path) -> None:
    """A column of ``box localization`` with 1 for a method that found nothing looked like the best one."""
    truth = tmp_path / "truth.json"
    write_truth(truth, {path.name: CLASSES[0] for path in rectangles.iterdir()})
    options = ("--metric", "box_localization", "--no-baselines", "--truth", str(truth), "-c", "pred")
    report = run("evaluate", rectangles, tmp_path / "out", *options)
    figure = report["summary"]["metrics"]["gradcam"]["box_localization"]
    assert (figure["figure"], figure["better"]) == ("top1_error", "lower")
    values = (("a", 1.0, []), ("b", 0.25, ["a"]))
    rows = {name: {"box_localization": {**figure, "value": value, "better_than": than}} for name, value, than in values}
    page = figures_table({"study": "evaluate", "methods": ["a", "b"], "metrics": rows})
    assert "top-1 error ↓" in page
    assert "<strong>0.25" in page
    assert any("top-1 error ↓" in line for line in told("evaluate", rectangles, tmp_path / "again", *options))
