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
