"""The README's picture of the studies: it is up to date, shows all of them, and its layout holds."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.registry import lookup

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "studies.py"))


def test_the_committed_picture_shows_every_study(script: dict[str, Any]) -> None:
    with Image.open(script["PICTURE"]) as picture:
        assert picture.info["comment"].decode() == script["names"](), "run: python docs/studies.py"
    assert {shlex.split(shown.command)[0] for shown in script["SHOWN"]} == {spec.command for spec in lookup.STUDIES}
    assert f"docs/images/{script['PICTURE'].name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_command_of_it_writes_what_is_shown(script: dict[str, Any], tmp_path: Path) -> None:
    [filters] = [shown for shown in script["SHOWN"] if shown.command == "filters"]
    [picture] = script["run"](filters, tmp_path)
    assert np.asarray(picture).std() > 3


def test_tiles_stand_under_their_captions_in_the_shortest_column(script: dict[str, Any]) -> None:
    width, gap, caption = script["WIDTH"], script["GAP"], script["CAPTION"]
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 90, 90)]
    heights = [50, 20, 60, 30]
    tiles = [(f"n{i}", Image.new("RGB", (width, h), c)) for i, (h, c) in enumerate(zip(heights, colours, strict=True))]
    sheet = np.asarray(script["sheet"](tiles))
    tops = [gap + caption] * 3 + [gap + 2 * caption + 20 + gap]
    lefts = [gap, gap + width + gap, gap + 2 * (width + gap), gap + width + gap]
    for top, left, height, colour in zip(tops, lefts, heights, colours, strict=True):
        assert (sheet[top : top + height, left : left + width] == colour).all()
        assert not (sheet[top + height : top + height + 2, left : left + width] == colour).all()


def test_pictures_of_one_command_stand_side_by_side_at_one_height(script: dict[str, Any]) -> None:
    pair = [Image.new("RGB", (10, 10), (255, 0, 0)), Image.new("RGB", (40, 40), (0, 0, 255))]
    tile = script["tile"](pair)
    assert tile.width == script["WIDTH"]
    pixels = np.asarray(tile)
    middle = tile.height // 2
    assert tuple(pixels[middle, 20]) == (255, 0, 0)
    assert tuple(pixels[middle, -20]) == (0, 0, 255)
