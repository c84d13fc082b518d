"""``evaluate``: the figures of a method are those of its own run, baselines stand beside it, the table is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.colour_photos import run

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
