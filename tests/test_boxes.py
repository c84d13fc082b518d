"""Boxes: the conventions of data sets, and areas counted pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnviz.geometry.boxes import Box

whole = st.integers(0, 12)
boxes = st.builds(Box, whole, whole, whole, whole)
anywhere = st.floats(-50, 50)
sizes = st.just(0.0) | st.floats(0.01, 50)
floats = st.builds(Box, anywhere, anywhere, sizes, sizes)


def painted(box: Box) -> np.ndarray:
    """The box's pixels one by one."""
    page = np.zeros((25, 25), dtype=bool)
    for row in range(25):
        for column in range(25):
            page[row, column] = box.x <= column < box.x + box.width and box.y <= row < box.y + box.height
    return page


@settings(derandomize=True, max_examples=150, deadline=None)
@given(boxes, boxes)
def test_areas_are_those_of_the_pixels(a: Box, b: Box) -> None:
    first, second = painted(a), painted(b)
    assert a.area == first.sum()
    assert a.intersection(b) == (first & second).sum()
    assert a.union(b) == (first | second).sum()
    union = int((first | second).sum())
    assert a.iou(b) == pytest.approx((first & second).sum() / union if union else 0.0)
    rows, columns = a.pixels((20, 18))
    clipped = np.zeros((25, 25), dtype=bool)
    clipped[rows, columns] = True
    expected = first.copy()
    expected[18:], expected[:, 20:] = False, False
    np.testing.assert_array_equal(clipped, expected)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(floats, floats)
def test_iou_is_symmetric_and_at_most_one(a: Box, b: Box) -> None:
    assert 0 <= a.iou(b) <= 1 + 1e-9
    assert a.iou(b) == pytest.approx(b.iou(a), abs=1e-12)
    assert a.iou(a) == pytest.approx(1.0 if a.area > 0 else 0.0, abs=1e-9)


def test_conventions_of_data_sets() -> None:
    """The pixels 2, 3, 4 of a row and 7 of a column."""
    box = Box(2, 7, 3, 1)
    assert Box.from_inclusive(3, 8, 5, 8) == box
    assert box.inclusive == (3, 8, 5, 8)
    assert Box.from_coco([2, 7, 3, 1]) == box
    assert Box.from_edges(2, 7, 5, 8) == box
    assert box.edges == (2, 7, 5, 8)
    assert box.xywh == [2, 7, 3, 1]
    assert all(isinstance(value, int) for value in box.xywh)
    whole_image = Box.from_inclusive(1, 1, 500, 375)
    assert whole_image == Box(0, 0, 500, 375)


def test_iou_of_the_imagenet_kit() -> None:
    """With its "+ 1" on inclusive corners, as its eval_localization_flat.m has it."""
    guess, truth = (10, 20, 59, 119), (35, 50, 84, 149)
    width = min(guess[2], truth[2]) - max(guess[0], truth[0]) + 1
    height = min(guess[3], truth[3]) - max(guess[1], truth[1]) + 1
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (guess, truth)]
    expected = width * height / (sum(areas) - width * height)
    assert Box.from_inclusive(*guess).iou(Box.from_inclusive(*truth)) == pytest.approx(expected, rel=1e-12)


def test_iou_of_edges_read_as_inclusive() -> None:
    """calculate_multiple_iou of wsolevaluation, by hand: [0, 0, 10, 10] and [5, 0, 15, 10] share 6 x 11 of 176."""
    assert Box(0, 0, 10, 10).iou_plus_one(Box(5, 0, 10, 10)) == pytest.approx(66 / (2 * 121 - 66))
    assert Box(0, 0, 10, 10).iou(Box(5, 0, 10, 10)) == pytest.approx(50 / 150)
    # Boxes that only touch share a column then.
    assert Box(0, 0, 4, 4).iou(Box(4, 0, 4, 4)) == 0
    assert Box(0, 0, 4, 4).iou_plus_one(Box(4, 0, 4, 4)) == pytest.approx(5 / 45)


def test_a_point_on_the_edge_is_inside() -> None:
    box = Box(1.5, 2, 3, 4)
    assert box.contains(1.5, 2)
    assert box.contains(4.5, 6)
    assert not box.contains(4.51, 6)
    assert not box.contains(3, 1.9)


@pytest.mark.parametrize("numbers", [(0, 0, -1, 1), (0, 0, 1, -0.5), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)])
def test_what_is_no_box_is_refused(numbers: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="is not a box"):
        Box(*numbers)
