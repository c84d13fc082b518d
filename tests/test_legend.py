"""``--legend`` and ``--draw-box``: what overlays carry on request."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.colormap import colormap
from cnnviz.render.legend import with_box, with_legend
from cnnviz.render.overlay import Style
from tests.support.runs import tiny_options
from tests.support.written import listen


def test_the_box_is_where_it_is_said_to_be() -> None:
    picture = np.full((60, 80, 3), 100, dtype=np.uint8)
    drawn = with_box(picture, Box(10, 20, 30, 15))
    changed = (drawn != 100).any(-1)
    rows, columns = np.nonzero(changed)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 20, 39, 34)
    assert not changed[24:31, 14:36].any()  # the inside stays as it is
    assert (drawn[21, 15:30] == 255).all()  # white between dark lines
    assert (drawn[20, 15:30] == 0).all()


@pytest.mark.parametrize(("width", "signed"), [(640, False), (640, True), (120, False), (12, False)])
def test_the_legend_covers_nothing_and_shows_the_colours(width: int, signed: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, width, 3), dtype=np.uint8)
    values = np.linspace(-2 if signed else 0, 4, 50 * width, dtype=np.float32).reshape(50, width)
    placed = PlacedMap(values, (0, 0, width, 50), signed)
    drawn = with_legend(picture, "a tiger cat", 0.37, placed, Style())
    assert (drawn[:50] == picture).all()
    assert drawn.shape[1] == width
    band = {tuple(pixel) for pixel in drawn[50:].reshape(-1, 3).tolist()}
    name = "coolwarm" if signed else "turbo"
    first = 64 if signed else 0  # -2 of -4 to 4
    if width > 400:
        # The bar is not as long as the table: of every eight neighbours one at least is there.
        table = [tuple(colour) for colour in colormap(name).tolist()]
        assert all(band & set(table[start : start + 8]) for start in range(first + 1, 248, 8))
        assert drawn[50:].shape[0] < 60


def test_through_a_run(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 200, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    words = [*tiny_options(), "--view", "whole", "-c", "all", "--save", "overlay"]
    shown = {}
    for marks in ((), ("--draw-box",), ("--legend",)):
        out = tmp_path / "-".join(("o", *marks))
        assert main(["gradcam", str(tmp_path / "a.png"), *words, *marks, "-o", str(out)]) == 0
        [record] = json.loads((out / "report.json").read_text())["images"]
        rows = [row for row in record["explanations"] if not row["scores"].get("flat")]
        shown[marks] = np.asarray(Image.open(out / rows[0]["files"]["overlay"]))
    x, y, width, height = rows[0]["scores"]["box_xywh"]
    changed = (shown[("--draw-box",)] != shown[()]).any(-1)
    found_rows, columns = np.nonzero(changed)
    assert (columns.min(), found_rows.min()) == (x, y)
    assert (columns.max() + 1, found_rows.max() + 1) == (x + width, y + height)
    assert (shown[("--legend",)][:64] == shown[()]).all()
    assert shown[("--legend",)].shape[0] > 64


@pytest.mark.parametrize("signed", [False, True])
def test_below_a_narrow_picture_nothing_of_the_legend_is_cut(signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """162 pixels, as of a portrait; a label, its probability and two values do not stand in one line of them."""
    label = "sulphur-crested cockatoo, Kakatoe galerita"
    values = np.linspace(-0.01234 if signed else 0, 0.04567, 50 * 162, dtype=np.float32).reshape(50, 162)
    placed = PlacedMap(values, (0, 0, 162, 50), signed)
    picture = np.full((50, 162, 3), 7, dtype=np.uint8)
    written = listen(monkeypatch)
    drawn = with_legend(picture, label, 0.375, placed, Style())
    assert (drawn[:50] == picture).all()
    band = drawn[50:]
    said = [each.text for each in written]
    assert "37.5 %" in said
    assert {"-0.0123" if signed else "0", "0.0457"} <= set(said)
    lines = [each for each in written if each.text in label]
    assert " ".join(each.text for each in lines) == label
    for each in written:
        left, top, right, bottom = each.box
        assert 0 <= left < right <= 162, each
        assert 0 <= top < bottom <= band.shape[0], each
    # No two of them lie on each other, but for the zero on the bar.
    boxes = [each.box for each in written]
    for place, (x0, y0, x1, y1) in enumerate(boxes):
        assert not any(x0 < c1 and c0 < x1 and y0 < d1 and d0 < y1 for c0, d0, c1, d1 in boxes[place + 1 :])
    name = "coolwarm" if signed else "turbo"
    table = {tuple(colour) for colour in colormap(name)[round(128 - 128 * 0.2) if signed else 0 :].tolist()}
    bar = [tuple(pixel) in table for pixel in band[-8].tolist()]
    assert sum(bar) > 40


def test_zero_is_marked_on_the_legend_of_a_signed_map(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(-1, 3, 50 * 640, dtype=np.float32).reshape(50, 640)
    written = listen(monkeypatch)
    drawn = with_legend(
        np.zeros((50, 640, 3), np.uint8), "cat", None, PlacedMap(values, (0, 0, 640, 50), True), Style()
    )
    [zero] = [each.box for each in written if each.text == "0"]
    [low], [high] = ([each.box for each in written if each.text == text] for text in ("-1", "3"))
    # The colours end where the values begin, but for the same gap; a quarter of them is below zero.
    row = drawn[50 + 10].astype(int)
    coloured = np.flatnonzero((np.ptp(row, axis=1) > 20) & (np.arange(640) > low[2]) & (np.arange(640) < high[0]))
    first, last = int(coloured[0]), int(coloured[-1])
    assert (zero[0] + zero[2]) / 2 == pytest.approx(first + (last + 1 - first) / 4, abs=2)


def test_zero_at_an_end_of_the_legend_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(-0.02, 3, 50 * 640, dtype=np.float32).reshape(50, 640)
    written = listen(monkeypatch)
    drawn = with_legend(
        np.zeros((50, 640, 3), np.uint8), "cat", None, PlacedMap(values, (0, 0, 640, 50), True), Style()
    )
    assert "0" not in [each.text for each in written]
    dark = (drawn[50:].max(-1) < 60).sum(0)
    [low] = [each.box for each in written if each.text == "-0.02"]
    assert dark[round(low[2]) : round(low[2]) + 20].max() >= 20
