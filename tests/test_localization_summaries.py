"""Localization over a run: errors of images, thresholds chosen on the maps, pixels of all maps, classes and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.metrics import localization_thresholds
from cnnviz.metrics.chosen import gathered, summed_up
from cnnviz.metrics.contract import ExplainedImage, Row, RunSummary
from cnnviz.metrics.intervals import wilson
from cnnviz.metrics.localization_boxes import summarize as of_boxes
from cnnviz.metrics.localization_pixels import score as pixels_of
from cnnviz.metrics.localization_pixels import summarize as of_pixels
from cnnviz.metrics.localization_points import summarize as of_points
from cnnviz.metrics.localization_points import summarize_energy as of_energy
from cnnviz.metrics.localization_thresholds import summarize as of_thresholds
from cnnviz.metrics.localization_thresholds import summarize_v2 as of_thresholds_v2
from cnnviz.records import ClassScore
from cnnviz.registry.localization_metrics import (
    BOX_LOCALIZATION,
    ENERGY_POINTING_GAME,
    MAX_BOX_ACC,
    MAX_BOX_ACC_V2,
    POINTING_GAME,
    PXAP,
    BoxLocalizationOptions,
    MaxBoxAccOptions,
    PointingGameOptions,
    PxAPOptions,
)
from cnnviz.registry.params import Options
from tests.oracles import localization as oracle

Spans = list[list[int]]


def rows(scores: Sequence[dict[str, Any] | None], images: Sequence[str] | None = None) -> list[Row]:
    """Rows of maps whose baselines have the same figures."""
    names = ("centre_box", "centre_gaussian", "whole_image")
    named = images or [str(number) for number in range(len(scores))]
    return [
        Row(None if each is None else {**each, "baselines": dict.fromkeys(names, each)}, image, None)
        for each, image in zip(scores, named, strict=True)
    ]


def box(rank: int | None, true: bool, iou: float, size: str | None = "large", **more: Any) -> dict[str, Any]:
    given = {
        "rank": rank, "guesses": 5, "true_class": true, "true_labels": ["dog"] if true else [], "iou": iou,
        "truth_classes": 1, "size": size if true else None,
    }  # fmt: skip
    return {**given, **more}


def boxes(*scores: dict[str, Any], images: Sequence[str]) -> dict[str, Any]:
    said = of_boxes(rows(scores, images), BOX_LOCALIZATION, BoxLocalizationOptions())
    assert said.figures["baselines"]["centre_box"]["gt_known_accuracy"] == said.figures["gt_known_accuracy"]
    figures: dict[str, Any] = said.figures
    return figures


def test_errors_of_images_are_the_minimum_over_guesses() -> None:
    generator = np.random.default_rng(0)
    images, maps, by_image = [], [], []
    for number in range(60):
        right = int(generator.integers(1, 8))
        guesses = [
            {"rank": rank, "true": rank == right, "iou": float(generator.random()) * (rank == right)}
            for rank in range(1, 6)
        ]
        by_image.append(guesses)
        maps += [box(each["rank"], each["true"], each["iou"]) for each in guesses]
        images += [str(number)] * 5
    found = boxes(*maps, images=images)
    for guesses in (1, 5):
        errors = [oracle.image_error(each, guesses) for each in by_image]
        labels = [float(not any(each["true"] for each in own[:guesses])) for own in by_image]
        for name, expected in ((f"top{guesses}_error", errors), (f"top{guesses}_classification_error", labels)):
            assert found[name]["value"] == round(float(np.mean(expected)), 6)
            assert found[name]["ci95"] == pytest.approx(wilson(sum(expected), 60), abs=1e-6)
            assert found[name]["n"] == 60


def test_images_whose_maps_do_not_say_are_not_counted() -> None:
    one = {"images": ["a"]}
    # The second guess alone, wrong: nothing is known of the first.
    assert boxes(box(2, False, 0.0), **one)["top1_error"] == {"value": None, "ci95": None, "n": 0}
    # Of the only true class, whatever its rank, everything is.
    for rank, top1, top5 in ((1, 0.0, 0.0), (3, 1.0, 0.0), (None, 1.0, 1.0)):
        found = boxes(box(rank, True, 0.9), **one)
        assert (found["top1_error"]["value"], found["top5_error"]["value"]) == (top1, top5)
        assert found["top5_classification_error"]["value"] == top5
    # Of one of two true classes it is not.
    assert boxes(box(3, True, 0.9, truth_classes=2), **one)["top1_error"]["n"] == 0
    # A network with two classes has two guesses.
    found = boxes(box(1, False, 0.0, guesses=2), box(2, True, 0.6, guesses=2), images=["a", "a"])
    assert (found["top1_error"]["value"], found["top5_error"]["value"]) == (1.0, 0.0)


def test_images_of_which_no_class_is_marked_are_left_out() -> None:
    """A guess that the truth has no label for is wrong, where something else could have been right."""
    outside = box(1, None, None)  # type: ignore[arg-type]
    nameless = box(1, None, None, truth_classes=0)  # type: ignore[arg-type]
    found = boxes(nameless, nameless, images=["a", "b"])
    assert found["top1_error"] == found["top1_classification_error"] == {"value": None, "ci95": None, "n": 0}
    assert (found["maps"], found["without_truth"], found["classes_outside_truth"]) == (0, 2, 0)
    found = boxes(outside, nameless, box(1, True, 0.7), images=["a", "b", "c"])
    assert (found["top1_error"]["value"], found["top1_error"]["n"]) == (0.5, 2)
    assert (found["maps"], found["without_truth"], found["classes_outside_truth"]) == (2, 1, 1)
    given = [*rows([outside, nameless, nameless], ["a", "b", "b"]), *rows([None], ["c"])]
    said = of_boxes(given, BOX_LOCALIZATION, BoxLocalizationOptions())
    assert [sentence for _, sentence in said.remarks] == [
        "1 of 3 images is left out: nothing that is marked on it is a class of the model",
        "1 map of images without boxes was not scored",
    ]


def test_known_classes_by_size() -> None:
    found = boxes(
        box(1, True, 0.5, "small"), box(2, True, 0.49, "small"), box(1, True, 0.8), box(1, False, 0.0),
        box(4, None, None, true_labels=[]),  # type: ignore[arg-type]
        images=["a", "a", "b", "c", "d"],
    )  # fmt: skip
    assert found["gt_known_accuracy"]["value"] == round(2 / 3, 6)
    assert found["gt_known_accuracy"]["n"] == 3
    # Three maps of two images count as two trials.
    assert found["gt_known_accuracy"]["ci95"] == pytest.approx(wilson(2 / 3 * 2, 2), abs=1e-6)
    assert [found["by_size"][size]["value"] for size in ("small", "medium", "large")] == [0.5, None, 1.0]
    assert found["classes_outside_truth"] == 1


def levels(hits: Spans | None) -> dict[str, Any]:
    return {"hits": hits, "true_labels": [] if hits is None else ["dog"]}


def spans(generator: np.random.Generator, count: int, spread: float = 40) -> list[Spans]:
    """Random spans of thresholds that fit, around a common one; some maps fit nowhere."""
    found: list[Spans] = []
    for middle, half in zip(generator.normal(90, spread, count), generator.uniform(0, 60, count), strict=True):
        first, last = max(0, int(middle - half)), min(254, int(middle + half))
        found.append([[first, last]] if last >= first and half > 10 else [])
    return found


def accuracies(hits: Sequence[Spans]) -> list[float]:
    return [float(np.mean([any(a <= k <= b for a, b in own) for own in hits])) for k in range(255)]


def max_box_acc(said: RunSummary) -> dict[str, Any]:
    found: dict[str, Any] = said.figures["max_box_acc"]
    return found


def test_the_best_threshold_of_all_maps() -> None:
    hits = spans(np.random.default_rng(1), 80)
    scores = [*map(levels, hits), levels(None)]
    said = of_thresholds(rows([*scores, None]), MAX_BOX_ACC, MaxBoxAccOptions())
    expected = accuracies(hits)
    found = max_box_acc(said)
    assert found["value"] == round(max(expected), 6)
    assert (found["threshold"], found["oracle"], found["n"]) == (expected.index(max(expected)) / 256, True, 80)
    assert (said.figures["maps"], said.figures["without_truth"]) == (81, 1)
    assert len(said.figures["curve"]) == 101
    for threshold, accuracy in said.figures["curve"]:
        assert accuracy == round(expected[round(threshold * 256)], 6)
    assert said.figures["baselines"]["whole_image"] == {"max_box_acc": found}
    assert "threshold chosen on these images" in said.notes[0]


def test_the_threshold_is_chosen_anew_in_each_draw() -> None:
    generator = np.random.default_rng(2)
    hits = spans(generator, 30)
    images = [str(number // 2) for number in range(30)]
    found = max_box_acc(of_thresholds(rows([*map(levels, hits)], images), MAX_BOX_ACC, MaxBoxAccOptions()))
    normal = NormalDist()
    fits = np.array([[any(a <= k <= b for a, b in own) for k in range(255)] for own in hits])
    best = []
    for _ in range(3000):
        drawn = np.concatenate([[2 * image, 2 * image + 1] for image in generator.integers(15, size=15)])
        best.append(fits[drawn].mean(axis=0).max())
    # Draws lie above the accuracy of all maps, as that lies above what it estimates.
    assert np.mean(best) > found["value"]
    shift = 2 * normal.inv_cdf(np.mean(np.array(best) < found["value"]) + np.mean(np.isclose(best, found["value"])) / 2)
    quantiles = [normal.cdf(shift + reach) for reach in (-1.96, 1.96)]
    assert found["ci95"] == pytest.approx(np.quantile(best, quantiles), abs=0.035)


def test_each_iou_has_its_best_threshold() -> None:
    generator = np.random.default_rng(3)
    by_name = {name: spans(generator, 40) for name in ("hits_30", "hits_50", "hits_70")}
    scores = [{**{name: own[row] for name, own in by_name.items()}, "true_labels": ["dog"]} for row in range(40)]
    said = of_thresholds_v2(rows(scores), MAX_BOX_ACC_V2, MaxBoxAccOptions()).figures
    best = [max(accuracies(own)) for own in by_name.values()]
    assert said["max_box_acc_v2"]["value"] == pytest.approx(np.mean(best), abs=1e-6)
    assert [said["by_iou"][iou]["value"] for iou in ("0.3", "0.5", "0.7")] == [round(each, 6) for each in best]
    assert list(said["curve"]) == ["0.3", "0.5", "0.7"]
    low, high = said["max_box_acc_v2"]["ci95"]
    assert 0.1 < high - low < 0.4
    assert low < said["max_box_acc_v2"]["value"]


def test_a_threshold_of_other_images_is_no_oracle() -> None:
    scores = [levels([[0, 0]]), levels([]), levels([[0, 0]]), levels([[0, 0]])]
    said = of_thresholds(rows(scores), MAX_BOX_ACC, MaxBoxAccOptions(at=0.3))
    found = max_box_acc(said)
    assert (found["value"], found["threshold"], found["oracle"]) == (0.75, 0.3, False)
    assert said.figures["curve"] == [[0.3, 0.75]]
    assert "chosen" not in said.notes[0]


@pytest.mark.parametrize(("hits", "value"), [([[0, 254]], 1.0), ([], 0.0)])
def test_a_rate_at_the_end_has_an_interval_of_some_width(hits: Spans, value: float) -> None:
    found = max_box_acc(of_thresholds(rows([levels(hits)] * 9), MAX_BOX_ACC, MaxBoxAccOptions()))
    assert found["value"] == value
    assert found["ci95"] == pytest.approx(wilson(9 * value, 9), abs=1e-6)


def test_thresholds_of_the_reference_have_three_digits() -> None:
    scores = [levels([[77, 77]])]
    found = max_box_acc(of_thresholds(rows(scores), MAX_BOX_ACC, MaxBoxAccOptions(protocol="wsol")))
    assert found["threshold"] == 0.302
    assert [int(each * 255) for each in (0.301, 0.302)] == [76, 77]


def test_pixels_of_all_maps_together() -> None:
    generator = np.random.default_rng(4)
    maps, masks, counted, scores = [], [], [], []
    for number in range(6):
        values = generator.random((9, 12)).astype(np.float32) - 0.2
        mask = generator.random((9, 12)) < 0.3
        ignored = (generator.random((9, 12)) < 0.2) & ~mask
        image = ExplainedImage(
            f"{number}", f"{number}", np.zeros((9, 12, 3), np.uint8), (0, 0, 12, 9), ClassScore(0, "a", 1, 1), (),
            None, "gradcam", ("dog",),
        )  # fmt: skip
        truth = Truth((12, 9), (), {"dog": mask}, ("dog",), ignored)
        scores.append(pixels_of(PlacedMap(values, (0, 0, 12, 9), False), image, truth, PxAPOptions()))
        maps.append(values)
        masks.append(mask)
        counted.append(~ignored)
    found = of_pixels(rows([*scores, {"levels": None}]), PXAP, PxAPOptions()).figures["pxap"]
    assert found["value"] == pytest.approx(oracle.average_precision(maps, masks, counted), abs=1e-6)
    assert found["n"] == 6
    assert found["ci95"][0] < found["value"] < found["ci95"][1]


def test_pixels_that_are_all_right_and_all_alike() -> None:
    perfect, even = {"levels": [[0, 255], [0, 30], [70, 0]]}, {"levels": [[255], [30], [70]]}
    for own, value in ((perfect, 1.0), (even, 0.3)):
        assert of_pixels(rows([own, own]), PXAP, PxAPOptions()).figures["pxap"]["value"] == pytest.approx(value)


def point(label: str | None, hit: bool | None, difficult: bool = False) -> dict[str, Any]:
    return {"hit": hit, "difficult": difficult, "true_labels": [label] if label else []}


def test_points_by_class() -> None:
    scores = [
        *(point("dog", hit) for hit in (True, True, True, False)), point("cat", False, True), point("cat", True),
        point("cow", True, True), point(None, False), point("car", None),
    ]  # fmt: skip
    found = of_points(rows(scores), POINTING_GAME, PointingGameOptions()).figures
    assert found["pointing_game"]["value"] == pytest.approx((0.75 + 0.5 + 1) / 3, abs=1e-6)
    assert (found["pointing_game"]["n"], found["pointing_game"]["classes"]) == (7, 3)
    assert found["hit_rate"]["value"] == round(5 / 7, 6)
    assert found["hit_rate"]["ci95"] == pytest.approx(wilson(5, 7), abs=1e-6)
    assert found["pointing_game_difficult"]["value"] == 0.5
    assert found["hit_rate_difficult"]["n"] == 2


def test_energy_by_size() -> None:
    scores = [
        {"energy": energy, "size": size, "true_labels": ["dog"]}
        for energy, size in ((0.5, "small"), (0.7, "small"), (0.9, "large"))
    ]
    absent = {"energy": 0.0, "size": None, "true_labels": []}
    found = of_energy(rows([*scores, absent]), ENERGY_POINTING_GAME, Options()).figures
    assert found["energy_pointing_game"]["value"] == pytest.approx(0.7)
    assert found["by_size"]["small"]["value"] == pytest.approx(0.6)
    assert found["by_size"]["medium"] == {"value": None, "ci95": None, "n": 0}


def test_a_run_without_maps_has_no_figures() -> None:
    for summarize, spec, options in (
        (of_boxes, BOX_LOCALIZATION, BoxLocalizationOptions()),
        (of_thresholds, MAX_BOX_ACC, MaxBoxAccOptions()),
        (of_pixels, PXAP, PxAPOptions()),
        (of_points, POINTING_GAME, PointingGameOptions()),
        (of_energy, ENERGY_POINTING_GAME, Options()),
    ):
        assert summarize([], spec, options).figures is None  # type: ignore[operator]
        [name] = [key for key in summarize(rows([None]), spec, options).figures if key in {  # type: ignore[operator]
            "gt_known_accuracy", "max_box_acc", "pxap", "pointing_game", "energy_pointing_game"
        }]  # fmt: skip
        assert summarize(rows([None]), spec, options).figures[name]["value"] is None  # type: ignore[operator]


# Intervals cover what they estimate about as often as they say.

RUNS = 60


def covered(ends: Sequence[float] | None, value: float) -> bool:
    assert ends is not None
    return ends[0] <= value <= ends[1]


def test_intervals_of_rates_cover() -> None:
    generator = np.random.default_rng(5)
    found = []
    for _ in range(400):
        # Two maps an image that fit together or not: as good as one.
        hits = np.repeat(generator.random(40) < 0.8, 2)
        scores = [box(1, True, float(hit)) for hit in hits]
        images = [str(number // 2) for number in range(80)]
        known = of_boxes(rows(scores, images), replace(BOX_LOCALIZATION, baselines=()), BoxLocalizationOptions())
        found.append(covered(known.figures["gt_known_accuracy"]["ci95"], 0.8))
    assert 0.92 <= np.mean(found) <= 0.98


def test_intervals_of_the_best_threshold_cover() -> None:
    generator = np.random.default_rng(6)
    spec = replace(MAX_BOX_ACC, baselines=())
    value = max(accuracies(spans(generator, 4000, 15)))
    found = [
        covered(max_box_acc(of_thresholds(rows(drawn), spec, MaxBoxAccOptions()))["ci95"], value)
        for drawn in ([*map(levels, spans(generator, 100, 15))] for _ in range(RUNS))
    ]
    assert np.mean(found) >= 0.9


def test_intervals_of_classes_and_energy_cover() -> None:
    generator = np.random.default_rng(7)
    points, energies = [], []
    for _ in range(RUNS):
        scores = []
        for label, rate in (("dog", 0.9), ("cat", 0.5), ("cow", 0.6)):
            scores += [point(label, bool(hit)) for hit in generator.random(40) < rate]
        ends = of_points(rows(scores), replace(POINTING_GAME, baselines=()), PointingGameOptions()).figures
        points.append(covered(ends["pointing_game"]["ci95"], (0.9 + 0.5 + 0.6) / 3))
        shares = [{"energy": each, "size": "large", "true_labels": ["dog"]} for each in generator.beta(2, 3, 60)]
        ends = of_energy(rows(shares), replace(ENERGY_POINTING_GAME, baselines=()), Options()).figures
        energies.append(covered(ends["energy_pointing_game"]["ci95"], 0.4))
    assert np.mean(points) >= 0.87
    assert np.mean(energies) >= 0.87


def test_the_truth_of_several_classes() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[0, 0] = True
    dog, hard = TrueObject("dog", Box(3, 3, 2, 2)), TrueObject("cat", Box(1, 1, 2, 2), difficult=True)
    truth = Truth((8, 6), (hard, dog, TrueObject("cat", Box(0, 0, 8, 6), ignore=True)), {"sky": mask})
    assert truth.object_labels == ("cat", "dog")
    assert truth.boxes_of(("dog", "cat")) == (hard.box, dog.box)
    assert truth.boxes_of(("dog", "cat"), difficult=False) == (dog.box,)
    assert truth.boxes_of(()) == ()
    assert np.argwhere(truth.region_of(("sky", "dog"))).tolist() == [[0, 0], [3, 3], [3, 4], [4, 3], [4, 4]]
    assert not truth.region_of(()).any()
    sizes = [Box(0, 0, 31, 33).object_size, Box(0, 0, 32, 32).object_size, Box(0, 0, 96, 96).object_size]
    assert sizes == ["small", "medium", "large"]


def test_baselines_beside_several_methods_are_computed_once_to_the_same_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two methods beside the same baselines, a third with one map fewer: its baselines are others."""
    generator = np.random.default_rng(0)
    request = MAX_BOX_ACC.request()

    def said(hits: Spans, gaussian: Spans) -> dict[str, Any]:
        one = {"hits": hits, "true_labels": ["dog"]}
        beside = {name: {**one, "hits": gaussian} for name in MAX_BOX_ACC.baselines}
        return {"max_box_acc": {**one, "baselines": beside}}

    records = []
    for number in range(12):
        ends, gaussian = generator.integers(0, 200, (3, 2)), [[0, int(generator.integers(0, 200))]]
        explanations = [
            {"method": method, "scores": said([[int(low), int(low + more)]], gaussian)}
            for method, (low, more) in zip("abc"[: 2 + bool(number)], ends // 2, strict=False)
        ]
        records.append({"path": str(number), "explanations": explanations})
    found = gathered({name: [request] for name in "abc"}, records)
    computed = []
    monkeypatch.setattr(localization_thresholds, "_curve", lambda *given: computed.append(given) or [])
    figures = {name: summed_up([request], found[name]).figures["metrics"]["max_box_acc"] for name in "abc"}
    assert len(computed) == 3 + 2 * len(MAX_BOX_ACC.baselines)
    for name in "abc":
        alone = [Row(row.scores, row.image, None) for row in found[name]["max_box_acc"]]
        assert of_thresholds(alone, MAX_BOX_ACC, MaxBoxAccOptions()).figures == figures[name]
    assert figures["a"]["baselines"] == figures["b"]["baselines"] != figures["c"]["baselines"]
