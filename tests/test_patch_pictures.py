"""Units as they are written, and pictures of patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnnviz.errors import CnnvizError
from cnnviz.render import patches as drawing
from cnnviz.render.patches import PADDING, Tile, UnitRow, cut, gradient_crop, marked, sheet, square
from cnnviz.render.text import fitted
from cnnviz.studies.unit_selection import Choice, parse_units


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("0,7,20-22,7", Choice("named", (0, 7, 20, 21, 22))),
        (" ALL ", Choice("all")),
        ("random:5", Choice("random", count=5)),
        ("top:90", Choice("top", count=90)),
        ("selective:7", Choice("selective", count=7)),
    ],
)
def test_units_as_they_are_written(text: str, choice: Choice) -> None:
    assert parse_units(text, 32, "conv") == choice
    assert len(choice.followed(32, 0)) <= 32


@pytest.mark.parametrize(
    ("text", "said"),
    [("32", "unit 32 does not exist"), ("5-3", "goes down"), ("x", "'x' names no unit"), ("1,,2", "'' names no unit"),
     ("top:0", "names no unit"), ("random:", "names no unit"), ("-3", "names no unit")],
)  # fmt: skip
def test_units_that_are_none(text: str, said: str) -> None:
    with pytest.raises(CnnvizError, match=said):
        parse_units(text, 32, "conv")


def test_crops_are_padded_and_keep_fractions() -> None:
    ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], 10, axis=0).repeat(3, axis=2)
    crop = cut(ramp, (-5.0, 0.0, 5.0, 10.0), 100)
    assert crop.shape == (100, 100, 3)
    assert (crop[:, :50] == PADDING).all()
    assert crop[50, 50:].reshape(5, 10, 3)[:, 4, 0].tolist() == [0, 10, 20, 30, 40]
    wide = cut(ramp, (2.5, 0.0, 12.5, 5.0), 100)
    assert wide.shape == (50, 100, 3)
    assert wide[20, [2, 8, 92, 98], 0].tolist() == [20, 30, 110, 120]
    assert (cut(ramp, (50.0, 50.0, 60.0, 60.0), 8) == PADDING).all()
    framed, corner = square(wide, 100)
    assert corner == (0, 25)
    assert (framed[25:75] == wide).all()


def test_gradients_lie_where_the_crop_shows_their_pixel() -> None:
    raw = np.zeros((3, 10, 10), dtype=np.float32)
    raw[0, 4, 6], raw[2, 4, 6] = 2.0, -2.0
    picture = gradient_crop(raw, (5.0, 3.0, 9.0, 7.0), (80, 80))
    assert picture[30, 30].tolist() == [255, 128, 1]  # column 6 is the second of the window, row 4 the second
    assert (np.delete(picture.reshape(80, 80, 3), np.s_[20:40], axis=0) == 128).all()
    outside = gradient_crop(raw[:1], (-4.0, -4.0, 0.0, 0.0), (20, 20))
    assert (outside == 128).all()


def test_numbers_are_legible_on_white_patches() -> None:
    """White on white with a thin edge was not: the ink stands on a dark band."""
    for side in (72, 160):
        picture = np.full((side, side, 3), 255, np.uint8)
        shown = marked(Tile(picture, None, (-9.0, -9.0, side + 9.0, side + 9.0), None, 2.92))
        corner = shown[-12:, :20].astype(float).mean(axis=2)
        assert (corner == 255).any()  # the digits
        assert np.median(corner) < 90  # what they stand on
        assert (shown[: side - 30] == 255).all()


def test_the_sheet_says_what_its_frames_are(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = Tile(np.zeros((160, 160, 3), np.uint8), None, (0.0, 0.0, 160.0, 160.0), None, 1.0)
    written: list[str] = []

    def write(draw: Any, corner: tuple[int, int], text: str, *more: Any) -> int:
        written.append(text)
        return 0

    monkeypatch.setattr(drawing, "write", write)
    for count, numbered in ((4, True), (100, False)):  # of 100 units patches are too small for numbers
        written.clear()
        sheet(count, 2, lambda place: UnitRow("conv1", f"unit {place}", "up to 1, fires on 2", [tile, tile]))
        said = " ".join(written[count:])
        assert said.startswith("conv1. Thick frame: the receptive field;")
        assert ("The number on a patch is the activation." in said) == numbered


def test_a_unit_is_named_however_little_room_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One patch each and a long layer: on pages the statements that fit, on a strip all of them, in lines."""
    tile = Tile(np.zeros((160, 160, 3), np.uint8), None, (0.0, 0.0, 160.0, 160.0), None, 1.0)
    layer = "features.12.expand3x3_activation"
    facts = "up to 5.25 before the activation, fires on 4 of 6 images; 75 % tabby, 0.81 bits"
    written: list[str] = []
    whole = drawing.write

    def write(draw: Any, corner: tuple[int, int], text: str, size: int, fill: Any, width: int) -> int:
        written.append(fitted(text, size, width))
        return whole(draw, corner, text, size, fill, width)

    monkeypatch.setattr(drawing, "write", write)
    sheet(100, 1, lambda place: UnitRow(layer, f"unit {1000 + place}", facts, [tile]))
    assert written[:100] == [f"unit {1000 + place}" for place in range(100)]
    written.clear()
    sheet(20, 4, lambda place: UnitRow(layer, f"unit {place}", facts, [tile] * 4))
    most = "up to 5.25 before the activation, fires on 4 of 6 images"
    assert written[:20] == [f"unit {place}: {most}" for place in range(20)]
    written.clear()
    drawing.unit_picture(UnitRow(layer, "unit 12", facts, [tile]), 160)
    assert written[0] == "unit 12"
    assert " ".join(written[1:]) == facts


def test_gradients_are_drawn_where_the_first_unit_has_no_patch() -> None:
    """One that never fired says nothing of whether gradients were computed: the page is as high as of any order."""
    plain = np.zeros((160, 160, 3), np.uint8)
    row = UnitRow("conv1", "unit 1", "", [Tile(plain, plain, (0.0, 0.0, 160.0, 160.0), None, 1.0)] * 2)
    rows = [UnitRow("conv1", "unit 0", "never fires", [None, None]), row]
    assert sheet(2, 2, lambda place: rows[place]).shape == sheet(2, 2, lambda place: rows[1 - place]).shape
