"""Masks of COCO's annotations: hand-worked run lengths, polygons by point in polygon, and what a run makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import cnnviz
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.coco_masks import counts_of, polygon_mask, read_segmentation, rle_mask
from cnnviz.io.sources import ImageRef
from tests.support.colour_network import CLASSES, SIDE
from tests.support.colour_photos import run


def text_of(counts: list[int]) -> str:
    """The other way round, by dividing: five bits at a time until what is left says nothing but the sign."""
    said = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            value, group = value // 32, value % 32
            done = (value == 0 and group < 16) or (value == -1 and group >= 16)
            said += chr(48 + group + 32 * (not done))
            if done:
                break
    return said


def test_run_lengths_go_down_the_columns() -> None:
    """Two pixels outside, three inside, one outside, of 2 rows and 3 columns."""
    expected = [[False, True, True], [False, True, False]]
    np.testing.assert_array_equal(rle_mask([2, 3, 1], (2, 3)), expected)
    np.testing.assert_array_equal(rle_mask([0, 6], (2, 3)), np.ones((2, 3), bool))
    np.testing.assert_array_equal(rle_mask([6], (2, 3)), np.zeros((2, 3), bool))


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("0", [0]),
        ("?", [15]),
        ("`0", None),  # 16 takes a second group, or its sign bit would be set
        ("P1", None),
        ("2314", [2, 3, 1, 7]),  # the fourth is 4 more than the second
        ("231N", [2, 3, 1, 1]),  # and here 2 less: 0b11110
    ],
)
def test_run_lengths_as_text(text: str, counts: list[int] | None) -> None:
    if counts is not None:
        assert counts_of(text).tolist() == counts
    else:
        assert counts_of(text).tolist() == {"`0": [16], "P1": [32]}[text]


def test_texts_of_random_run_lengths() -> None:
    rng = np.random.default_rng(0)
    for most in (3, 40, 5000, 400_000):
        counts = rng.integers(0, most, 30).tolist()
        assert counts_of(text_of(counts)).tolist() == counts


@pytest.mark.parametrize("text", ["P", "2\x20", "2p"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        counts_of(text)


def inside(x: float, y: float, corners: np.ndarray) -> bool:
    """Whether a ray to the right meets an odd number of edges."""
    odd = False
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (ay <= y) != (by <= y) and x >= ax + (y - ay) * (bx - ax) / (by - ay):
            odd = not odd
    return odd


@pytest.mark.parametrize("seed", range(4))
def test_a_pixel_is_inside_where_its_centre_is(seed: int) -> None:
    """Stars, some beyond the image; OpenCV's fillPoly has these pixels (but for its rounding), and the outline too."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-4, 28, (7, 2))
    found = polygon_mask(corners, (20, 24))
    expected = [[inside(x + 0.5, y + 0.5, corners) for x in range(24)] for y in range(20)]
    np.testing.assert_array_equal(found, expected)
    theirs = np.zeros((20, 24), dtype=np.uint8)
    cv2.fillPoly(theirs, [np.rint((corners - 0.5) * 256).astype(np.int32)], 1, shift=8)
    assert (found & (theirs == 0)).sum() <= 2
    assert theirs.sum() > found.sum()


