"""The seam of the metrics: the register, what a metric may return, truth that is missing, sums over a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.metrics.baseline_maps import BASELINES, baseline
from cnnviz.metrics.chosen import MapMetrics, gathered, requested, summed_up
from cnnviz.metrics.conservation import summarize as left_out
from cnnviz.metrics.contract import ExplainedImage, Row
from cnnviz.metrics.intervals import bootstrap_mean, wilson
from cnnviz.metrics.summaries import by_kind
from cnnviz.records import ClassScore
from cnnviz.registry import lookup
from cnnviz.registry.metrics import (
    CONSERVATION,
    MAP_STATISTICS,
    METRICS,
    RANDOMIZATION,
    ConservationOptions,
    Figure,
    MetricSpec,
)
from cnnviz.registry.params import Options, Param
from cnnviz.schema.maps import MapStatistics, SanityStep
from cnnviz.settings import TargetSettings

IMAGE = ExplainedImage(
    "a.png", "a.png", np.zeros((6, 8, 3), np.uint8), (0, 0, 8, 6), ClassScore(0, "cat", 0.5, 1.0), (), None, "gradcam"
)
PLACED = PlacedMap(np.arange(48, dtype=np.float32).reshape(6, 8), (1, 0, 7, 6), False)


def inside(placed: PlacedMap, image: ExplainedImage, truth: Truth | None, params: Any) -> dict[str, Any]:
    """Share of the map's values in the boxes."""
    assert truth is not None
    [box] = truth.boxes()
    return {"share": placed.values[box.pixels(truth.size)].sum() / placed.values.sum(), "hit": np.True_}


