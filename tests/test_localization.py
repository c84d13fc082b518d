"""Localization of single maps: boxes, thresholds, pixels and points against maps gone through pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from cnnviz.errors import CnnvizError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.metrics.baseline_maps import baseline
from cnnviz.metrics.chosen import MapMetrics
from cnnviz.metrics.contract import ExplainedImage
from cnnviz.metrics.localization import levels, overlaps
from cnnviz.metrics.localization_regions import Regions, regions
from cnnviz.metrics.map_statistics import map_scores
from cnnviz.records import ClassScore, DifferenceScore
from cnnviz.registry import lookup
from tests.oracles import localization as oracle

SIZE = (32, 24)
DOG, CAT = ClassScore(7, "collie", 0.6, 2.0), ClassScore(3, "tabby", 0.3, 1.0)
IMAGE = ExplainedImage(
    "a.png", "a.png", np.zeros((24, 32, 3), np.uint8), (0, 0, *SIZE), DOG, (CAT, DOG), None, "gradcam", ("dog",)
)
BOX = Box(8, 6, 12, 10)


def truth(*boxes: Box, label: str = "dog", **more: Any) -> Truth:
    return Truth(SIZE, tuple(TrueObject(label, box) for box in boxes), **more)


def indicator(*boxes: Box, value: float = 1.0) -> np.ndarray:
    values = np.zeros((SIZE[1], SIZE[0]), dtype=np.float32)
    for box in boxes:
        values[box.pixels(SIZE)] = value
    return values


def on_image(values: np.ndarray, seen: tuple[int, int, int, int] = (0, 0, *SIZE)) -> PlacedMap:
    return PlacedMap(np.asarray(values, dtype=np.float32), seen, False, np.asarray(values, dtype=np.float32))


def scores(text: str, values: np.ndarray | PlacedMap, known: Truth, image: ExplainedImage = IMAGE) -> dict[str, Any]:
    """What a metric says of a map, by the words of the command line."""
    placed = values if isinstance(values, PlacedMap) else on_image(values)
    request = lookup.read_metric(text)
    return MapMetrics([request]).score(placed, image, known)[request.spec.name]


def smooth(seed: int, cells: tuple[int, int] = (4, 5)) -> PlacedMap:
    """A map of a few cells, some below zero, on the image."""
    raw = np.random.default_rng(seed).standard_normal(cells).astype(np.float32) + 0.3
    return replace(place(raw, (0, 0, *SIZE), SIZE, signed=False), raw=raw)


def spread(runs: Sequence[Sequence[int]]) -> list[int]:
    return [level for first, last in runs for level in range(first, last + 1)]


@pytest.mark.parametrize("seed", range(6))
def test_regions_at_all_thresholds_are_those_of_flood_fill(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = smooth(seed).values if seed < 4 else generator.random((24, 32)).astype(np.float32)
    if seed == 3:
        values = np.round(values * 4) / 4
    found = regions(levels(on_image(values)), values)
    expected = sorted((k, *box, area) for k in range(255) for box, area in oracle.flood(oracle.share(values) > k / 256))
    got = np.column_stack([found.level, found.edges, found.area])
    assert sorted(map(tuple, got.tolist())) == expected


def test_ties_of_regions_go_to_the_first() -> None:
    found = Regions(
        np.array([1, 0, 0]), np.array([[9.0, 9, 10, 10], [5, 0, 6, 2], [0, 4, 2, 5]]), np.array([1.0, 2, 2])
    )
    assert found.in_order().largest().edges.tolist() == [[5, 0, 6, 2], [9, 9, 10, 10]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.55])
def test_the_box_of_a_map(seed: int, threshold: float) -> None:
    placed, known = smooth(seed), truth(Box(3, 2, 9.5, 7), Box(18, 10, 11, 12.25))
    found = list(oracle.flood(oracle.share(placed.values) > threshold))
    by_area = [box for box, _ in sorted(found, key=lambda each: (-each[1], each[0][1], each[0][0]))]
    x, y = oracle.first_maximum(placed.values)
    holding = [oracle.around(oracle.share(placed.values) > threshold, x, y)]
    for component, boxes in (("largest", by_area[:1]), ("any", by_area), ("strongest", holding)):
        got = scores(f"box_localization:threshold={threshold},component={component}", placed, known)
        pairs = [(oracle.iou(box, true.edges), box) for box in boxes for true in known.boxes()]
        assert got["iou"] == pytest.approx(max(pairs)[0], rel=1e-12)
        edges = Box(*got["box_xywh"]).edges
        assert edges in boxes
        assert max(oracle.iou(edges, true.edges) for true in known.boxes()) == pytest.approx(got["iou"], rel=1e-12)
    if threshold == 0.2:
        assert scores("box_localization", placed, known)["box_xywh"] == map_scores(placed.values, placed)["box_xywh"]


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_that_fit(seed: int) -> None:
    placed = smooth(seed, (3, 4))
    known = truth(Box(2, 2, 14, 12), Box(16, 9, 15, 14))
    edges = [box.edges for box in known.boxes()]
    assert spread(scores("max_box_acc", placed, known)["hits"]) == oracle.fits(placed.values, edges, 0.5, every=False)
    any_region = scores("max_box_acc_v2", placed, known)
    for name, needed in (("hits_30", 0.3), ("hits_50", 0.5), ("hits_70", 0.7)):
        assert spread(any_region[name]) == oracle.fits(placed.values, edges, needed, every=True)
    for level in (0, 51, 100):
        # The same binarisation, asked for by its threshold.
        alone = scores(f"max_box_acc:at={level / 256}", placed, known)["hits"]
        assert bool(alone) == (level in spread(scores("max_box_acc", placed, known)["hits"]))


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_of_the_reference_that_fit(seed: int) -> None:
    placed = smooth(seed, (3, 4))
    assert placed.raw is not None
    known = truth(Box(2, 2, 14, 12), Box(16, 9, 15.5, 14))
    edges = [box.edges for box in known.boxes()]
    every = np.arange(0, 1, 0.001)
    for text, key, needed, several in (("max_box_acc", "hits", 0.5, False), ("max_box_acc_v2", "hits_70", 0.7, True)):
        hits = set(spread(scores(f"{text}:protocol=wsol", placed, known)[key]))
        expected = oracle.wsol_fits(placed.raw, edges, SIZE, needed, every=several)
        assert [t for t in every if int(t * 255) in hits] == expected
        at = bool(scores(f"{text}:protocol=wsol,at=0.3", placed, known)[key])
        assert at == (0.3 in np.round(expected, 6))
    fits = scores("box_localization:protocol=wsol,threshold=0.3", placed, known)["iou"] >= 0.5
    assert fits == (0.3 in np.round(oracle.wsol_fits(placed.raw, edges, SIZE, 0.5, every=False), 6))


def test_large_photographs_are_gone_through_in_steps() -> None:
    size = (1500, 1000)
    raw = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    placed = replace(place(raw, (0, 0, *size), size, signed=False), raw=raw)
    exact = scores("box_localization:threshold=0.5", placed, Truth(size, (TrueObject("dog", Box(0, 0, 9, 9)),)))
    known = Truth(size, (TrueObject("dog", Box(*exact["box_xywh"])),))
    assert 128 in spread(scores("max_box_acc", placed, known)["hits"])
    assert max(spread(scores("max_box_acc_v2", placed, known)["hits_70"])) < 254


# By hand.


def test_a_perfect_map() -> None:
    values, known = indicator(BOX), truth(BOX, masks={"dog": indicator(BOX) > 0})
    box = scores("box_localization", values, known)
    assert (box["box_xywh"], box["iou"], box["true_class"], box["size"]) == ([8, 6, 12, 10], 1.0, True, "small")
    assert (box["rank"], box["guesses"], box["true_labels"], box["truth_classes"]) == (2, 2, ["dog"], 1)
    assert scores("max_box_acc", values, known)["hits"] == [[0, 254]]
    assert scores("max_box_acc_v2", values, known)["hits_70"] == [[0, 254]]
    assert scores("pxap", values, known)["levels"] == [[0, 255], [0, 120], [32 * 24 - 120, 0]]
    assert scores("pointing_game:tolerance=0", values, known)["hit"] is True
    assert scores("energy_pointing_game", values, known)["energy"] == 1.0


@pytest.mark.parametrize("values", [indicator(), indicator() - 1])
def test_a_map_without_positive_values(values: np.ndarray) -> None:
    known = truth(BOX, masks={"dog": indicator(BOX) > 0})
    box = scores("box_localization", values, known)
    assert (box["box_xywh"], box["iou"], box["size"]) == (None, 0.0, "small")
    assert scores("max_box_acc", values, known)["hits"] == []
    assert scores("max_box_acc:at=0.2", values, known)["hits"] == []
    assert scores("pxap", values, known)["levels"] == [[0], [120], [32 * 24 - 120]]
    assert scores("pointing_game:tolerance=999", values, known)["hit"] is False
    assert scores("pointing_game", values, known)["point"] is None
    assert scores("energy_pointing_game", values, known)["energy"] == 0.0


def test_an_inverted_map() -> None:
    values, known = 1 - indicator(BOX), truth(BOX)
    box = scores("box_localization", values, known)
    assert (box["box_xywh"], box["iou"]) == ([0, 0, 32, 24], pytest.approx(120 / (32 * 24)))
    assert scores("energy_pointing_game", values, known)["energy"] == 0.0
    assert scores("pointing_game:tolerance=5", values, known)["point"] == [0, 0]
    assert scores("pointing_game:tolerance=5", values, known)["hit"] is False


def test_a_class_that_is_not_in_the_image_and_one_that_the_truth_does_not_know() -> None:
    values, known = indicator(BOX), truth(BOX, label="cat", masks={"cat": indicator(BOX) > 0})
    unknown = replace(IMAGE, truth_labels=())
    assert scores("box_localization", values, known)["iou"] == 0.0
    assert scores("box_localization", values, known)["true_class"] is False
    assert scores("box_localization", values, known, unknown)["iou"] is None
    assert scores("box_localization", values, known, unknown)["true_class"] is None
    assert scores("max_box_acc", values, known)["hits"] is None
    assert scores("pxap", values, known)["levels"] is None
    for image, hit, energy in ((IMAGE, False, 0.0), (unknown, None, None)):
        assert scores("pointing_game", values, known, image)["hit"] is hit
        assert scores("pointing_game", values, known, image)["difficult"] is None
        assert scores("energy_pointing_game", values, known, image)["energy"] == energy


def test_what_the_network_could_be_right_with() -> None:
    """Labels that are boxes and mean a class; and five guesses, of however few predictions."""
    known = Truth(SIZE, (TrueObject("dog", BOX), TrueObject("kite", Box(0, 0, 4, 4)), TrueObject("kite", BOX)))
    assert scores("box_localization", indicator(BOX), known)["truth_classes"] == 2
    for meant, count in ((("dog", "sky"), 1), ((), 0), (("dog", "kite"), 2)):
        image = replace(IMAGE, meant_labels=meant)
        assert scores("box_localization", indicator(BOX), known, image)["truth_classes"] == count
    one = replace(IMAGE, predictions=(CAT,), guesses=(3, 9, 1, 7, 0, 2))
    found = scores("box_localization", indicator(BOX), known, one)
    assert (found["rank"], found["guesses"]) == (4, 5)
    found = scores("box_localization", indicator(BOX), known, replace(IMAGE, guesses=()))
    assert (found["rank"], found["guesses"]) == (None, 0)


def test_several_labels_may_mean_the_class() -> None:
    both = replace(IMAGE, truth_labels=("dog", "wolf"))
    wolf = TrueObject("wolf", Box(0, 0, 4, 4))
    known = Truth(SIZE, (TrueObject("dog", BOX), wolf, TrueObject("cat", Box(20, 20, 4, 4))))
    assert scores("box_localization", indicator(wolf.box), known, both)["iou"] == 1.0
    assert scores("box_localization", indicator(wolf.box), known)["iou"] == 0.0
    assert scores("energy_pointing_game", indicator(wolf.box, BOX), known, both)["energy"] == 1.0
    assert scores("energy_pointing_game", indicator(wolf.box, BOX), known)["energy"] == pytest.approx(120 / 136)


def test_a_box_on_the_border() -> None:
    corner = Box(20, 14, 12, 10)
    for protocol in ("cnnviz", "ilsvrc"):
        got = scores(f"box_localization:protocol={protocol}", indicator(corner), truth(corner))
        assert (got["box_xywh"], got["iou"]) == ([20, 14, 12, 10], 1.0)
    # Cut at the last pixel, one pixel more: 224 - 140 columns and 224 - 130 rows against one more of each.
    got = scores("box_localization:protocol=wsol,threshold=0.5", indicator(corner), truth(corner))
    x, y, width, height = got["box_xywh"]
    assert x + width == pytest.approx(32 * 223 / 224)
    assert y + height == pytest.approx(24 * 223 / 224)
    assert 0.9 < got["iou"] < 1.0


def test_true_boxes_of_ilsvrc_are_whole_pixels() -> None:
    known = truth(Box(7.6, 6.4, 12.2, 9.8))
    assert scores("box_localization:protocol=ilsvrc", indicator(BOX), known)["iou"] == 1.0
    assert scores("box_localization", indicator(BOX), known)["iou"] == pytest.approx(
        oracle.iou(BOX.edges, known.boxes()[0].edges)
    )


def test_two_objects() -> None:
    small, large = Box(1, 1, 5, 6), Box(12, 4, 14, 16)
    values = indicator(small, large)
    assert scores("box_localization", values, truth(small))["iou"] == 0.0
    assert scores("box_localization:component=any", values, truth(small))["iou"] == 1.0
    assert scores("box_localization", values, truth(small, large))["box_xywh"] == large.xywh
    assert scores("max_box_acc", values, truth(small))["hits"] == []
    assert scores("max_box_acc_v2", values, truth(small))["hits_70"] == [[0, 254]]
    values = values + indicator(small)  # now twice as high
    assert scores("box_localization:component=strongest", values, truth(small))["iou"] == 1.0
    assert scores("max_box_acc", values, truth(small))["hits"] == [[128, 254]]
    assert scores("energy_pointing_game", values, truth(small))["energy"] == pytest.approx(60 / (60 + 224))


def test_a_hole_is_a_region_for_the_reference_alone() -> None:
    ring, hole = Box(2, 2, 27, 20), Box(10, 7, 10, 9)
    values = indicator(ring) - indicator(hole)
    assert scores("max_box_acc_v2", values, truth(hole))["hits_50"] == []
    assert scores("max_box_acc_v2:protocol=wsol", values, truth(hole))["hits_50"] != []
    assert scores("max_box_acc:protocol=wsol", values, truth(hole))["hits"] == []
    assert scores("box_localization:component=any", values, truth(hole))["iou"] == pytest.approx(90 / (27 * 20))


def test_the_network_saw_a_part() -> None:
    values, seen = np.zeros((24, 32), np.float32), (16, 0, 32, 24)
    values[:, 16:] = 0.25
    values[6:16, 16:20] = 1.0
    placed, known = on_image(values, seen), truth(BOX, masks={"dog": indicator(BOX) > 0})
    assert scores("box_localization:threshold=0.5", placed, known)["iou"] == pytest.approx(40 / 120)
    assert scores("max_box_acc_v2", placed, known)["hits_30"] == [[64, 254]]
    assert scores("energy_pointing_game", placed, known)["energy"] == pytest.approx(40 / (40 + 0.25 * (384 - 40)))
    # What it did not see of the class is missed, below all that it did see.
    assert scores("pxap", placed, known)["levels"] == [[0, 64, 255], [80, 0, 40], [304, 344, 0]]
    whole = baseline("whole_image", placed, "a.png")
    assert scores("box_localization", whole, known)["box_xywh"] == [16, 0, 16, 24]


def test_a_point_is_the_first_maximum_and_may_be_close() -> None:
    values = indicator()
    values[20, 30] = values[21, 5] = 2.0
    values[3, 3] = 1.9
    for gap, hit in ((0.0, False), (10.4, False), (10.6, True)):
        # The pixel's centre is 10.5 pixels right of the box.
        got = scores(f"pointing_game:tolerance={gap}", values, truth(Box(4, 18, 16, 4)))
        assert (got["point"], got["hit"]) == ([30, 20], hit)
    corner = np.hypot(30.5 - 27, 20.5 - 16)
    for gap, hit in ((corner - 0.01, False), (corner + 0.01, True)):
        assert scores(f"pointing_game:tolerance={gap}", values, truth(Box(20, 10, 7, 6)))["hit"] is hit


@pytest.mark.parametrize("seed", range(5))
def test_points_and_energy_by_pixels(seed: int) -> None:
    placed, known = smooth(seed), truth(BOX, Box(2, 14, 9, 8))
    assert scores("pointing_game", placed, known)["point"] == list(oracle.first_maximum(placed.values))
    inside = total = 0.0
    for (y, x), value in np.ndenumerate(placed.values.astype(np.float64)):
        total += max(value, 0.0)
        inside += max(value, 0.0) * any(box.contains(x + 0.5, y + 0.5) for box in known.boxes())
    assert scores("energy_pointing_game", placed, known)["energy"] == pytest.approx(inside / total, rel=1e-6)


def test_what_is_difficult() -> None:
    other = TrueObject("cat", Box(0, 0, 4, 4))
    for box, objects, difficult in ((BOX, (other,), True), (BOX, (), False), (Box(0, 0, 16, 12), (other,), False)):
        known = Truth(SIZE, (TrueObject("dog", box), *objects))
        assert scores("pointing_game", indicator(BOX), known)["difficult"] is difficult
    hard = Truth(SIZE, (TrueObject("dog", BOX, difficult=True), other))
    assert scores("pointing_game", indicator(BOX), hard)["hit"] is None
    assert scores("energy_pointing_game", indicator(BOX), hard)["energy"] is None


def test_ignored_pixels_count_neither_way() -> None:
    ignored = np.zeros((24, 32), dtype=bool)
    ignored[:, 16:] = True
    known = truth(BOX, masks={"dog": indicator(BOX) > 0}, ignored=ignored)
    # Those of the class count all the same.
    assert scores("pxap", np.ones((24, 32)), known)["levels"] == [[255], [120], [384 - 80]]
    assert scores("energy_pointing_game", np.ones((24, 32)), known)["energy"] == pytest.approx(80 / 384)


def test_pixels_of_the_reference() -> None:
    placed, mask = smooth(2), indicator(BOX) > 0
    found = np.array(scores("pxap:protocol=wsol", placed, truth(BOX, masks={"dog": mask}))["levels"])
    assert placed.raw is not None
    cam = cv2.resize(placed.raw.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
    cam = (cam - cam.min()) / (cam - cam.min()).max()
    inside = cv2.resize(np.float32(mask), (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0])
    for column, chosen in ((1, inside), (2, ~inside)):
        expected = np.histogram(cam[chosen], bins=edges)[0]
        assert expected[found[0]].tolist() == found[column].tolist()
        assert expected.sum() == found[column].sum()


@pytest.mark.parametrize("height", [0.7, 0.0, -2.0])
def test_a_map_that_is_the_same_everywhere_finds_nothing(height: float) -> None:
    """An object that fills the image, where a box around all of it would fit; of ``wsol`` the box is a pixel."""
    known, flat = truth(Box(0, 0, *SIZE)), np.full((SIZE[1], SIZE[0]), height, np.float32)
    for protocol in ("cnnviz", "ilsvrc", "wsol"):
        for component in ("largest", "any", "strongest"):
            found = scores(f"box_localization:protocol={protocol},component={component}", flat, known)
            assert found["flat"] is True
            assert found["iou"] < 0.01
            assert (found["box_xywh"] is None) == (protocol != "wsol" or component == "strongest")
    for protocol in ("cnnviz", "wsol"):
        assert scores(f"max_box_acc:protocol={protocol}", flat, known)["hits"] == []
        any_region = scores(f"max_box_acc_v2:protocol={protocol}", flat, known)
        assert [any_region[name] for name in ("hits_30", "hits_50", "hits_70")] == [[], [], []]
        assert scores(f"max_box_acc:at=0.2,protocol={protocol}", flat, known)["hits"] == []
    assert scores("pointing_game", flat, known)["hit"] is False
    # What is to mark everything does: it stands beside the methods.
    assert scores("box_localization", flat, known)["baselines"]["whole_image"]["iou"] == 1


def test_overlaps_are_those_of_boxes() -> None:
    generator = np.random.default_rng(0)
    boxes = [Box(*generator.uniform(0, 20, 2), *generator.uniform(0, 9, 2)) for _ in range(12)]
    edges = np.array([box.edges for box in boxes])
    for protocol, one in (("cnnviz", Box.iou), ("ilsvrc", Box.iou), ("wsol", Box.iou_plus_one)):
        expected = [[one(a, b) for b in boxes[6:]] for a in boxes[:6]]
        np.testing.assert_allclose(overlaps(edges[:6], edges[6:], protocol), expected, rtol=1e-12)  # type: ignore[arg-type]


def test_a_target_that_is_no_class_has_no_rank() -> None:
    image = replace(IMAGE, target=DifferenceScore("diff:7,3", "collie - tabby", 1.0, DOG, CAT), truth_labels=())
    assert scores("box_localization", indicator(BOX), truth(BOX), image)["rank"] is None


def test_baselines_stand_beside_every_figure() -> None:
    known = truth(BOX, masks={"dog": indicator(BOX) > 0})
    for name in ("box_localization", "max_box_acc", "max_box_acc_v2", "pxap", "pointing_game", "energy_pointing_game"):
        found = scores(name, smooth(0), known)
        assert list(found["baselines"]) == ["centre_box", "centre_gaussian", "whole_image"]
    boxes = scores("box_localization", smooth(0), known)["baselines"]
    # sqrt(1/2) of 32 and of 24 pixels, in the middle.
    assert boxes["centre_box"]["box_xywh"] == [5, 4, 22, 16]
    assert boxes["whole_image"]["box_xywh"] == [0, 0, 32, 24]
    whole = scores("max_box_acc:protocol=wsol", smooth(0), truth(Box(0, 0, 32, 24)))["baselines"]["whole_image"]
    assert whole["hits"] == [[0, 254]]


def test_options_are_checked() -> None:
    with pytest.raises(CnnvizError, match=r"at=1\.5 is out of range"):
        lookup.read_metric("max_box_acc:at=1.5")
    with pytest.raises(CnnvizError, match="expected one of cnnviz, wsol"):
        lookup.read_metric("max_box_acc:protocol=ilsvrc")