def test_whole_numbers_are_edges_of_pixels() -> None:
    found = polygon_mask(np.array([(10, 5), (30, 5), (30, 15), (10, 15)]), (20, 40))
    expected = np.zeros((20, 40), dtype=bool)
    expected[5:15, 10:30] = True
    np.testing.assert_array_equal(found, expected)
    assert not polygon_mask(np.array([(50, 50), (60, 50), (60, 60)]), (20, 40)).any()


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    """One picture: a red square of two polygons, a green one by run lengths, a blue one by its box; a crowd of red."""
    rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    rgb[8:24, 8:24, 0] = 255
    rgb[40:56, 8:24, 1] = rgb[8:24, 40:56, 2] = 255
    (tmp_path / "photos").mkdir()
    Image.fromarray(rgb).save(tmp_path / "photos" / "a.png")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    green = np.zeros((SIDE, SIDE), dtype=bool)
    green[40:56, 8:24] = True
    flat = np.concatenate([[False], green.ravel(order="F"), [True]])
    turns = np.flatnonzero(np.diff(flat.astype(int)) != 0)
    counts = np.diff(np.concatenate([[0], turns[:-1], [SIDE * SIDE]])).tolist()
    crowd = [SIDE * (SIDE - 4), SIDE * 4]  # the last four columns
    halves = [[8, 8, 24, 8, 24, 16, 8, 16], [8, 16, 24, 16, 24, 24, 8, 24]]
    rows = [
        {"category_id": 0, "bbox": [8, 8, 16, 16], "segmentation": halves},
        {"category_id": 1, "bbox": [8, 40, 16, 16], "segmentation": {"size": [SIDE, SIDE], "counts": text_of(counts)}},
        {"category_id": 2, "bbox": [40, 8, 16, 16], "segmentation": []},
        {"category_id": 0, "bbox": [60, 0, 4, 64], "iscrowd": 1, "segmentation": {"size": [64, 64], "counts": crowd}},
    ]
    truth = {
        "images": [{"id": 0, "file_name": "a.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [{"id": i, "image_id": 0, **row} for i, row in enumerate(rows)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path / "truth.json"


def test_masks_of_objects(annotated: Path) -> None:
    found = cnnviz.load_truth(str(annotated)).truth(ImageRef("a.png", "a.png", 0), (SIDE, SIDE))
    assert found is not None
    assert list(found.masks) == ["red", "green"]  # of blue only the box is known
    for label, (x, y) in (("red", (8, 8)), ("green", (8, 40))):
        expected = np.zeros((SIDE, SIDE), dtype=bool)
        expected[y : y + 16, x : x + 16] = True
        np.testing.assert_array_equal(found.masks[label], expected)
    assert found.ignored is not None
    assert found.ignored[:, 60:].all()
    assert found.ignored.sum() == 4 * SIDE


def test_pixels_are_measured_by_them(annotated: Path, tmp_path: Path) -> None:
    options = ("--truth", str(annotated), "--method", "cam", "--class", "truth", "--metric", "pxap")
    report = run("localize", tmp_path / "photos", tmp_path / "out", *options)
    figure = report["summary"]["localization"]["cam"]["pxap"]
    assert (figure["value"], figure["n"]) == (1.0, 2)
    assert report["images"][0]["truth"]["masks"] == ["red", "green"]
    whole = report["summary"]["localization"]["whole_image"]["pxap"]["value"]
    assert whole == pytest.approx(256 / (SIDE * SIDE - 4 * SIDE), abs=1e-6)  # a crowd counts neither way


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [SIDE, 8], "counts": [SIDE * 8]}, "run lengths of 8 x 64 pixels, the image has 64 x 64"),
        ({"size": [SIDE, SIDE], "counts": [5]}, "run lengths of 5 pixels for an image of 4096"),
        ({"size": [SIDE, SIDE], "counts": "P"}, "run lengths that end within a number"),
    ],
)
def test_masks_that_do_not_fit_their_image(annotated: Path, segmentation: object, said: str) -> None:
    data = json.loads(annotated.read_text())
    data["annotations"][0]["segmentation"] = segmentation
    annotated.write_text(json.dumps(data))
    with pytest.raises(ImageError, match=said):
        cnnviz.load_truth(str(annotated)).truth(ImageRef("a.png", "a.png", 0), (SIDE, SIDE))


@pytest.mark.parametrize("segmentation", [[[1, 2, 3]], [[1, 2, 3, 4]], {"counts": [1]}, [["a"] * 6]])
def test_what_is_no_segmentation(annotated: Path, segmentation: object) -> None:
    data = json.loads(annotated.read_text())
    data["annotations"][0]["segmentation"] = segmentation
    annotated.write_text(json.dumps(data))
    with pytest.raises(CnnvizError, match=r"truth\.json"):
        cnnviz.load_truth(str(annotated))


def test_nothing_is_said() -> None:
    assert read_segmentation(None) is read_segmentation([]) is None
