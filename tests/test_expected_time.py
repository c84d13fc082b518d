"""How long a run will take, told after its first image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnviz.cli.app import main
from cnnviz.maps import expected_time
from cnnviz.maps.expected_time import ExpectedTime, expectation, in_words
from tests.support.colour_photos import MODEL, run

SPENT = {
    ("maps", "rise"): 20.0,
    ("maps", "gradcam"): 0.5,
    ("insertion", "rise"): 3.0,
    ("insertion", "gradcam"): 3.0,
    ("max_sensitivity", "rise"): 70.0,
    ("max_sensitivity", "gradcam"): 3.5,
}


def test_how_long_and_what_most() -> None:
    """100 s an image, four of them in two lanes: 200 s; max-sensitivity has 73.5 of 100, nearly all for RISE."""
    assert expectation(SPENT, 100.0, 4, 2) == (
        "this takes about 3 min for 4 images, 74 % of it for max_sensitivity (mostly of rise); without that about 50 s"
    )
    even = {("insertion", name): 1.0 for name in "abc"} | {("maps", "a"): 1.0}
    assert expectation(even, 100.0, 2, 1) == (
        "this takes about 3 min for 2 images, 75 % of it for insertion; without that about 50 s"
    )
    one = {("maps", "a"): 0.1, ("insertion", "a"): 99.9}
    assert expectation(one, 100.0, 2, 1) == (
        "this takes about 3 min for 2 images, nearly all of it for insertion; without that about 10 s"
    )
    maps = {("maps", "rise"): 3.0, ("insertion", "rise"): 1.0}
    assert expectation(maps, 60.0, 1000, 2).startswith(
        "this takes about 8.5 h for 1000 images, 75 % of it for the maps"
    )


def test_what_is_short_or_has_no_other_image_is_not_told() -> None:
    assert expectation(SPENT, 40.0, 4, 2) == ""  # 80 s
    assert expectation(SPENT, 1000.0, 1, 2) == ""
    assert expectation(SPENT, 50.0, None, 1) == ""
    assert expectation({("maps", "rise"): 5.0}, 100.0, None, 1) == "this takes about 100 s an image"


def test_more_lanes_than_images_are_no_help() -> None:
    assert "about 5 min for 3 images" in expectation(SPENT, 300.0, 3, 8)


@pytest.mark.parametrize(("seconds", "said"), [(3, "10 s"), (94, "90 s"), (594, "10 min"), (9000, "2.5 h")])
def test_times_are_rough(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


def test_it_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    expected = ExpectedTime([], lambda: 10, 1, told.append)
    expected.explained(2, 100.0)
    expected.explained(2, 500.0)
    assert told == ["this takes about 8 min for 10 images"]


def test_the_first_image_of_a_run_is_explained_alone(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """So that the first word comes when one image is done; the figures are those of any batches."""
    seen: list[int] = []
    explained = ExpectedTime.explained

    def listening(self: ExpectedTime, images: int, seconds: float) -> None:
        seen.append(images)
        explained(self, images, seconds)

    monkeypatch.setattr(ExpectedTime, "explained", listening)
    monkeypatch.setattr(expected_time, "_LONG", 1e-9)
    options = ("--metric", "insertion:steps=4,baselines=no", "--method", "cam,saliency", "--batch-size", "8")
    labels = ("--labels", str(tmp_path / "labels.txt"), "-o", str(tmp_path / "out"))
    assert main(["evaluate", str(rectangles), *MODEL, *labels, *options]) == 0
    said = capsys.readouterr().err
    images = len(list(rectangles.iterdir()))
    assert seen[0] == 1
    assert sum(seen) == images
    assert said.count("note: this takes about 10 s for") == 1
    assert f"for {images} images" in said
    seen.clear()
    run("evaluate", rectangles, tmp_path / "one", "--metric", "sparseness", "--method", "cam", "--no-baselines")
    assert seen == []
