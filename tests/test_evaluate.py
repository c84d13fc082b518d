"""``evaluate``: the figures of a method are those of its own run, baselines stand beside it, the table is theirs."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnviz.cli.app import main
from cnnviz.maps.parts import Parts
from tests.support.colour_photos import MODEL, run

FEW = ("--metric", "insertion:steps=4,baselines=no,deletion:steps=4,baselines=no,sparseness")


@pytest.fixture
def report(rectangles: Path, tmp_path: Path) -> dict[str, Any]:
    return run("evaluate", rectangles, tmp_path / "out", "--method", "gradcam,saliency", *FEW)


def test_figures_are_those_of_the_method_alone(report: dict[str, Any], rectangles: Path, tmp_path: Path) -> None:
    alone = run("gradcam", rectangles, tmp_path / "alone", *FEW)
    for name, figure in (("insertion", "area"), ("deletion", "area"), ("sparseness", "gini")):
        own, single = report["summary"]["metrics"]["gradcam"][name], alone["summary"]["metrics"][name][figure]
        assert (own["value"], own["ci95"], own["n"]) == (single["value"], single["ci95"], single["n"])
        assert own["figure"] == figure
    assert report["summary"]["metrics"]["gradcam"]["deletion"]["better"] == "lower"


def test_each_metric_of_each_method_is_a_step_of_the_work(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr("cnnviz.cli.console.Console.part", lambda console, images: told.append(images))
    report = run("evaluate", rectangles, tmp_path / "out", "--method", "gradcam,saliency", *FEW, "--batch-size", "100")
    # Two methods, their blurred maps and four baselines; of each its maps, and what two metrics that run the network
    # again say of them.
    steps, others = 8 * 3, len(report["images"]) - 1
    told = [worth for worth in told if worth > 1e-9]  # what rounding leaves of a batch is told at its end
    # The first image is explained alone, the others in a batch.
    assert sorted(told) == pytest.approx([1 / steps] * steps + [others / steps] * steps)


def test_what_is_done_again_counts_once() -> None:
    """Memory ran out in the third of four steps: two halves begin anew, and the second has no third step."""
    told: list[float] = []
    parts = Parts(told.append, 8, 4)
    for images in (8, 8, 4, 4, 4, 4, 4, 4):
        parts.step(images)
    assert told == [2, 2, 1, 1, 1, 1]
    parts.finish()
    assert sum(told) == 8
    parts = Parts(told.append, 8, 4)
    parts.step(8)
    parts.finish()
    assert told[6:] == [2, 6]


def test_baselines_stand_beside_the_methods(report: dict[str, Any]) -> None:
    table = report["summary"]["metrics"]
    assert list(table) == [
        "gradcam",
        "saliency",
        "random",
        "center",
        "edges",
        "random_cells",
        "gradcam:blurred",
        "saliency:blurred",
    ]
    # One rectangle on black: its colour put back first gives the class its score back at once, a random order slowly.
    assert table["gradcam"]["insertion"]["value"] > table["random"]["insertion"]["value"]
    assert table["gradcam"]["deletion"]["value"] < table["random"]["deletion"]["value"]
    areas = [
        np.mean(
            [e["scores"]["insertion"]["area"] for i in report["images"] for e in i["explanations"] if e["method"] == m]
        )
        for m in table
    ]
    np.testing.assert_allclose(areas, [table[m]["insertion"]["value"] for m in table], atol=1e-6)


def test_the_worst_maps_are_named(report: dict[str, Any]) -> None:
    worst = report["summary"]["worst"]["sparseness"]
    every = [
        (e["scores"]["sparseness"]["gini"], i["path"], e["method"])
        for i in report["images"]
        for e in i["explanations"]
        if e["method"] in ("gradcam", "saliency")
    ]
    assert [(row["value"], row["path"], row["method"]) for row in worst] == sorted(every, key=lambda r: r[0])[:5]


def test_curves_are_drawn(report: dict[str, Any], tmp_path: Path) -> None:
    page = (tmp_path / "out" / "index.html").read_text()
    for name in ("insertion.png", "deletion.png"):
        assert (tmp_path / "out" / name).exists()
        assert name in report["files"]
        assert f'src="{name}"' in page


def test_random_baselines_follow_the_seed(rectangles: Path, tmp_path: Path) -> None:
    tables = [
        run("evaluate", rectangles, tmp_path / name, "--method", "gradcam", *FEW, "--seed", seed)["summary"]["metrics"]
        for name, seed in (("one", "1"), ("again", "1"), ("two", "2"))
    ]
    for name in ("random", "random_cells"):
        one, again, two = (table[name]["sparseness"]["value"] for table in tables)
        assert one == again != two
    one, _, two = (table["center"]["sparseness"] for table in tables)
    assert one == two


def test_what_is_not_better_than_its_own_blur_is_said(
    rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    assert main(["evaluate", str(rectangles), *MODEL, *labels, "--method", "gradcam,saliency", *FEW]) == 0
    said = capsys.readouterr().err.splitlines()
    images = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    for metric, title, sign in (("insertion", "Insertion", 1), ("deletion", "Deletion", -1)):
        worse = []
        for method in ("gradcam", "saliency"):
            areas = {
                name: np.array(
                    [e["scores"][metric]["area"] for i in images for e in i["explanations"] if e["method"] == name]
                )
                for name in (method, f"{method}:blurred")
            }
            # Of three images some draws have the least of them alone: one that is not above 0 decides.
            if (sign * (areas[method] - areas[f"{method}:blurred"])).min() <= 0:
                worse.append(method)
        expected = f"{title}: not better than their own blur for certain: {', '.join(worse)}"
        assert (expected in said) == bool(worse)
    assert sum("own blur" in line for line in said) > 0
    page = html.unescape((tmp_path / "out" / "index.html").read_text())
    assert all(f"<dd>{line}</dd>" in page for line in said if "own blur" in line)


def test_it_is_said_once(rectangles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the metric measures a blurred copy too, it says itself how much better or worse each map is."""
    labels = ["--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out")]
    asked = ["--method", "gradcam,saliency", "--metric", "deletion"]
    assert main(["evaluate", str(rectangles), *MODEL, *labels, *asked]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "own blur" in line]
    own = json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["metrics"]
    worse = [
        name for name in ("gradcam", "saliency") if own[name]["deletion"]["others"]["over_blurred"]["ci95"][0] <= 0
    ]
    assert worse
    assert [line.partition(": Deletion: not better than its own blur: ")[0] for line in said] == [
        f"cnnviz: note: {name}" for name in worse
    ]


