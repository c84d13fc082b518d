"""``--only wrong`` and ``--only correct``: which images are explained, how truth and prediction stand side by side."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.geometry.placement import PlacedMap
from cnnviz.maps.mistake_picture import by_method
from cnnviz.render.colormap import colormap
from cnnviz.render.mistake import mistake_panel
from cnnviz.render.overlay import Style
from cnnviz.render.panel import PanelRow
from cnnviz.report.confusion_table import COLUMNS, ROWS, confusion_table
from cnnviz.report.markup import anchor
from cnnviz.run.confusion import ConfusionCount
from tests.support.colour_network import CLASSES, SIDE
from tests.support.colour_photos import MODEL, SQUARES, run
from tests.support.pictures import grey, pixels

# By file: the folder that says what it shows, and the rectangles in it: colour, value, box. The most light wins.
PHOTOS = {
    "green/a.png": [("red", 255, (0, 0, 32, 64)), ("green", 128, (40, 8, 16, 16))],
    "red/b.png": [("red", 255, (8, 8, 16, 16))],
    "blue/c.png": [("blue", 255, (8, 8, 16, 16)), ("green", 100, (40, 40, 16, 16))],
    "blue/d.png": [("red", 200, (8, 8, 40, 40)), ("blue", 255, (48, 48, 8, 8))],
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, squares in PHOTOS.items():
        rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        for colour, value, (x, y, w, h) in squares:
            rgb[y : y + h, x : x + w, CLASSES.index(colour)] = value
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(folder / name)
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    return folder


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {Path(row["path"]).name: row for row in report["images"]}


def test_only_what_is_wrong_is_explained(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run("cam", photos, out, "--class", "folder", "--only", "wrong")
    rows = by_name(report)
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "a.png": "wrong", "b.png": "correct", "c.png": "correct", "d.png": "wrong",
    }  # fmt: skip
    explained = {
        name: [(each["role"], each["target"]["label"]) for each in row["explanations"]] for name, row in rows.items()
    }
    both = {"a.png": [("truth", "green"), ("predicted", "red")], "d.png": [("truth", "blue"), ("predicted", "red")]}
    assert explained == {"b.png": [], "c.png": [], **both}
    assert [rows[name].get("skipped") for name in ("a.png", "b.png", "c.png", "d.png")] == [None, True, True, None]
    # Of 64 x 64 pixels: 16 x 16 of value 128/255, ten times their mean.
    assert np.isclose(rows["a.png"]["true_classes"][0]["logit"], 10 * 128 / 255 / 16, atol=1e-5)
    summary = report["summary"]
    assert (summary["inputs"], summary["explained"], summary["skipped"], summary["failed"]) == (4, 2, 2, 0)
    assert summary["outcomes"] == {"correct": 2, "wrong": 2}
    pictures = {path.name.split(".")[0] for path in (out / "images").rglob("*.png")}
    assert pictures == {"a", "d"}


def test_truth_and_prediction_are_drawn_in_one_range(photos: Path, tmp_path: Path) -> None:
    """Grad-CAM of a colour is 10/256 times its value in each of 256 cells, and the square of green is of value 128."""
    out = tmp_path / "out"
    report = run("gradcam", photos, out, "--class", "folder", "--only", "wrong", "--alpha", "1")
    truth, predicted = by_name(report)["a.png"]["explanations"]
    for each in (truth, predicted):
        np.testing.assert_allclose(each["drawn_limits"], [0, 10 / 256], rtol=1e-5)
    levels = {}
    for each in (truth, predicted):
        levels[each["role"]] = int(grey(out / each["files"]["heatmap"]).max())
    assert levels == {"truth": 128, "predicted": 255}
    assert truth["files"]["panel"] == predicted["files"]["panel"]
    panel = pixels(out / truth["files"]["panel"])
    places = {
        role: np.median(np.nonzero((panel == colormap("turbo")[level]).all(axis=2))[1])
        for role, level in levels.items()
    }
    assert places["truth"] < places["predicted"]


def test_other_limits_stay(photos: Path, tmp_path: Path) -> None:
    report = run("cam", photos, tmp_path / "out", "--class", "folder", "--only", "wrong", "--scale", "fixed:0,3")
    assert {tuple(each["drawn_limits"]) for row in report["images"] for each in row["explanations"]} == {(0.0, 3.0)}


def test_maps_are_those_of_any_other_run(photos: Path, tmp_path: Path) -> None:
    some = run("cam", photos, tmp_path / "a", "--class", "folder", "--only", "correct", "--save", "raw")
    every = run("cam", photos, tmp_path / "b", "--class", "folder", "--save", "raw")
    rows = by_name(some)
    assert {name for name, row in rows.items() if row["explanations"]} == {"b.png", "c.png"}
    for name in ("b.png", "c.png"):
        raw = [
            np.load(tmp_path / folder / row["explanations"][0]["files"]["raw"])["raw"]
            for folder, row in (("a", rows[name]), ("b", by_name(every)[name]))
        ]
        np.testing.assert_array_equal(*raw)
        assert "role" not in rows[name]["explanations"][0]
    assert every["confusion"] == some["confusion"]
    assert "skipped" not in every["summary"]


def test_the_confusion_table_counts_and_links(photos: Path, tmp_path: Path) -> None:
    report = run("cam", photos, tmp_path / "out", "--class", "folder", "--only", "wrong")
    cells = {(c["truth"]["label"], c["predicted"]["label"]): c for c in report["confusion"]["cells"]}
    assert {pair: cell["images"] for pair, cell in cells.items()} == {
        ("green", "red"): 1, ("red", "red"): 1, ("blue", "blue"): 1, ("blue", "red"): 1,
    }  # fmt: skip
    page = (tmp_path / "out" / "index.html").read_text()
    [table] = re.findall(r'<table class="confusion">.*?</table>', page, re.S)
    links = re.findall(r'href="#([^"]+)"', table)
    assert sorted(links) == sorted(anchor(each["name"]) for each in report["images"] if each["outcome"] == "wrong")
    assert sorted(re.findall(r'<article id="([^"]+)"', page)) == sorted(links)  # no cards of images left out
    heads = re.findall(r'<th scope="col"><span>(\w+)', table)
    assert (heads, re.findall(r'<th scope="row">(\w+)', table)) == (["red", "blue"], ["green", "blue"])
    assert "truth: green, predicted: red" in page


def test_long_tables_are_cut_and_say_so() -> None:
    """Against a count by hand of random pairs; the rows that stay have the most errors."""
    rng = np.random.default_rng(0)
    pairs = [(int(t), int(p)) for t, p in rng.integers(0, 60, (300, 2))] + [(7, 8)] * 30
    count = ConfusionCount()
    for number, (true, predicted) in enumerate(pairs):
        names = [{"class_index": index, "label": f"c<{index}"} for index in (true, predicted)]
        record: Any = {
            "name": f"n {number}",
            "outcome": "correct" if true == predicted else "wrong",
            "predictions": [names[1]],
            "true_classes": [names[0]],
        }
        count.count(record)
    found = count.to_dict()
    assert found is not None
    by_hand = Counter(pairs)
    assert {(c["truth"]["class_index"], c["predicted"]["class_index"]): c["images"] for c in found["cells"]} == by_hand
    table = confusion_table(found)
    rows = [int(each) for each in re.findall(r'<th scope="row">c&lt;(\d+)', table)]
    wrong = Counter(true for true, predicted in pairs if true != predicted)
    assert len(rows) == ROWS
    assert min(wrong[row] for row in rows) >= max(wrong[row] for row in range(60) if row not in rows)
    assert len(re.findall(r'<th scope="col">', table)) == COLUMNS
    assert f"those {ROWS} of {len({true for true, _ in pairs})} true classes" in table
    more = by_hand[7, 8] - 20
    assert f"<summary>{by_hand[7, 8]}</summary>" in table
    assert f"{more} more</details>" in table


def test_the_confusion_table_has_what_is_wrong_by_what_is_marked(rectangles: Path, tmp_path: Path) -> None:
    """Of marks that may mean several classes; a mark without errors is left out, an image of a class keeps its name."""
    names = [{"class_index": index, "label": label} for index, label in enumerate(("ram", "bighorn", "plow", "cat"))]
    ram, bighorn, plow, cat = names
    count = ConfusionCount()
    for number, (shows, predicted, mark) in enumerate(
        [(ram, plow, "sheep"), (bighorn, plow, "sheep"), (bighorn, bighorn, "sheep"), (cat, cat, "feline")]
    ):
        record: Any = {"name": f"n{number}", "outcome": "correct" if shows is predicted else "wrong"}
        count.count({**record, "predictions": [predicted], "true_classes": [shows, cat], "true_marks": [[mark], []]})
    found = count.to_dict()
    assert found is not None
    cells = [(c["truth"], c["predicted"]["label"], c["correct"], c["images"]) for c in found["cells"]]
    sheep, feline = ({"class_index": None, "label": label} for label in ("sheep", "feline"))
    assert cells == [(feline, "cat", True, 1), (sheep, "bighorn", True, 1), (sheep, "plow", False, 2)]
    table = confusion_table(found)
    assert re.findall(r'<th scope="row">(\w+)', table) == ["sheep"]
    assert re.findall(r'<th scope="col"><span>(\w+)', table) == ["bighorn", "plow"]
    assert " 1 class without errors is left out." in table
    right = confusion_table({**found, "wrong": 0, "cells": found["cells"][:2]})
    assert "All 4 images are taken for what they show." in right
    assert "<table" not in right
    annotated = json.loads((tmp_path / "truth.json").read_text())
    annotated["categories"] = [{**each, "name": f"a {each['name']} thing"} for each in annotated["categories"]]
    (tmp_path / "things.json").write_text(json.dumps(annotated))
    means = {each["name"]: list(CLASSES) for each in annotated["categories"]}
    (tmp_path / "means.yaml").write_text(json.dumps(means))
    options = ("--truth", str(tmp_path / "things.json"), "--truth-classes", str(tmp_path / "means.yaml"))
    report = run("cam", rectangles, tmp_path / "out", "-c", "truth", *options)
    marks = {own for row in report["images"] for each in row["true_marks"] for own in each}
    assert marks <= set(means)
    assert {cell["truth"]["label"] for cell in report["confusion"]["cells"]} <= marks


def test_tables_and_annotations_know_the_truth_too(rectangles: Path, tmp_path: Path) -> None:
    """All three pictures are seen as what they are, unless something says otherwise; any of several labels will do."""
    (tmp_path / "t.tsv").write_text("path\tlabel\na.png\tgreen\nb.png\tblue\nc.png\tgreen\n")
    (tmp_path / "t.csv").write_text("photos/a.png,red\nphotos/a.png,blue\nphotos/b.png,green\nphotos/c.png,green\n")
    annotated = json.loads((tmp_path / "truth.json").read_text())
    for each in annotated["annotations"]:
        each["category_id"] = 0
    (tmp_path / "blue.json").write_text(json.dumps(annotated))
    for options, wrong in (
        (("--class", str(tmp_path / "t.csv")), ["b.png"]),
        (("--truth", str(tmp_path / "truth.json")), []),
        (("--truth", str(tmp_path / "blue.json")), ["a.png", "c.png"]),
    ):
        report = run("cam", rectangles, tmp_path / "out", "--only", "wrong", "--overwrite", *options)
        assert [Path(row["path"]).name for row in report["images"] if row["explanations"]] == wrong
    inputs = rectangles / "t.tsv"
    inputs.write_text((tmp_path / "t.tsv").read_text())
    report = run(
        "cam", inputs.with_name("t.tsv"), tmp_path / "list", "--only", "wrong", "--labels", str(tmp_path / "labels.txt")
    )
    assert [Path(row["path"]).name for row in report["images"] if row["explanations"]] == ["a.png"]


def test_several_methods_stand_below_each_other(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--class", "folder", "--only", "wrong", "--save", "panel")
    report = run(
        "evaluate", photos, out, *options, "--method", "cam,saliency", "--metric", "sparseness", "--no-baselines"
    )
    row = by_name(report)["a.png"]
    [name] = {each["files"]["panel"] for each in row["explanations"]}
    assert name.endswith(".methods.panel.png")
    one = run("cam", photos, tmp_path / "one", *options)
    alone = pixels(tmp_path / "one" / by_name(one)["a.png"]["explanations"][0]["files"]["panel"])
    both = pixels(out / name)
    assert both.shape[1] == alone.shape[1]
    assert both.shape[0] > 1.7 * alone.shape[0]
    limits = {each["method"]: [] for each in row["explanations"]}
    for each in row["explanations"]:
        limits[each["method"]].append(each["drawn_limits"])
    assert all(first == second for first, second in limits.values())
    assert limits["cam"] != limits["saliency"]


def test_many_true_classes_go_on_below() -> None:
    """The likeliest true class, the predicted one, then the rest; four a line."""

    def row(label: str, role: str) -> tuple[PanelRow, Any]:
        placed = PlacedMap(np.ones((60, 60), np.float32), (0, 0, 60, 60), False)
        method = SimpleNamespace(name="cam")
        return PanelRow(label, 0.1, placed, "cam", (0.0, 1.0), 1.0, role), SimpleNamespace(method=method)

    made = [
        row("a", "truth"),
        row("b", "truth"),
        row("z", "predicted"),
        *(row(x, "truth") for x in "cde"),
        row("x", ""),
    ]
    [own] = by_method([each for each, _ in made], [item for _, item in made])
    assert [each.label for each in own] == ["a", "z", "b", "c", "d", "e"]
    rgb = np.zeros((60, 60, 3), np.uint8)
    whole, two = (mistake_panel(rgb, [own[:count]], Style(), "t") for count in (6, 2))
    four = mistake_panel(rgb, [own[:4]], Style(), "t")
    assert whole.shape[1] == four.shape[1] > two.shape[1]
    assert whole.shape[0] > 1.7 * four.shape[0]


def test_a_run_goes_on_where_it_stopped(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--class", "folder", "--only", "wrong")
    run("cam", photos, out, *options, "--limit", "2")
    report = run("cam", photos, out, *options, "--resume")
    whole = run("cam", photos, tmp_path / "whole", *options)
    for name in ("explained", "skipped", "outcomes", "inputs"):
        assert report["summary"][name] == whole["summary"][name], name
    assert report["confusion"] == whole["confusion"]
    again = run("cam", photos, out, *options, "--resume")
    assert again["summary"]["resumed"] == 4
    assert again["summary"]["seconds"] == report["summary"]["seconds"]


def test_tiles_are_judged_by_the_deciding_one(photos: Path, tmp_path: Path) -> None:
    options = ("--class", "folder", "--only", "wrong", "--view", "tiles")
    report = run("cam", photos, tmp_path / "out", *options)
    assert [Path(row["path"]).name for row in report["images"] if row["explanations"]] == ["d.png", "a.png"]


def test_class_maps_of_what_is_wrong(photos: Path, tmp_path: Path) -> None:
    """A study that makes maps leaves out, judges and counts as the others do."""
    options = ("--class", "folder", "--only", "wrong", "--size", str(SIDE))
    report = run("classmap", photos, tmp_path / "out", *options)
    maps = run("cam", photos, tmp_path / "maps", "--class", "folder", "--only", "wrong")
    assert report["confusion"] == maps["confusion"]
    for name in ("explained", "skipped", "outcomes"):
        assert report["summary"][name] == maps["summary"][name]
    for one, other in zip(report["images"], maps["images"], strict=True):
        for key in ("outcome", "skipped"):
            assert one.get(key) == other.get(key)
        labels = [[each["target"]["label"] for each in row["explanations"]] for row in (one, other)]
        assert labels[0] == labels[1]
    assert '<table class="confusion">' in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "wrong"), "nothing says what the images show"),
        (("--only", "wrongg", "--class", "folder"), "expected one of wrong, correct"),
        (("--only", "wrong", "--class", "folder", "-o", "-", "--save", "panel"), "leaves it out"),
    ],
)
def test_what_cannot_be_asked(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    where = () if "-o" in options else ("-o", str(tmp_path / "out"))
    labels = ("--labels", str(tmp_path / "labels.txt"))
    assert main(["cam", str(photos / "red" / "b.png"), *MODEL, *labels, *where, *options]) == 2
    assert said in capfd.readouterr().err


def test_labels_of_a_tsv_may_have_commas(rectangles: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red, the warm one\ngreen\nblue")
    table = "".join(f"{name}\t{label}\n" for name, (label, _) in SQUARES.items()).replace("red", "red, the warm one")
    (tmp_path / "t.tsv").write_text(table)
    report = run("cam", rectangles, tmp_path / "out", "--class", str(tmp_path / "t.tsv"))
    assert report["summary"]["outcomes"] == {"correct": 3, "wrong": 0}


@pytest.mark.parametrize("command", ["gradcam", "adversarial", "localize"])
def test_folders_that_name_no_class_are_refused_once(
    command: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "all" / "greem"
    flat.mkdir(parents=True)
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        path.rename(flat / f"{number}.png")
    (flat / "0.png").rename(flat.parent / "first.png")
    out = tmp_path / "out"
    assert main([command, str(flat.parent), *MODEL, "-c", "folder", "-o", str(out)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note")]
    assert len(said) == 2
    assert (
        said[0]
        == "cnnviz: --class folder: no folder of an input is called like a class of the network ('all', 'greem')."
    )
    assert said[1].endswith("or give --class FILE.csv with path,label.")
    assert not out.exists()


def test_one_folder_that_names_a_class_is_enough(photos: Path, tmp_path: Path) -> None:
    (photos / "green").rename(photos / "greem")
    out, labels = tmp_path / "out", str(tmp_path / "labels.txt")
    options = ["--labels", labels, "--class", "folder", "--save", "none", "-q", "-o", str(out)]
    assert main(["gradcam", str(photos), *MODEL, *options]) == 3
    rows = by_name(json.loads((out / "report.json").read_text()))
    assert [(rows[name].get("error") or {}).get("type") for name in ("a.png", "b.png")] == ["unknown-label", None]
    assert "greem" in rows["a.png"]["error"]["message"]
