"""A number of samples that is not the one that was asked for is told, once, with how many and why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnviz.maps.numbers_used import told_of_numbers
from cnnviz.registry import lookup
from tests.support.pictures import photographs_in
from tests.support.runs import ran

WHY = "whole orders of an image's superpixels are run, each with its reverse, one at least"


def _told(asked: int, scores: list[dict[str, Any]], methods: tuple[str, ...] = ("shapley",)) -> list[str]:
    specs = [lookup.find_method(name) for name in methods]
    params = [spec.resolve_params({"samples": asked} if spec.name == "shapley" else {}) for spec in specs]
    chosen = [SimpleNamespace(spec=spec, params=own) for spec, own in zip(specs, params, strict=True)]
    rows = [{"method": name, "scores": each} for each in scores for name in methods]
    return told_of_numbers(chosen, [{"explanations": rows}, {"error": {"type": "empty"}}])


@pytest.mark.parametrize(
    ("asked", "taken", "said"),
    [
        (50, [70, 62], "--samples 50: 2 of 2 maps took 62 to 70"),
        (50, [70, 50], "--samples 50: 1 of 2 maps took 70"),
        (100, [70, 70], "--samples 100: 2 of 2 maps took 70"),
        (1000, [980, 990], None),
    ],
)
def test_how_many_and_why(asked: int, taken: list[int], said: str | None) -> None:
    scores = [{"samples": each, "standard_error": 0.1} for each in taken]
    assert _told(asked, scores) == ([] if said is None else [f"{said}: {WHY}"])


def test_all_that_there_are_is_no_news_and_methods_are_named() -> None:
    assert _told(1000, [{"samples": 14, "standard_error": 0.0}]) == []
    assert _told(50, [{"samples": 70, "standard_error": None}], ("shapley", "saliency")) == [
        f"shapley: --samples 50: 1 of 1 map took 70: {WHY}"
    ]


def test_a_run_says_it_once(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="needs pip install 'cnnviz[superpixels]'")
    photos = photographs_in(tmp_path / "photos", 3)
    report, _, told = ran("shapley", [photos], tmp_path / "out", params={"samples": 1, "segments": 9})
    taken = [row["scores"]["samples"] for image in report["images"] for row in image["explanations"]]
    regions = [row["scores"]["superpixels"] for image in report["images"] for row in image["explanations"]]
    assert taken == [2 * (count - 1) for count in regions]  # an order and its reverse
    ends = " to ".join(dict.fromkeys((str(min(taken)), str(max(taken)))))
    said = f"--samples 1: 3 of 3 maps took {ends}: {WHY}"
    assert [note for note in told.notes if "--samples" in note and "took" in note] == [said]
    assert said in report["summary"]["remarks"]


@pytest.mark.parametrize(("asked", "told"), [("top:9", 1), ("top:" + "9" * 40, 1), ("top:5", 0)])
def test_more_classes_than_there_are_is_told(asked: str, told: int, tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "photos", 2)
    report, _, heard = ran("gradcam", [photos], tmp_path / "out", classes=(asked,), save=("none",))
    assert [len(image["explanations"]) for image in report["images"]] == [5, 5]
    said = [note for note in heard.notes if note.endswith("all of them: the network has 5 classes")]
    assert len(said) == told
    assert report["summary"].get("class_guesses", []) == said
