"""Regions of a photograph on the cells of an output, segments, evidence: against brute force and cases by hand."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap, Rect
from cnnviz.geometry.regions import Length, Region, box_weights, mask_weights, segments
from cnnviz.io.masks import read_mask
from cnnviz.metrics.evidence import classes_at_pixels, evidence_by_class
from cnnviz.tasks.region_words import parse_region, parse_segment, two_sides

SIZE = (60, 40)  # W, H
RECTS: list[Rect] = [(0, 0, 60, 40), (10, 5, 50, 35), (-6, -4, 66, 44), (10.5, 0.25, 49.25, 39.0)]
FINE = 50


def _supersampled(inside: NDArray[np.bool_], rect: Rect, cells: tuple[int, int]) -> NDArray[np.float64]:
    """Shares by many points in each cell, each looked up in the mask [H, W]; outside of the image there is nothing."""
    found = np.zeros(cells)
    step = (np.arange(FINE) + 0.5) / FINE
    for row in range(cells[0]):
        ys = rect[1] + (row + step) * (rect[3] - rect[1]) / cells[0]
        for column in range(cells[1]):
            xs = rect[0] + (column + step) * (rect[2] - rect[0]) / cells[1]
            y, x = (np.floor(axis).astype(int) for axis in (ys, xs))
            rows, cols = (y >= 0) & (y < SIZE[1]), (x >= 0) & (x < SIZE[0])
            found[row, column] = inside[y[rows]][:, x[cols]].sum() / FINE**2
    return found


@pytest.mark.parametrize("rect", RECTS)
@pytest.mark.parametrize("cells", [(5, 7), (13, 9), (80, 120)])
def test_a_mask_is_carried_by_area(rect: Rect, cells: tuple[int, int]) -> None:
    if cells == (80, 120) and rect != RECTS[0]:
        cells = (8, 12)
    mask = np.random.default_rng(0).random((40, 60)) > 0.6
    got = mask_weights(mask, rect, cells)
    if cells == (80, 120):  # cells smaller than a pixel lie in one of them
        np.testing.assert_allclose(got, mask.repeat(2, 0).repeat(2, 1), atol=1e-6)
        return
    # Points that are a fiftieth of a cell apart miss an edge by at most that much of a side.
    np.testing.assert_allclose(got, _supersampled(mask, rect, cells), atol=0.05)
    area = got.sum() * (rect[2] - rect[0]) * (rect[3] - rect[1]) / (cells[0] * cells[1])
    x0, y0, x1, y1 = max(0, rect[0]), max(0, rect[1]), min(60, rect[2]), min(40, rect[3])
    if rect != RECTS[3]:  # whole pixels
        assert area == pytest.approx(mask[int(y0) : int(y1), int(x0) : int(x1)].sum(), rel=1e-4)


@pytest.mark.parametrize("rect", RECTS)
def test_a_box_of_pixels_is_its_mask(rect: Rect) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[12:20, 11:31] = True
    box = box_weights(Box(11, 12, 20, 8), SIZE, rect, (7, 9))
    np.testing.assert_allclose(box, mask_weights(mask, rect, (7, 9)), atol=1e-6)


def test_one_pixel_keeps_its_place_and_its_size() -> None:
    """Of 60 x 40 pixels on 6 x 4 cells of 10 x 10: a hundredth of one cell, whichever pixel it is."""
    point = Region("point", (Length(29.7), Length(9.2)))
    got = box_weights(point.box(SIZE), SIZE, (0, 0, 60, 40), (4, 6))
    assert got[0, 2] == pytest.approx(0.01)
    assert got.sum() == pytest.approx(0.01)
    crossing = box_weights(Box(29.5, 9, 1, 1), SIZE, (0, 0, 60, 40), (4, 6))
    assert crossing[0, 2:4].tolist() == pytest.approx([0.005, 0.005])


def test_per_cent_are_of_the_photograph() -> None:
    region = Region("box", tuple(Length(value, True) for value in (10, 25, 50, 50)))
    assert region.box(SIZE).xywh == [6, 10, 30, 20]


def test_outside_of_what_was_seen_there_is_nothing() -> None:
    assert not box_weights(Box(0, 0, 10, 5), SIZE, (10, 5, 50, 35), (6, 8)).any()
    assert not box_weights(Box(70, 0, 10, 5), SIZE, (-6, -4, 66, 44), (6, 8)).any()


def _parts(labels: NDArray[np.int64], leave_out: set[int]) -> list[tuple[int, set[tuple[int, int]]]]:
    """Connected parts, cells touching at corners too, by breadth-first search."""
    seen: set[tuple[int, int]] = set()
    found = []
    for start in np.ndindex(labels.shape):
        if start in seen or int(labels[start]) in leave_out:
            continue
        part, queue = {start}, deque([start])
        while queue:
            row, column = queue.popleft()
            for near in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and near not in part and labels[near] == labels[start]:
                    part.add(near)  # type: ignore[arg-type]
                    queue.append(near)  # type: ignore[arg-type]
        seen |= part  # type: ignore[arg-type]
        found.append((int(labels[start]), part))
    return sorted(found, key=lambda each: -len(each[1]))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(5))
def test_segments_are_the_connected_parts_by_area(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, (7, 9))
    expected = _parts(labels, {0})
    got = segments(labels, [0], 1000)
    assert [int(each.cells.sum()) for each in got] == [len(part) for _, part in expected]
    every = {(each.class_index, frozenset(zip(*np.nonzero(each.cells), strict=True))) for each in got}
    assert every == {(index, frozenset(part)) for index, part in expected}
    assert len(segments(labels, [0], 2)) == 2


def test_evidence_by_hand() -> None:
    values = np.zeros((4, 6), dtype=np.float32)
    values[1, 2], values[2, 4], values[3, 5] = 3, 1, -7
    placed = PlacedMap(values, (1, 0, 6, 4), True)
    classes = np.array([[2, 0], [0, 5]])  # each cell is 2 rows by 2.5 columns of what was seen
    at = classes_at_pixels(classes, (1, 0, 6, 4), placed)
    assert at.tolist() == [[-1, 2, 2, 0, 0, 0], [-1, 2, 2, 0, 0, 0], [-1, 0, 0, 5, 5, 5], [-1, 0, 0, 5, 5, 5]]
    found = [(each.class_index, each.share, each.area) for each in evidence_by_class(placed, at)]
    assert found == [(2, 0.75, 0.2), (5, 0.25, 0.3), (0, 0.0, 0.5)]
    nothing = PlacedMap(np.zeros((4, 6), dtype=np.float32), (0, 0, 6, 4), False)
    assert evidence_by_class(nothing, at) == []


@pytest.mark.parametrize(
    ("spec", "name", "region"),
    [
        ("car", "car", Region("pred")),
        ("car@all", "car", Region("all")),
        ("17@truth", "17", Region("truth")),
        ("car@mask:a/b.png#12", "car", Region("mask", file="a/b.png", value=12)),
        ("car@mask:a#b.png", "car", Region("mask", file="a#b.png")),
        ("car@box:1,2,3.5,4", "car", Region("box", tuple(map(Length, (1, 2, 3.5, 4))))),
        ("car@point:10%,2", "car", Region("point", (Length(10, True), Length(2)))),
        ("mail@home.com", "mail@home.com", Region("pred")),
    ],
)
def test_words_of_regions(spec: str, name: str, region: Region) -> None:
    found = parse_region(spec)
    assert (found.name, found.region) == (name, region)


def test_two_sides_of_a_difference() -> None:
    assert two_sides("road,car") == ("road", "car")
    assert two_sides("road@all,car@box:1,2,3,4") == ("road@all", "car@box:1,2,3,4")
    assert two_sides("road@box:1,2,3,4,car@box:10%,2,3,4") == ("road@box:1,2,3,4", "car@box:10%,2,3,4")
    assert two_sides('"a, b",car') == ("a, b", "car")
    assert two_sides("road") is None
    assert two_sides("a,b,c") is None


def test_segments_by_number() -> None:
    assert (parse_segment("segment:largest"), parse_segment("segment:3"), parse_segment("class:3")) == (0, 2, None)
    with pytest.raises(CnnvizError, match="segment:largest"):
        parse_segment("segment:x")


def test_masks_that_cannot_be_read_are_said_before_they_are_decoded(tmp_path: Path) -> None:
    """Of a picture that says it is larger than memory the size is known first."""
    size, path = (64, 64), tmp_path / "mask.png"
    Image.fromarray(np.full((64, 64), 9, dtype=np.uint8)).save(path)
    assert read_mask(str(path), size, 9).all()
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = path.read_bytes()
    for damaged in (data[:16] + header + crc + data[33:], data[:40], b""):
        path.write_bytes(damaged)
        with pytest.raises(ImageError) as refused:
            read_mask(str(path), size)
        assert (refused.value.kind, str(path) in refused.value.message) == ("mask", True)
