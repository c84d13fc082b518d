"""``region_energy`` by hand, and what a rectangle that is none is told."""

from __future__ import annotations

import numpy as np
import pytest

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.metrics.contract import ExplainedImage, Row
from cnnviz.metrics.region_energy import rectangle, score, summarize
from cnnviz.records import ClassScore
from cnnviz.registry import lookup
from cnnviz.registry.localization_metrics import RegionEnergyOptions


def _image(labels: tuple[str, ...]) -> ExplainedImage:
    rgb = np.zeros((4, 10, 3), dtype=np.uint8)
    target = ClassScore(0, "cat", 1.0, 1.0)
    return ExplainedImage("a.png", "a", rgb, (0, 0, 10, 4), target, (target,), None, "gradcam", labels)


VALUES = np.zeros((4, 10), dtype=np.float32)
VALUES[1, 2], VALUES[1, 8], VALUES[3, 9], VALUES[0, 0] = 6, 3, 1, -5
PLACED = PlacedMap(VALUES, (0, 0, 10, 4), True)
TRUTH = Truth((10, 4), (TrueObject("cat", Box(1, 0, 3, 3)), TrueObject("dog", Box(8, 0, 2, 2))))


@pytest.mark.parametrize(
    ("regions", "objects", "labels", "expected", "peak"),
    [
        ("truth;background", "class", ("cat",), [0.6, 0.4], True),
        ("truth", "class", ("dog",), [0.3], False),
        ("truth;background", "any", (), [0.9, pytest.approx(0.1)], True),
        ("truth;0/0.5/1/1", "class", (), [None, 0.1], None),
        ("0.8,0,1,1", "class", ("cat",), [0.4], True),
    ],
)
def test_shares_by_hand(regions: str, objects: str, labels: tuple[str, ...], expected: list, peak: bool | None) -> None:
    params = RegionEnergyOptions(regions=regions, objects=objects, tolerance=0.5)  # type: ignore[call-arg]
    found = score(PLACED, _image(labels), TRUTH, params)
    assert found["energies"] == [each if each is None else pytest.approx(each) for each in expected]
    assert found["peak_inside"] is peak


def test_a_maximum_beside_the_object_counts_within_the_tolerance() -> None:
    near = RegionEnergyOptions(tolerance=4.0)  # type: ignore[call-arg]
    assert score(PLACED, _image(("dog",)), TRUTH, near)["peak_inside"] is False
    assert score(PLACED, _image(("dog",)), TRUTH, RegionEnergyOptions(tolerance=6.0))["peak_inside"] is True  # type: ignore[call-arg]


@pytest.mark.parametrize(("value", "share"), [(-1, None), (0, None), (1, 9 / 40)])
def test_a_map_that_is_the_same_everywhere_is_largest_nowhere(value: float, share: float | None) -> None:
    flat = PlacedMap(np.full((4, 10), value, dtype=np.float32), (0, 0, 10, 4), True)
    found = score(flat, _image(("cat",)), TRUTH, RegionEnergyOptions())  # type: ignore[call-arg]
    assert found["energies"][0] == (None if share is None else pytest.approx(share))
    assert found["peak_inside"] is None


def test_a_map_without_positive_values_is_largest_nowhere() -> None:
    found = score(PlacedMap(-np.abs(VALUES), (0, 0, 10, 4), True), _image(("cat",)), TRUTH, RegionEnergyOptions())  # type: ignore[call-arg]
    assert (found["energies"], found["peak_inside"]) == ([None, None], None)


def test_pixels_with_their_centres_in_a_rectangle() -> None:
    assert rectangle("0/0.5/0.5/1", (4, 4)).astype(int).tolist() == [[0] * 4, [0] * 4, [1, 1, 0, 0], [1, 1, 0, 0]]


def test_what_the_network_saw_of_a_region_is_said() -> None:
    """A crop of columns 4 to 8 of 10: of the left half it has one column of five, of the dog's box none of 8 and 9."""
    placed = PlacedMap(VALUES, (4, 0, 8, 4), True)
    params = RegionEnergyOptions(regions="truth;0,0,0.5,1;0.4,0,0.6,1;background")  # type: ignore[call-arg]
    found = score(placed, _image(("dog",)), TRUTH, params)
    assert found["seen"] == [0.0, pytest.approx(0.2), 1.0, pytest.approx(16 / 36)]
    assert score(placed, _image(("cow",)), TRUTH, params)["seen"][0] is None
    rows = [Row({**found, "seen": seen}, image, None) for image, seen in (("a", found["seen"]), ("b", [0.5, 0, 1, 1]))]
    said = summarize(rows, lookup.find_metric("region_energy"), params)
    assert said.figures is None
    assert [text.partition(": ")[2] for text in said.notes] == [
        "the network saw 25.0 % of the object, the mean of 2 images, and nothing of it in 1: it cannot look at the "
        "rest; --view whole shows it all",
        "the network saw 10.0 % of the region 0,0,0.5,1, the mean of 2 images, and nothing of it in 1: it cannot look "
        "at the rest; --view whole shows it all",
    ]
