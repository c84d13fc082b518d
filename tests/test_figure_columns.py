"""Figures of many classes: in columns, so that none is a ribbon, and read down each in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.box_figure import BoxTile, box_figure
from cnnviz.render.grid import in_columns
from cnnviz.render.method_panel import Cell, CellRow, method_panel
from cnnviz.render.overlay import Style
from cnnviz.render.panel import PanelRow, panel
from cnnviz.render.text import wrapped
from tests.support.written import listen


def _row(label: str, size: tuple[int, int]) -> PanelRow:
    values = np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size[::-1])
    return PanelRow(label, 0.5, PlacedMap(values, (0, 0, *size), False), "any")


def _panel(rgb: Any, labels: list[str]) -> Any:
    return panel(rgb, [_row(label, rgb.shape[1::-1]) for label in labels], Style(), "title")


def _methods(rgb: Any, labels: list[str]) -> Any:
    def cells(label: str) -> list[Cell]:
        return [Cell(name, _row(label, rgb.shape[1::-1])) for name in ("Grad-CAM", "CAM")]

    return method_panel(rgb, [CellRow(label, None, cells(label)) for label in labels], Style(), ("title", "said"))


def _boxes(rgb: Any, labels: list[str]) -> Any:
    return box_figure(rgb, [], [BoxTile(name, label, "", rgb, []) for label in labels for name in ("a", "b")], "title")


@pytest.mark.parametrize("size", [(240, 160), (60, 320), (320, 60)])
@pytest.mark.parametrize("figure", [_panel, _methods, _boxes])
def test_many_classes_stand_in_columns(
    figure: Callable[[Any, list[str]], Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.full((*size[::-1], 3), (200, 30, 90), dtype=np.uint8)
    labels = [f"class {number}" for number in range(23)]
    written = listen(monkeypatch)
    page = figure(rgb, labels)
    # A heading and the margins are beside the classes.
    assert page.shape[0] < 1.6 * page.shape[1] + 100
    first = {text: box for text, box in reversed(written) if text in labels}
    assert sorted(first, key=lambda text: (first[text][0], first[text][1])) == labels
    # As many in each column, but for the last one.
    counts = np.unique([box[0] for box in first.values()], return_counts=True)[1]
    assert len(set(counts[:-1])) <= 1
    assert counts[-1] <= counts[0]


@pytest.mark.parametrize("figure", [_panel, _methods, _boxes])
def test_few_classes_stand_below_each_other(
    figure: Callable[[Any, list[str]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [f"class {number}" for number in range(6)]
    written = listen(monkeypatch)
    figure(np.zeros((320, 60, 3), dtype=np.uint8), labels)
    first = {text: box for text, box in reversed(written) if text in labels}
    assert len({box[0] for box in first.values()}) == 1
    assert sorted(first, key=lambda text: first[text][1]) == labels


def test_columns_are_as_few_as_do_and_none_is_empty() -> None:
    assert in_columns(0, (10, 100)) == []
    assert in_columns(6, (10, 100)) == [range(6)]
    assert in_columns(7, (300, 100)) == [range(4), range(4, 7)]  # 700 is more than 450
    # Four columns would do, and three hold them all.
    assert in_columns(9, (60, 100)) == [range(3), range(3, 6), range(6, 9)]
    many = in_columns(1000, (300, 100))
    assert [len(own) for own in many] == [67] * 14 + [62]
    assert [number for own in many for number in own] == list(range(1000))


def test_text_is_wrapped_at_words_and_within_long_ones() -> None:
    text, face = f"B: {'folder/' * 12}net.py:make of yesterday", ImageFont.load_default(13)
    lines = wrapped(text, 13, 200, 5)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(face.getlength(line) <= 200 for line in lines)
    assert lines[-1].endswith("yesterday")
    assert wrapped("one two", 13, 1000, 2) == ["one two"]
    assert wrapped("", 13, 100, 2) == [""]
    one, two = wrapped("word " * 100, 13, 100, 2)
    assert not one.endswith("…")
    assert two.endswith("…")
    assert max(face.getlength(line) for line in (one, two)) <= 100
