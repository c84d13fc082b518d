"""What a run warns of stands on the console and above the cards of its page."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from cnnviz.report import cautions
from cnnviz.report.headline import headline
from tests.support.pictures import photographs_in
from tests.support.runs import ran

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
    report, _, _ = ran("gradcam", [photos], tmp_path / "out", metrics=("randomization",))
    steps = report["summary"]["sanity"]
    page = html.unescape((tmp_path / "out" / "index.html").read_text())
    found = re.findall(r"(-?[0-9.]+) where all down to ([\w.]+) are random", page[: page.index('id="gallery"')])
    ends = [steps[0]] if len(steps) == 1 else [steps[0], steps[-1]]
    assert found == [(f"{each['spearman']['value']:.2f}", each["down_to"]) for each in ends]
