"""What a run warns of stands on the console, above the cards of its page and in the panels of its maps."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.method_panel import Cell, CellRow, method_panel
from cnnviz.render.mistake import mistake_panel
from cnnviz.render.overlay import Style
from cnnviz.render.panel import PanelRow, PictureRow, panel, picture_panel
from cnnviz.report import cautions
from cnnviz.report.headline import headline
from tests.support.pictures import photographs_in
from tests.support.runs import TINY, ran
from tests.support.written import listen

ALIKE = {"maps": 5, "below_enough": 2, "unknown": 1, "enough": 0.8, "least": 0.25}
ADDED = {"maps": 3, "above_tolerance": 2, "tolerance": 0.01, "largest": 0.9998}
FITS = {"maps": 4, "below_enough": 1, "enough": 0.0, "least": -0.9}


@pytest.mark.parametrize(
    ("key", "figures", "said"),
    [
        (
            "repeatability",
            ALIKE,
            [
                "2 of 5 maps would correlate by less than 0.8 with the map of another seed (the least by 0.25)",
                "1 of 5 maps: too few samples to tell how alike that of another seed would be",
            ],
        ),
        (
            "repeatability",
            {**ALIKE, "maps": 1, "below_enough": 1, "unknown": 0},
            ["1 of 1 map would correlate by less than 0.8 with the map of another seed (by 0.25)"],
        ),
        ("left_out", ADDED, ["2 of 3 maps leave out more than 1 % of the score (the largest share: > 99.9 %)"]),
        (
            "fit",
            FITS,
            [
                "1 of 4 maps explains the score of images with hidden parts worse than a constant would "
                "(fit -0.90 at the least)"
            ],
        ),
    ],
)
def test_figures_in_words_of_one_method_and_of_several(key: str, figures: dict[str, Any], said: list[str]) -> None:
    assert [text for _, text in cautions.told(key, figures)] == said
    assert [text for _, text in headline({key: figures})] == said
    several = cautions.told(key, {"rise": figures, "hsic": figures})
    assert [text for _, text in several] == [f"{method}: {each}" for method in ("rise", "hsic") for each in said]


def test_figures_that_warn_of_nothing_say_nothing() -> None:
    assert cautions.told("repeatability", {**ALIKE, "below_enough": 0, "unknown": 0}) == []
    assert cautions.told("left_out", {**ADDED, "above_tolerance": 0}) == []
    assert cautions.told("fit", {**FITS, "below_enough": 0}) == []
    assert cautions.told("seconds", 3.0) == []
    assert cautions.told("sanity", []) == []


def test_the_page_says_what_the_console_says(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "photos", 2)
    report, _, told = ran("rise", [photos], tmp_path / "out", params={"masks": 60})
    figures = report["summary"]["repeatability"]
    assert figures["below_enough"] + figures["unknown"] > 0
    page = html.unescape((tmp_path / "out" / "index.html").read_text())
    head = page[: page.index('id="gallery"')]
    for said in cautions.repeatability(figures):
        assert said in head
        assert any(note.startswith(f"{said}; ") for note in told.notes)


def test_the_page_says_what_the_sanity_check_found(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "photos", 2)
    report, _, told = ran("gradcam", [photos], tmp_path / "out", metrics=("randomization",))
    steps = report["summary"]["sanity"]
    page = html.unescape((tmp_path / "out" / "index.html").read_text())
    found = re.findall(r"(-?[0-9.]+) where all down to ([\w.]+) are random", page[: page.index('id="gallery"')])
    how = "(near 0 is good; near 1 would say that maps do not depend on what was learned)"
    assert f"are random {how}</dd>" in page
    [note] = [text for text in told.notes if text.startswith("sanity: ")]
    assert note.endswith(f"{steps[-1]['down_to']} {steps[-1]['spearman']['value']:.2f} {how}")
    ends = [steps[0]] if len(steps) == 1 else [steps[0], steps[-1]]
    assert found == [(f"{each['spearman']['value']:.2f}", each["down_to"]) for each in ends]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"reliability": 0.25}, ["would correlate by 0.25 with the map of another seed"]),
        ({"reliability": None}, ["too few samples to tell how alike the map of another seed would be"]),
        ({"reliability": math.nan}, ["too few samples to tell how alike the map of another seed would be"]),
        ({"gap_share": 0.5}, ["leaves out 50.0 % of the score"]),
        ({"fit": -0.9}, ["explains the score worse than a constant would (fit -0.90)"]),
        ({"reliability": 0.8, "gap_share": 0.01, "fit": 0.0}, []),
        ({"gap_share": None, "fit": None}, []),
        ({}, []),
    ],
)
def test_what_a_map_warns_of_is_what_its_run_would(scores: dict[str, Any], said: list[str]) -> None:
    assert cautions.of_map(scores) == said


def test_remarks_take_the_place_of_figures_and_guesses_are_told() -> None:
    summary = {"remarks": ["2 of 3 maps: a", "b"], "left_out": ADDED, "class_guesses": ["'cat': taken as 'tabby cat'"]}
    told = [("class", "'cat': taken as 'tabby cat'"), ("note", "2 of 3 maps: a"), ("note", "b")]
    assert headline(summary) == told


def _head(out: Path) -> str:
    page = html.unescape((out / "index.html").read_text())
    return page[: page.index('id="gallery"')]


def test_flat_maps_are_told_above_the_cards_and_in_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs_in(tmp_path / "photos", 2)
    written = listen(monkeypatch)
    opposed = replace(TINY, model=TINY.model.replace(":make", ":make_opposed"))
    asked: Any = {"model": opposed, "classes": ("0", "1"), "save": ("panel",)}
    report, _, told = ran("gradcam", [photos], tmp_path / "out", **asked)
    reason = "the map is zero everywhere: no position of this layer speaks for the class"
    said = f"2 of 4 maps are flat: {reason}"
    assert report["summary"]["remarks"] == [note for note in told.notes if "flat" in note] == [said]
    assert f"<dt>note</dt><dd>{said}</dd>" in _head(tmp_path / "out")
    assert sum(text == reason for text, _ in written) == 2


def test_a_panel_says_what_its_map_warns_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs_in(tmp_path / "photos", 1)
    written = listen(monkeypatch)
    report, _, _ = ran("rise", [photos], tmp_path / "out", params={"masks": 60}, save=("panel",), seed=2)
    [row] = report["images"][0]["explanations"]
    reliability = row["scores"]["reliability"]
    said = "too few samples to tell how alike the map of another seed would be"
    if reliability is not None:
        assert reliability < 0.8
        said = f"would correlate by {reliability:.2f} with the map of another seed"
    assert sum(text == said for text, _ in written) == 1


@pytest.mark.parametrize("kind", ["panel", "picture", "methods", "mistake"])
def test_all_panels_have_room_for_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.full((90, 120, 3), 255, np.uint8)
    placed = PlacedMap(np.linspace(0, 1, 90 * 120, dtype=np.float32).reshape(90, 120), (0, 0, 120, 90), False)

    def drawn(caution: str) -> Any:
        row = PanelRow("cat", 0.5, placed, "gradcam", (0.0, 1.0), 1.0, "truth", caution=caution)
        figures: dict[str, Callable[[], Any]] = {
            "panel": lambda: panel(rgb, [row], Style(), "t"),
            "picture": lambda: picture_panel([PictureRow(row, [("a", rgb), ("b", rgb)])], "t"),
            "methods": lambda: method_panel(rgb, [CellRow("cat", 0.5, [Cell("CAM", row)])], Style(), ("t", "")),
            "mistake": lambda: mistake_panel(rgb, [[row]], Style(), "t"),
        }
        return figures[kind]()

    plain = drawn("")
    written = listen(monkeypatch)
    said = "would correlate by 0.25 with the map of another seed"
    warned = drawn(said)
    lines = [(text, box) for text, box in written if len(text) > 8 and text in said]
    assert " ".join(text for text, _ in lines) == said
    assert warned.shape[0] > plain.shape[0]
    assert warned.shape[1] == plain.shape[1]
    others = [box for text, box in written if text not in dict(lines)]
    for _, (left, top, right, bottom) in lines:
        assert right <= warned.shape[1]
        assert not any(left < x1 and x0 < right and top < y1 and y0 < bottom for x0, y0, x1, y1 in others)


def test_a_study_says_on_its_page_what_it_told_at_its_end(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "photos", 2)
    report, _, told = ran("concepts", [photos], tmp_path / "out", params={"of": "0", "images": "all", "designs": 4})
    assert report["summary"]["remarks"]
    assert set(report["summary"]["remarks"]) <= set(told.notes)
    for said in report["summary"]["remarks"]:
        assert f"<dt>note</dt><dd>{said}</dd>" in _head(tmp_path / "out")