def test_baselines_look_at_no_layer(report: dict[str, Any]) -> None:
    layers = {each["method"]: each["layer"] for image in report["images"] for each in image["explanations"]}
    assert layers["random"] is layers["random_cells"] is layers["saliency:blurred"] is None
    assert layers["gradcam"] == layers["gradcam:blurred"] == "conv"


def test_a_run_with_nothing_left_to_do_has_no_times(report: dict[str, Any], rectangles: Path, tmp_path: Path) -> None:
    assert list(report["summary"]["seconds_per_map"]) == ["gradcam", "saliency"]
    again = run("evaluate", rectangles, tmp_path / "out", "--method", "gradcam,saliency", *FEW, "--resume")
    assert again["summary"]["seconds_per_map"] == {}
    assert again["summary"]["methods"] == ["gradcam", "saliency"]
    assert again["summary"]["metrics"] == report["summary"]["metrics"]


@pytest.mark.parametrize("options", [("--sanity", "--metric", "sparseness"), ("--metric", "randomization")])
def test_random_weights_are_in_the_table(rectangles: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    report = run("evaluate", rectangles, tmp_path / "out", "--method", "gradcam,saliency", *options)
    alone = run("saliency", rectangles, tmp_path / "alone", "--sanity")["summary"]["sanity"]
    found = report["summary"]["metrics"]
    own = found["saliency"]["randomization"]
    assert (own["value"], own["ci95"], own["n"]) == tuple(alone[-1]["spearman"][key] for key in ("value", "ci95", "n"))
    assert own["others"] == {"ssim": alone[-1]["ssim"]}
    assert (own["figure"], own["better"]) == ("spearman", "lower")
    assert found["random"]["randomization"]["value"] == 1  # it knows nothing of the weights
