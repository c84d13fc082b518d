"""Colours of classes from picture to picture, and where the numbers of boxes stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.render.class_colours import OTHER, PALETTE, colours_of_classes
from cnnviz.render.detections import NumberedBox, class_colours, numbered
from cnnviz.render.segments import Bar, colours_by_area, evidence_bars, legend
from tests.support.written import listen


def test_a_class_keeps_its_colour_whatever_else_a_picture_has():
    assert colours_by_area({3: 0.9, 5: 0.1})[5] == PALETTE[5]
    assert colours_by_area({5: 0.6, 1: 0.3, 2: 0.1})[5] == PALETTE[5]


def test_of_two_classes_with_one_colour_the_larger_keeps_it():
    own = 2 + len(PALETTE)
    found = colours_by_area({2: 0.2, own: 0.7, 3: 0.1})
    assert found[own] == PALETTE[2]
    assert found[3] == PALETTE[3]
    assert len(set(found.values())) == 3


def test_what_is_more_than_there_are_colours_is_grey():
    found = colours_by_area({index: 1.0 / (index + 1) for index in range(len(PALETTE) + 3)})
    assert [found[index] for index in range(len(PALETTE))] == list(PALETTE)
    assert [found[len(PALETTE) + more] for more in range(3)] == [OTHER] * 3


def test_numbers_of_boxes_that_begin_at_one_corner_do_not_hide_each_other():
    rgb = np.full((120, 160, 3), 255, np.uint8)
    # Three boxes with one upper left corner; each class has a colour of its own.
    boxes = [NumberedBox(n, n, str(n), 1.0 / n, Box(20, 20, 60 + 20 * n, 40 + 12 * n)) for n in (1, 2, 3)]
    colours = class_colours(boxes)
    picture = numbered(rgb, (160, 120), boxes, colours)
    # A tag is 18 pixels high with a number in white or ink on it; a frame alone has 2 pixels of its colour in a row.
    for box in boxes:
        where = (picture == np.array(colours[box.class_index], np.uint8)).all(2)
        rows = where.sum(1)
        assert (where & np.roll(where, 1, 1) & np.roll(where, 2, 1) & np.roll(where, 1, 0)).sum() > 40, box.number
        assert rows.max() >= 6


def test_what_the_figures_of_a_list_are_stands_below_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As close as a row is, however tall the picture beside it."""
    written = listen(monkeypatch)
    legend([Bar(name, (0, 0, 0), 0.0, 0.5) for name in ("sky", "road")], (420, 420))
    [road], [said] = ([each.box for each in written if each.text == text] for text in ("road", "share of the area"))
    assert 0 < said[1] - road[1] < 30
    written.clear()
    evidence_bars([Bar(name, (0, 0, 0), 0.5, 0.5) for name in ("sky", "road")], (420, 420))
    [road] = [each.box for each in written if each.text == "road"]
    [said] = [each.box for each in written if each.text == "bar: share of the map; line: share of the area"]
    assert 0 < said[1] - road[1] < 34


def test_a_list_says_how_many_classes_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    written = listen(monkeypatch)
    legend([Bar(f"class {number}", (0, 0, 0), 0.0, 0.02) for number in range(40)], (420, 260))
    rows = [each for each in written if each.text.startswith("class ")]
    [more], [said] = ([each.box for each in written if each.text == text]
                      for text in (f"and {40 - len(rows)} more", "share of the area"))  # fmt: skip
    assert len(rows) >= 7
    assert max(each.box[3] for each in rows) < more[1] < more[3] < said[1] < said[3] <= 260


def _oklab(colours: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
    """By Ottosson, "A perceptual color space for image processing" (2020)."""
    share = np.array(colours, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [[0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
         [0.0514459929, 0.1073969566, 0.6299787005]]
    )  # fmt: skip
    found: NDArray[np.float64] = np.cbrt(cones) @ np.array(
        [[0.2104542553, 1.9779984951, 0.0259040371], [0.7936177850, -2.4285922050, 0.7827717662],
         [-0.0040720468, 0.4505937099, -0.8086757660]]
    )  # fmt: skip
    return found


def _apart(colours: Sequence[tuple[int, ...]], lightness: float) -> NDArray[np.float64]:
    places = _oklab(colours) * np.array([lightness, 1.0, 1.0])
    return np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(len(colours))


def test_colours_of_classes_are_far_apart_and_those_of_neighbours_farther() -> None:
    """Lightness counts half, for the photograph under a colour has its own."""
    apart = _apart(PALETTE, 0.5)
    # Of the twelve colours of before blue and teal had 0.10, orange and red 0.09.
    assert apart.min() > 0.13
    assert min(apart[place, place + 1] for place in range(20)) > 0.17
    # Most networks have a background as class 0: no class of Pascal VOC has its hue.
    assert _apart(PALETTE, 0.2)[0, :21].min() > 0.2
    assert _apart([*PALETTE, OTHER], 0.5)[-1].min() > 0.09


def test_all_classes_of_pascal_voc_and_cityscapes_have_colours_of_their_own() -> None:
    """Twelve colours gave the background (0) and the dog (12) the same, so that one of them changed by the picture."""
    for count in (21, 19):
        ranked = list(range(count))[::-1]
        assert colours_of_classes(ranked) == {index: PALETTE[index] for index in ranked}
    assert colours_of_classes([0, 12]) == {0: PALETTE[0], 12: PALETTE[12]}
