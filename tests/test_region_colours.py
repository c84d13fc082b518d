"""Colours of classes from picture to picture, and where the numbers of boxes stand."""

from __future__ import annotations

import numpy as np

from cnnviz.geometry.boxes import Box
from cnnviz.render.detections import NumberedBox, class_colours, numbered
from cnnviz.render.label_map import PALETTE
from cnnviz.render.segments import OTHER, colours_by_area


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
