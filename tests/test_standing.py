"""Which methods of a comparison are better than which others, what is said of it, and of how few images nothing."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnviz.cli.app import main
from cnnviz.metrics import standing
from cnnviz.report import cautions
from cnnviz.report.figures_table import better_by_name, figures_table, heading
from cnnviz.report.text_table import text_table
from tests.support.colour_photos import MODEL


def _rows(*columns: list[float]) -> dict[str, dict[tuple[str, int], float]]:
    return {
        name: {(f"{k}.png", 0): value for k, value in enumerate(own)} for name, own in zip("abc", columns, strict=False)
    }


def test_what_is_better_on_every_image_is_better_from_six_images_on() -> None:
    """A sign that all of n images share has probability 2 / 2^n where both rows are as good."""
    assert 2 / 2**standing.FEWEST < 0.05 < 2 / 2 ** (standing.FEWEST - 1)
    for count, better in ((5, []), (6, ["b"])):
        spread = [float(k) for k in range(count)]  # far wider than the difference
        found = standing.paired(_rows([value + 0.1 for value in spread], spread), "higher")
        assert found == {"a": better, "b": []}
        found = standing.paired(_rows([value + 0.1 for value in spread], spread), "lower")
        assert found == {"a": [], "b": ["a"] if better else []}


def test_images_on_which_rows_agree_do_not_count() -> None:
    """A rate of which five of fifty images differ, all the same way: by the exact test p = 2 / 2^5."""
    fifty = [0.0] * 50
    assert standing.paired(_rows([1.0] * 5 + fifty[5:], fifty), "higher")["a"] == []
    assert standing.paired(_rows([1.0] * 6 + fifty[6:], fifty), "higher")["a"] == ["b"]
    assert standing.paired(_rows(fifty, fifty), "higher") == {"a": [], "b": []}


@pytest.mark.parametrize("count", [6, 12, 40])
def test_chance_makes_a_difference_as_rarely_as_is_said(count: int) -> None:
    """Rows that are equally good: one is called better in about one of twenty draws, of any number of images."""
    rng = np.random.default_rng(count)
    draws = [standing.paired(_rows(*rng.normal(size=(2, count)).tolist()), "higher") for _ in range(400)]
    wrong = sum(any(each.values()) for each in draws) / len(draws)
    assert wrong < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_the_test_is_that_of_student_where_nothing_is_skewed() -> None:
    """Differences of mean m and deviation s, symmetric: t = m sqrt(n) / s against 2.365 of seven degrees."""
    symmetric = np.array([-3.0, -2, -1, -0.5, 0.5, 1, 2, 3])
    for mean, better in ((2.3, ["b"]), (1.5, [])):
        t = mean * np.sqrt(8) / symmetric.std(ddof=1)
        assert bool(t > 2.365) is bool(better)
        found = standing.paired(_rows((symmetric + mean).tolist(), [0.0] * 8), "higher")
        assert found == {"a": better, "b": []}


def test_maps_of_an_image_are_one_draw() -> None:
    rows = {
        name: {(f"{image}.png", place): value for image in range(3) for place in range(10)}
        for name, value in (("a", 1.0), ("b", 0.0))
    }
    assert standing.paired(rows, "higher") == {"a": [], "b": []}  # three images, thirty maps


def test_intervals_that_are_apart() -> None:
    rows = {name: {"ci95": ends} for name, ends in (("a", [0.5, 0.6]), ("b", [0.1, 0.4]), ("c", [0.35, 0.55]))}
    rows["d"] = {"ci95": None}
    assert standing.apart(rows, "higher", 6) == {"a": ["b"], "b": [], "c": [], "d": []}
    assert standing.apart(rows, "lower", 6) == {"a": [], "b": ["a"], "c": [], "d": []}
    assert not any(standing.apart(rows, "higher", 5).values())
    assert not any(standing.apart(rows, "neither", 6).values())


def _figure(value: float, better_than: list[str], better: str = "higher") -> dict[str, Any]:
    return {"value": value, "ci95": [value, value + 1], "n": 9, "better": better, "better_than": better_than}


TABLE = {
    "a": {"up": _figure(3, ["b", "random"]), "down": _figure(2, [], "lower")},
    "b": {"up": _figure(1, []), "down": _figure(4, [], "lower")},
    "random": {"up": _figure(2, ["b"]), "down": _figure(3, [], "lower")},
    "a:blurred": {"up": _figure(9, ["a", "b"]), "down": _figure(0, ["a", "b"], "lower")},
}


def test_methods_that_are_no_better_than_what_knows_nothing() -> None:
    """Worse for certain, or on these images alone; blurred copies know of the network."""
    assert standing.no_better(TABLE, ["a", "b"], "up", "higher") == [
        {"method": "b", "than": ["random"], "certain": ["random"]}
    ]
    assert standing.no_better(TABLE, ["a", "b"], "down", "lower") == [
        {"method": "b", "than": ["random"], "certain": []}
    ]
    assert standing.no_better(TABLE, ["a", "b"], "up", "neither") == []


def test_what_is_said_of_it() -> None:
    rows = [
        {"figure": "insertion", "method": "b", "than": ["random", "edges"], "certain": ["random"]},
        {"figure": "ROAD", "method": "b", "than": ["random"], "certain": ["random"]},
        {"figure": "ROAD", "method": "a", "than": ["center"], "certain": []},
    ]
    assert cautions.beside({"images": 9, "enough": 6, "no_better": rows}) == [
        "b is worse than random (insertion, ROAD): maps that know nothing of the model",
        "b is no better on these images than edges (insertion); that may be chance",
        "a is no better on these images than center (ROAD); that may be chance",
    ]
    assert cautions.beside({"images": 1, "enough": 6, "no_better": rows[2:]})[1:] == [
        "a is no better on this image than center (ROAD); that may be chance"
    ]
    nothing = "nothing is certain: fewer than 6 do not tell a difference between methods from chance"
    assert cautions.beside({"images": 1, "enough": 6, "no_better": []}) == [f"of one image {nothing}"]
    assert cautions.beside({"images": 5, "enough": 6, "no_better": []}) == [f"of 5 images {nothing}"]
    assert cautions.beside({"images": 6, "enough": 6, "no_better": []}) == []


def test_bold_is_what_is_better_than_all_others_by_more_than_chance_explains() -> None:
    """By its value `a` is the best of both columns; of the second that may be chance."""
    page = figures_table({"study": "evaluate", "methods": ["a", "b"], "metrics": TABLE})
    assert re.findall(r"<strong>([^<]*)</strong>", page) == ["3"]
    assert (
        "Bold: better than every other method by more than chance explains (paired t tests, image by image: p < 0.05)."
    ) in page
    page = figures_table({"study": "evaluate", "methods": ["b", "a", "random"], "metrics": TABLE})
    assert "<strong>3</strong>" in page
    several = {name: {"up": row["up"]} for name, row in TABLE.items()}
    several["a"] = {"up": _figure(3, ["random"])}
    page = figures_table({"study": "localize", "methods": ["a", "b"], "localization": several})
    assert "<strong>" not in page
    assert "None is bold: no method is better than every other method by more than chance explains (95 %" in page
    assert "95 % intervals below." in page
    # Reports of earlier versions do not say what is certain.
    old = {name: {"up": {"value": row["up"]["value"], "ci95": None, "n": 1}} for name, row in TABLE.items()}
    page = figures_table({"study": "evaluate", "methods": ["a", "b"], "metrics": old})
    assert "<strong>" not in page
    assert "intervals below" not in page  # of one image there is none
    assert "every other" not in figures_table({"study": "evaluate", "methods": ["a"], "metrics": {"a": TABLE["a"]}})


def test_the_table_of_a_terminal_is_no_wider_than_eighty_columns() -> None:
    heads = {f"m{k}": f"a metric of some length, {k} ↑" for k in range(7)}
    rows = {
        name: {
            key: {"value": 0.123456 * (k + 1), "ci95": [-0.0123, 0.987], "better_than": []}
            for k, key in enumerate(heads)
        }
        for name in ("gradcam", "integrated_gradients", "integrated_gradients:blurred")
    }
    lines = text_table(rows, heads, ["gradcam", "integrated_gradients"], "evaluate")
    assert max(map(len, lines[:-1])) <= 80
    blocks = [line for line in lines if line.startswith("method")]
    assert [head for line in blocks for head in re.findall(r"some length, (\d)", line)] == list("0123456")
    for name in rows:
        assert sum(line.startswith(f"{name} ") for line in lines) == len(blocks)
    assert "0.123 (-0.0123 to 0.987)" in lines[1]


def test_the_table_of_a_terminal_marks_what_is_certain() -> None:
    lines = text_table(TABLE, {"up": "up ↑", "down": "down ↓"}, ["a", "b"], "evaluate")
    assert lines == [
        "method     up ↑          down ↓",
        "a          3* (3 to 4)   2 (2 to 3)",
        "b          1  (1 to 2)   4 (4 to 5)",
        "random     2  (2 to 3)   3 (3 to 4)",
        "a:blurred  9  (9 to 10)  0 (0 to 1)",
        "n = 9",
        "in parentheses: 95 % intervals; * better than every other method by more than chance explains (paired t "
        "tests, image by image: p < 0.05)",
    ]


def test_of_how_many_a_figure_is_stands_beside_it() -> None:
    """Errors are of images, other figures of pairs of an image and a class; a baseline may have fewer."""

    def row(pairs: int) -> dict[str, Any]:
        counts = {"top1_error": 4, "top5_error": 4, "gt_known_accuracy": pairs, "pxap": pairs, "hit_rate": 0}
        return {name: {"value": 0.5 if n else None, "ci95": None, "n": n} for name, n in counts.items()}

    rows = {"cam": row(6), "centre_box": row(5)}
    told = "n = 4: top-1 error, top-5 error; n = 6: GT-known accuracy, PxAP"
    heads = {name: heading(name, better_by_name(name)) for name in row(1)}
    assert told in text_table(rows, heads, ["cam"], "localize")
    assert f"{told}." in figures_table({"study": "localize", "methods": ["cam"], "localization": rows})


def test_a_run_says_what_is_worse_and_that_three_images_settle_nothing(
    rectangles: Path, tmp_path: Path, capsys: Any
) -> None:
    options = ("--metric", "insertion:steps=4,baselines=no,sparseness", "--method", "cam,saliency")
    labels = ("--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out"))
    assert main(["evaluate", str(rectangles), *MODEL, *labels, *options]) == 0
    said = capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "report.json").read_text())["summary"]
    beside = summary["beside_baselines"]
    images = summary["explained"]
    assert (beside["images"], beside["enough"]) == (images, 6)
    assert f"of {images} images nothing is certain" in said
    # Sparseness is won by single pixels whatever they know.
    assert {row["figure"] for row in beside["no_better"]} <= {"insertion"}
    table = summary["metrics"]
    for method, name in itertools.product(("cam", "saliency"), ("random", "center", "edges", "random_cells")):
        worse = table[method]["insertion"]["value"] <= table[name]["insertion"]["value"]
        told = any(row["method"] == method and name in row["than"] for row in beside["no_better"])
        assert told == worse
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert f"of {images} images nothing is certain" in page
    assert "<strong>" not in page.partition("<h2>Methods</h2>")[2].partition("</table>")[0]