def spec(**more: Any) -> MetricSpec:
    given: dict[str, Any] = {
        "name": "inside",
        "entry": f"{__name__}:inside",
        "title": "Inside",
        "summary": "Share inside.",
        "paper": "none",
        "measures": "map and truth",
        "truth": "boxes",
        "figures": (Figure("share", "of the values", "mean"), Figure("hit", "whether", "rate")),
    }
    return MetricSpec(**{**given, **more})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Entry points of the group of metrics, to be filled."""
    points: list[Any] = []
    monkeypatch.setattr(lookup, "entry_points", lambda group: points if group == "cnnviz.metrics" else [])
    lookup.all_metrics.cache_clear()
    yield points
    lookup.all_metrics.cache_clear()


def point(monkeypatch: pytest.MonkeyPatch, value: Any) -> EntryPoint:
    monkeypatch.setattr(f"{__name__}.SPEC", value, raising=False)
    return EntryPoint("mine", f"{__name__}:SPEC", "cnnviz.metrics")


@pytest.mark.parametrize("entry", METRICS, ids=lambda entry: entry.name)
def test_every_entry_can_be_loaded_and_is_explained(entry: MetricSpec) -> None:
    if entry.measures != "figures":
        assert callable(entry.load())
    assert entry.load_summarizer() is None or callable(entry.load_summarizer())
    assert entry.summary.endswith(".")
    assert entry.paper
    assert entry.figures
    assert len({figure.name for figure in entry.figures}) == len(entry.figures)
    assert set(entry.baselines) <= set(BASELINES)


def test_the_figures_are_those_of_the_schema() -> None:
    """Of the metrics whose figures have no key of their own to stand under, or a type of their own."""
    for entry, kind in ((MAP_STATISTICS, MapStatistics), (RANDOMIZATION, SanityStep)):
        assert [figure.name for figure in entry.figures] == list(kind.__annotations__)


def test_the_list_is_that_of_the_register() -> None:
    listed = {row["name"]: row for row in cnnviz.list_metrics()}
    assert list(listed)[: len(METRICS)] == [entry.name for entry in METRICS]
    assert "box_xywh" in listed["map_statistics"]["figures"]
    assert listed["randomization"]["measures"] == "model"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        # As scripts write them, and as papers do.
        ("insertion,deletion,road,average_drop,increase,infidelity,sparseness,grid_pointing,randomization", ""),
        ("max_box_acc,max_box_acc_v2,pointing_game,energy_pointing_game,pxap,sensitivity-n,ROAD,PxAP", ""),
        ("sensitivity,max-sensitivity,sensitivity_max", "max_sensitivity"),
        ("GT-known,gt_known_accuracy,top1_error,top5-error,top1_classification_error", "box_localization"),
        ("MaxBoxAcc", "max_box_acc"),
        ("MaxBoxAccV2", "max_box_acc_v2"),
        ("grid-pointing-game", "grid_pointing"),
    ],
)
def test_a_metric_goes_by_each_name_that_it_has(words: str, name: str) -> None:
    for word in words.split(","):
        found = lookup.read_metric(word).spec
        assert found.name == (name or word.casefold().replace("-", "_"))
    assert lookup.read_metric("sensitivity:radius=0.5").params.radius == 0.5  # type: ignore[attr-defined]


def test_no_metric_is_called_as_another_is_also_called() -> None:
    names = [each for spec in METRICS for each in (spec.name, *spec.aliases)]
    assert len(set(names)) == len(names)
    listed = {row["name"]: row for row in cnnviz.list_metrics()}
    assert listed["max_sensitivity"]["aliases"] == ("sensitivity", "sensitivity_max")


def test_a_package_may_call_a_metric_as_another_is_also_called(
    registered: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered.append(point(monkeypatch, spec(name="sensitivity")))
    assert lookup.find_metric("sensitivity").title == "Inside"


def test_a_package_adds_a_metric(registered: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    registered.append(point(monkeypatch, spec()))
    assert lookup.find_metric("inside").title == "Inside"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a text", "it is no MetricSpec"),
        (spec(name="randomization"), "name 'randomization' is taken"),
        (spec(name="peak"), "map_statistics already writes scores of that name"),
        (spec(key="sanity"), "randomization already writes"),
    ],
)
def test_what_cannot_be_registered(
    registered: list[Any], monkeypatch: pytest.MonkeyPatch, value: Any, message: str
) -> None:
    registered.append(point(monkeypatch, value))
    with pytest.raises(CnnvizError, match=message):
        lookup.all_metrics()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map_statistic", "Unknown metric 'map_statistic'"),
        ("mine:colour=3", "has no option 'colour'"),
        ("mine:power", "is not option=value"),
        ("mine:power=1,power=2", "power is given twice"),
        ("mine:power=big", "power='big': expected a number"),
        ("mine:power=0", "out of range"),
        ("mine:steps=2.5", "steps='2.5': expected a whole number"),
        ("mine:norm=perhaps", "expected true or false"),
    ],
)
def test_requests_that_are_refused(
    registered: list[Any], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    params = (
        Param("power", "float", 1.0, "", minimum=0.5),
        Param("steps", "int", 4, ""),
        Param("norm", "bool", False, ""),
    )
    registered.append(point(monkeypatch, spec(name="mine", params=params)))
    with pytest.raises(CnnvizError, match=message):
        lookup.read_metric(text)
    read = lookup.read_metric("mine: power=2, norm=yes")
    assert read.params.to_dict() == {"power": 2.0, "steps": 4, "norm": True}


def test_which_metrics_a_run_has() -> None:
    def names(*metrics: str, sanity: bool = False, gap: str = "") -> list[str]:
        return [
            each.spec.name for each in requested(TargetSettings(metrics=metrics, sanity=sanity), {"conservation": gap})
        ]

    assert names() == ["map_statistics"]
    assert names("randomization", sanity=True) == names("randomization") == names(sanity=True)
    assert names(gap="ReLUs") == ["map_statistics", "conservation"]
    [_, conservation] = requested(TargetSettings(metrics=("conservation",)), {"conservation": "ReLUs"})
    assert conservation.params == ConservationOptions(reason="ReLUs")


def test_a_bad_metric_is_refused_before_a_network_is_loaded(
    sample_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gradcam", str(sample_images / "cat.jpg"), "-m", "no/such/file.py:make", "-o", str(tmp_path / "o")]
    assert main([*words, "--metric", "randomisation"]) == 2
    assert "Did you mean randomization?" in capsys.readouterr().err


def test_a_metric_that_needs_boxes_asks_for_truth(
    registered: list[Any], monkeypatch: pytest.MonkeyPatch, sample_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered.append(point(monkeypatch, spec()))
    assert main(["gradcam", str(sample_images / "cat.jpg"), "--metric", "inside"]) == 2
    assert "--metric inside needs to know where objects are: boxes." in capsys.readouterr().err


def test_a_map_is_scored_where_the_truth_is_known() -> None:
    metrics = MapMetrics([spec(baselines=("whole_image", "random")).request()])
    truth = Truth((8, 6), (TrueObject("cat", Box(2, 1, 3, 2)), TrueObject("cat", Box(0, 0, 8, 6), ignore=True)))
    scores = metrics.score(PLACED, IMAGE, truth)["inside"]
    assert scores["share"] == pytest.approx((10 + 11 + 12 + 18 + 19 + 20) / sum(range(48)))
    assert scores["hit"] is True
    assert scores["baselines"]["whole_image"]["share"] == pytest.approx(6 / 36)
    assert json.loads(json.dumps(scores)) == scores
    for unknown in (None, Truth((8, 6)), Truth((8, 6), labels=("cat",))):
        assert metrics.score(PLACED, IMAGE, unknown) == {"inside": None}


@pytest.mark.parametrize("result", [{"shares": 1.0}, 0.5, {"share": {"a": 1}}, {"share": object()}])
def test_what_a_metric_may_not_return(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    monkeypatch.setattr(f"{__name__}.inside", lambda *_: result)
    metrics = MapMetrics([spec(truth="nothing").request()])
    with pytest.raises(CnnvizError, match="Metric inside gave"):
        metrics.score(PLACED, IMAGE, None)


def test_baselines_lie_where_the_map_lies() -> None:
    for name in BASELINES:
        found = baseline(name, PLACED, "a.png")
        assert found.seen == PLACED.seen
        assert not found.values[:, [0, 7]].any()
        assert (found.values[:, 1:7] > 0).all() == (name != "centre_box")
    box = baseline("centre_box", PLACED, "a.png").values
    assert np.argwhere(box).min(axis=0).tolist() == [1, 2]
    assert box.sum() == 4 * 4
    bell = baseline("centre_gaussian", PLACED, "a.png").values
    for y, x in ((0, 1), (2, 3), (5, 6)):
        u, v = ((x - 1 + 0.5) / 6 - 0.5) * 4, ((y + 0.5) / 6 - 0.5) * 4
        assert bell[y, x] == pytest.approx(np.exp(-(u * u + v * v) / 2), rel=1e-6)
    one, again, other = (baseline("random", PLACED, name).values for name in ("a.png", "a.png", "b.png"))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_run_is_summed_up_by_images() -> None:
    values = [0.1, 0.3, 0.35, 0.9, None]
    hits = [0, 1, 1, 1, 0]
    images = ["a", "a", "b", "c", "d"]
    rows = [
        Row({"share": v, "hit": h, "baselines": {"random": {"share": 0.2, "hit": 0}}}, image, None)
        for v, h, image in zip(values, hits, images, strict=True)
    ]
    found = by_kind([*rows, Row(None, "e", None)], spec(baselines=("random",)), Options())
    assert found.figures["maps"] == 5
    assert found.figures["without_truth"] == 1
    known = [v for v in values if v is not None]
    interval = bootstrap_mean(known, images[:4])
    assert interval is not None
    share = {"value": round(float(np.mean(known)), 6), "ci95": [round(end, 6) for end in interval], "n": 4}
    assert found.figures["share"] == share
    assert found.figures["hit"]["value"] == 0.6
    assert found.figures["hit"]["ci95"] == pytest.approx(wilson(0.6 * 4, 4), abs=1e-6)
    assert found.figures["baselines"]["random"]["hit"]["value"] == 0
    assert len(found.notes) == 2
    assert "1 map of images without boxes" in found.notes[1]
    assert by_kind([], spec(), Options()).figures is None


def test_small_figures_keep_their_digits() -> None:
    """Infidelity is a squared difference of probabilities: to six decimals that of every method is 0."""
    values = [1.23456e-8, 2.5e-8, -7e-9]
    rows = [Row({"share": value, "hit": 0}, image, None) for value, image in zip(values, "abc", strict=True)]
    found = by_kind(rows, spec(), Options()).figures["share"]
    assert found["value"] == pytest.approx(np.mean(values), rel=1e-3)
    assert found["ci95"] == pytest.approx(bootstrap_mean(values, list("abc")), rel=1e-3)


def test_summaries_stand_under_their_keys() -> None:
    def record(path: str, **scores: Any) -> dict[str, Any]:
        return {"path": path, "label": None, "explanations": [{"scores": scores}]}

    records = [
        record("a", peak=[1, 2], gap_share=0.5, inside={"share": 0.25, "hit": True}),
        record("b", peak=[1, 2], gap_share=0.005, inside=None),
        {"path": "c", "error": {"type": "truncated"}, "explanations": []},
    ]
    requests = [
        MAP_STATISTICS.request(),
        spec().request(),
        CONSERVATION.request({"reason": "biases"}),
    ]
    said = summed_up(requests, gathered({"": requests}, records)[""])
    found, notes = said.figures, said.notes
    assert list(found) == ["metrics", "left_out"]
    assert found["metrics"]["inside"]["share"] == {"value": 0.25, "ci95": None, "n": 1}
    assert found["metrics"]["inside"]["without_truth"] == 1
    assert found["left_out"] == {"maps": 2, "above_tolerance": 1, "tolerance": 0.01, "largest": 0.5}
    assert notes[-1] == "1 of 2 maps leaves out more than 1 % of the score (the largest share: 50.0 %): biases"
    above = CONSERVATION.request({"reason": "steps"})
    just = summed_up([above], gathered({"": [above]}, [record("a", peak=[1, 2], gap_share=0.01014, inside=None)])[""])
    assert just.notes == ("1 of 1 map leaves out more than 1 % of the score (the largest share: 1.01 %): steps",)
    most = summed_up([above], gathered({"": [above]}, [record("a", peak=[1, 2], gap_share=0.9988, inside=None)])[""])
    assert most.notes == ("1 of 1 map leaves out more than 1 % of the score (the largest share: 99.9 %): steps",)
    nearly = summed_up([above], gathered({"": [above]}, [record("a", peak=[1, 2], gap_share=0.9998, inside=None)])[""])
    assert "(the largest share: > 99.9 %)" in nearly.notes[0]


def test_records_are_not_read_where_no_metric_has_a_summary() -> None:
    """A record of a thousand classes takes 5 ms to parse."""

    def read() -> Iterator[dict[str, Any]]:
        raise AssertionError("read")
        yield {}

    assert gathered({"": [MAP_STATISTICS.request()]}, read()) == {"": {}}
    with pytest.raises(AssertionError, match="read"):
        gathered({"": [MAP_STATISTICS.request(), spec().request()]}, read())


def test_maps_without_a_gap_are_not_in_its_summary() -> None:
    rows = [Row({"gap_share": None}, "a", None), Row({"peak": [1, 1]}, "b", None)]
    assert left_out(rows, CONSERVATION, ConservationOptions()).figures is None


def test_truth_knows_what_it_has() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[0, 0] = True
    cat, dog = TrueObject("cat", Box(1, 1, 2, 2)), TrueObject("dog", Box(3, 3, 2, 2), difficult=True)
    truth = Truth((8, 6), (cat, dog), {"sky": mask})
    assert truth.boxes() == (cat.box, dog.box)
    assert truth.boxes("dog", difficult=False) == ()
    assert truth.boxes("cat") == (cat.box,)
    assert truth.region("sky") is mask
    assert np.argwhere(truth.region("cat")).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert [truth.knows(what) for what in ("boxes", "masks", "label", "nothing")] == [True, True, False, True]


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics"]) == 0
    text = capsys.readouterr().out
    assert "randomization: How alike a map stays" in text
    assert "box_xywh  box around" in text
    assert main(["metrics", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)][:2] == ["map_statistics", "randomization"]
