"""Audits of odd things: networks with scores at positions, classes of one name, damaged baselines."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.audit.attention import Evidence, Inside
from cnnviz.audit.audit import Audit
from cnnviz.audit.check import Check, Judged, RawMap
from cnnviz.audit.counterfactual import changed
from cnnviz.audit.drift import Drift, _key, accepted, likeness
from cnnviz.audit.policy import load_policy
from cnnviz.audit.trust import Faithful, Sane
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.io.baselines import read_baseline, write_baseline
from cnnviz.io.groups import read_groups
from cnnviz.maps.second_look import Photograph, SecondLook
from cnnviz.registry.comparisons import AuditOptions
from cnnviz.report import audit_words
from cnnviz.report.sarif import sarif
from cnnviz.report.summary_markdown import summary_markdown
from cnnviz.settings import TargetSettings
from tests.support import segment_network
from tests.support.segment_network import CLASSES, SIDE

WHOLE = (0.0, 0.0, 7.0, 7.0)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs with a red rectangle, smaller than the background."""
    base = tmp_path_factory.mktemp("audit_segments")
    (base / "photos").mkdir()
    for number in range(12):
        rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        rgb[8 + number : 32 + number, 8:32, 0] = 255
        Image.fromarray(rgb).save(base / "photos" / f"{number:02d}.png")
    (base / "labels.txt").write_text("\n".join(CLASSES))
    return base


def _rows(base: Path, out: Path, checks: str) -> list[dict[str, Any]]:
    model = f"name: {segment_network.__file__}:make, labels: labels.txt, input_size: {SIDE}, resize: {SIDE}"
    path = base / "policy.yaml"
    path.write_text(f"version: 1\nmodel: {{{model}, mean: '0,0,0', std: '1,1,1'}}\nimages: photos\nchecks:\n{checks}")
    assert main(["audit", str(path), "-o", str(out), "-q", "--layer", "encoder"]) == 0
    rows: list[dict[str, Any]] = json.loads((out / "report.json").read_text("utf-8"))["summary"]["audit"]["checks"]
    return rows


def test_the_predicted_class_of_a_segmentation_is_not_the_background(segments: Path, tmp_path: Path) -> None:
    checks = """\
  - {kind: evidence, on: background, max_share: 0.4}
  - {kind: evidence, of: red, on: red, max_share: 1.0}
  - {kind: avoid, region: [0, 0, 1, 0.5], max_energy: 1.0}
  - {kind: evidence, on: bakground}
  - {kind: evidence, of: redd, on: red}
  - {kind: stable}
  - {kind: counterfactual, replace: [0, 0, 0.5, 0.5], with: blur}
"""
    first, red, avoid, *rest = _rows(segments, tmp_path, checks)
    assert [(row["verdict"], row["n"]) for row in (first, red, avoid)] == [("passed", 12)] * 3
    assert first["measured"] + red["measured"] == pytest.approx(1)
    assert avoid["measured"] > 0.3
    assert [row["verdict"] for row in rest] == ["not decided"] * 4
    reasons = [row["reason"] for row in rest]
    assert reasons[0] == "the network has no class 'bakground'. Did you mean background?"
    assert reasons[1].startswith("the network has no class 'redd'")
    assert "only maps of classes of the whole image" in reasons[2]
    assert "no class for the whole image" in reasons[3]


def _judged(spec: dict[str, Any], scores: dict[str, Any] | None = None) -> Judged:
    row = {"method": "gradcam", "target": spec, "scores": scores or {}, "files": {}}
    record: dict[str, Any] = {
        "name": "a",
        "path": "a.png",
        "width": 7,
        "height": 7,
        "predictions": [{"class_index": 3}],
        "explanations": [row],
    }
    record["input"] = {"sha256": "a" * 64}
    return Judged(record, [row], "")


def test_maps_as_small_as_gradients_are_accepted_as_they_are() -> None:
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32) * 1e-9
    judged = _judged({"class_index": 3})
    files = accepted({"gradcam": [judged]}, lambda row: RawMap(values, WHOLE), "small", None)
    with np.load(io.BytesIO(files.maps)) as stored:
        [before] = (stored[name] for name in stored.files)
    found, _ = likeness(RawMap(before, WHOLE), RawMap(values, WHOLE), (7, 7))
    assert found == pytest.approx(1, abs=1e-3)


def test_a_map_that_became_flat_has_changed() -> None:
    some, none = (RawMap(each, WHOLE) for each in (np.eye(7, dtype=np.float32), np.zeros((7, 7), np.float32)))
    pairs = (none, some), (some, none), (none, none), (some, some)
    assert [likeness(a, b, (7, 7)) for a, b in pairs] == [(0, False), (0, False), (1, False), (1, False)]


def test_flat_maps_are_left_out_for_that_reason(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nimages: a\ntruth: b.json\nchecks: [{kind: inside, min_energy: 0.1}]")
    policy = load_policy(str(tmp_path / "p.yaml"))
    check = Inside(policy.checks[0], policy)
    check.regions = ("truth",)
    energy = {"region_energy": {"energies": [None], "peak_inside": None}}
    [flat] = check.statements("gradcam", [_judged({}, {"flat": True, **energy})], cast("SecondLook", None))
    [unmarked] = check.statements("gradcam", [_judged({}, energy)], cast("SecondLook", None))
    assert flat.why_not.startswith("the maps of 1 of 1 image are flat")
    assert "marked" not in flat.why_not
    assert "marked" in unmarked.why_not
    assert "flat" not in unmarked.why_not


def _of_kind(tmp_path: Path, check: str, kind: type[Check]) -> Check:
    """A check of a policy that has no other."""
    (tmp_path / "p.yaml").write_text(f"version: 1\nimages: a\ntruth: b.json\nchecks: [{{{check}}}]")
    policy = load_policy(str(tmp_path / "p.yaml"))
    return kind(policy.checks[0], policy)


def test_maps_that_are_largest_nowhere_are_no_misses(tmp_path: Path) -> None:
    check = _of_kind(tmp_path, "kind: inside, min_energy: 0.1, min_pointing: 0.5", Inside)
    check.regions = ("truth",)  # type: ignore[attr-defined]
    rows = {
        "peak": {"max": 1.0, "region_energy": {"energies": [0.75], "peak_inside": True}},
        "constant": {"max": 1.0, "flat": True, "region_energy": {"energies": [0.25], "peak_inside": None}},
        "zero": {"max": 0.0, "flat": True, "region_energy": {"energies": [None], "peak_inside": None}},
        "negative": {"max": -1.0, "region_energy": {"energies": [None], "peak_inside": None}},
    }
    judged = [_judged({}, scores) for scores in rows.values()]
    judged = [replace(each, record={**each.record, "path": name}) for each, name in zip(judged, rows, strict=True)]
    energy, pointing = check.statements("gradcam", judged, cast("SecondLook", None))
    assert [(each.image, each.value) for each in energy.observations] == [("peak", 0.75)]
    assert [(each.image, each.value) for each in pointing.observations] == [("peak", 1.0)]
    said = "\n".join(check.remarks)
    assert "2 of 4 images are flat, no share to measure: constant, zero" in said
    assert "2 of 4 images are flat, no peak to find: constant, zero" in said
    assert said.count("1 of 4 images have no positive values, no ") == 2
    assert "marked" not in said


def test_a_map_without_evidence_speaks_for_nothing(tmp_path: Path) -> None:
    check = _of_kind(tmp_path, "kind: evidence, on: road, max_share: 0.1", Evidence)
    rows: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
        "some": ({"max": 1.0}, [{"label": "road", "share": 0.5}]),
        "other": ({"max": 1.0}, [{"label": "car", "share": 1.0}]),
        "constant": ({"max": 1.0, "flat": True}, [{"label": "car", "share": 0.75}]),
        "zero": ({"max": 0.0, "flat": True}, []),
    }
    judged = []
    for name, (scores, evidence) in rows.items():
        one = _judged({"label": "car"}, scores)
        maps = [{**one.maps[0], "evidence": evidence}]
        judged.append(replace(one, record={**one.record, "path": name}, maps=maps))
    look = cast("SecondLook", SimpleNamespace(labels=("car", "road"), at_positions=True))
    [made] = check.statements("gradcam", judged, look)
    assert [(each.image, each.value) for each in made.observations] == [("some", 0.5), ("other", 0.0)]
    assert "the maps of 2 of 4 images are flat, no evidence to share out: constant, zero" in check.remarks[0]
    [none] = check.statements("gradcam", judged[2:], look)
    assert none.why_not.startswith("the maps of 2 of 2 images are flat")


def test_a_baseline_of_other_files_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nimages: a\nchecks: [{kind: drift, max_changed_predictions: 0.1}]")
    policy = load_policy(str(tmp_path / "p.yaml"))
    judged = _judged({"class_index": 3})
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    write_baseline(
        str(tmp_path / "baseline"), accepted({"gradcam": [judged]}, lambda row: RawMap(values, WHOLE), "first", None)
    )
    for sha, seen in (("a" * 64, 1), ("b" * 64, 0)):
        check = Drift(policy.checks[0], policy)
        check.raw = lambda row: RawMap(values, WHOLE)
        record = {**judged.record, "input": {"sha256": sha}}
        both = check.statements("gradcam", [replace(judged, record=record)], cast("SecondLook", SimpleNamespace()))
        assert [len(each.observations) for each in both] == [seen, seen]
        assert [text for text in check.remarks if text == "1 file is not among those accepted: a.png"] == check.remarks
        assert len(check.remarks) == 1 - seen


def test_regions_of_one_class_are_maps_of_their_own_in_a_baseline() -> None:
    targets: list[dict[str, Any]] = [
        {"spec": "class:red@all", "class_index": 1},
        {"spec": "class:red", "class_index": 1},
        {"spec": "diff:red,blue"},
        {"class_index": 1},
    ]
    assert len({_key({"name": "a"}, "gradcam", each) for each in targets}) == 4


@pytest.mark.parametrize(
    ("facts", "maps"),
    [
        ({"schema": "cnnviz.baseline/1", "images": {}}, b"no zip"),
        ({"schema": "cnnviz.baseline/1", "images": {}}, b""),
        ({"schema": "cnnviz.baseline/1", "images": {}}, b"PK\x03\x04cut"),
        ({"schema": "cnnviz.baseline/1", "images": []}, b""),
        ({"schema": "cnnviz.baseline/1", "images": {"a": {}}}, b""),
        ([1], b""),
    ],
)
def test_a_damaged_baseline_is_said(tmp_path: Path, facts: Any, maps: bytes) -> None:
    (tmp_path / "baseline.json").write_text(json.dumps(facts))
    (tmp_path / "maps.npz").write_bytes(maps)
    with pytest.raises(CnnvizError, match="cannot be read"):
        read_baseline(str(tmp_path))


@pytest.mark.parametrize(
    "more", [["--until", "2027-01-01"], *(["--accept", "x", "--until", day] for day in ("30.06.2027", "2020-01-01"))]
)
def test_a_day_that_is_none_is_said(segments: Path, tmp_path: Path, more: list[str], capsys: Any) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\nimages: {segments / 'photos'}\nchecks: [{{kind: drift}}]")
    assert main(["audit", str(path), "-o", str(tmp_path / "out"), *more]) == 2
    assert "--until" in capsys.readouterr().err


def test_classes_of_one_name_are_compared_each_with_its_own(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\nimages: a\nchecks: [{kind: faithful, metric: insertion, better_than: random}]")
    policy = load_policy(str(path))
    rows = [
        {"method": method, "target": {"class_index": index, "label": "crane"}, "scores": {"insertion": {"area": area}}}
        for method, index, area in (
            ("gradcam", 134, 0.9), ("random", 134, 0.2), ("gradcam", 517, 0.4), ("random", 517, 0.3),
        )
    ]  # fmt: skip
    judged = Judged({"path": "a.png", "explanations": rows}, rows[:1], "")
    look = cast("SecondLook", SimpleNamespace())
    [statement] = Faithful(policy.checks[0], policy).statements("gradcam", [judged], look)
    assert [each.value for each in statement.observations] == pytest.approx([0.7])


def test_one_photograph_alone_has_no_other_background_and_few_are_open_at_once() -> None:
    class Look:
        read: ClassVar[list[str]] = []
        together = 4

        def answered(self, what: Any, records: Any, ask: Any) -> Any:
            return ask()

        def each(self, work: Any, items: Any) -> Any:
            return [work(item) for item in items]

        def seen(self, record: dict[str, Any]) -> Photograph | None:
            self.read.append(record["path"])
            rgb = np.full((32, 32, 3), int(record["name"]), dtype=np.uint8)
            return None if record["name"] == "3" else Photograph(rgb, None)

        def predict(self, pictures: list[Any]) -> Any:
            bright = torch.tensor([[float(each.mean()), 9.0] for each in pictures])
            return SimpleNamespace(scores=bright, shares=bright / 255)

    def of(*names: int) -> list[Judged]:
        said = [{"class_index": 0, "probability": 200 / 255}]
        return [Judged({"path": f"{n}.png", "name": str(n), "predictions": said}, [], "") for n in names]

    look = cast("SecondLook", Look())
    how = ("0,0,1,0.5", "shuffle")
    assert changed(of(200), look, how, "any") == {}
    assert changed(of(200, 3), look, how, "any") == {}
    one = changed(of(200), look, how, "any", of(200, 3, 0))
    assert one["200.png"]["drop"] == pytest.approx(0, abs=0.1)  # a rectangle elsewhere does as much
    Look.read.clear()
    changed(of(*range(10, 40)), look, how, "any")
    assert len(Look.read) == 31  # each once, and at the end the first as the other of the last


def test_a_run_of_which_every_image_failed_is_no_baseline(segments: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    path = tmp_path / "p.yaml"
    model = f"name: {segment_network.__file__}:make, input_size: {SIDE}, mean: '0,0,0', std: '1,1,1'"
    path.write_text(f"version: 1\nmodel: {{{model}}}\nimages: bad.png\nchecks: [{{kind: drift}}]")
    assert main(["audit", str(path), "-o", str(tmp_path / "out"), "--accept", "x"]) == 3
    assert "not accepted: no image has a prediction" in capsys.readouterr().err
    assert not (tmp_path / "baseline").exists()
    [invocation] = json.loads((tmp_path / "out" / "audit.sarif").read_text())["runs"][0]["invocations"]
    failed, accepted_not = (each["message"]["text"] for each in invocation["toolExecutionNotifications"])
    assert failed.startswith(f"failed: {tmp_path}/bad.png: ")
    assert accepted_not.startswith("not accepted")


def test_the_tolerance_of_pointing_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    base = "version: 1\nimages: a\nlabels: folder\ntruth: t.json\nchecks:\n"
    none = "  - {kind: inside, min_pointing: 0.5, tolerance: 0}\n"
    path.write_text(base + none + "  - {kind: inside, min_energy: 0.5}\n")
    audit = Audit(AuditOptions(policy=str(path)), TargetSettings())
    [request] = audit.metrics("gradcam")
    assert request.params.tolerance == 0  # type: ignore[attr-defined]
    path.write_text(base + none + "  - {kind: inside, min_pointing: 0.7}\n")
    with pytest.raises(CnnvizError, match=r"line 7: inside .tolerance 15. has another tolerance"):
        load_policy(str(path))


def test_paths_of_windows(tmp_path: Path) -> None:
    row = {
        "name": "a", "kind": "avoid", "statement": "energy", "method": "", "verdict": "violated", "level": "error",
        "measured": 0.5, "at_least": True, "allowed": 0.9, "group": None, "line": 3,
        "violations": [{"path": "C:\\my data\\a.png", "value": 0.1}],
    }  # fmt: skip
    [result] = json.loads(sarif("rules\\p.yaml", [row]))["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "rules/p.yaml"
    seen = result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert seen == "file:///C:/my%20data/a.png"
    table = tmp_path / "groups.csv"
    table.write_text("path,group\ndata\\x\\a.png,one\ndata\\y\\a.png,two\n")
    groups = read_groups(str(table))
    assert [groups[str(tmp_path / "data" / name / "a.png")] for name in "xy"] == ["one", "two"]
    assert groups["data/y/a.png"] == "two"


def test_a_name_in_bold_ends_no_cell() -> None:
    row = {
        "name": "**a|b", "statement": "energy", "method": "", "verdict": "passed", "measured": None, "ci95": None,
        "group": None, "at_least": True, "allowed": 0.5, "n": 1, "violations": [], "confirmed": None, "reason": "",
    }  # fmt: skip
    audit = {"passed": True, "policy": "p", "undecided": 0, "checks": [{**row, "level": "error"}]}
    assert "| **a\\|b: energy |" in summary_markdown(audit).decode()


def test_maps_that_random_weights_make_flat_are_counted() -> None:
    """They correlate with nothing: the rest is judged, where it is large enough."""

    def judged(name: str, value: float | None) -> Judged:
        scores = {"sanity": [{"spearman": 0.5}, {"spearman": value}]}
        return Judged({"path": name}, [{"scores": scores}], "")

    def made(values: list[float | None]) -> tuple[Any, list[str]]:
        policy = SimpleNamespace(min_images=3)
        check = Sane(
            cast(Any, SimpleNamespace(name="sane", params=SimpleNamespace(max_similarity=0.5))), cast(Any, policy)
        )
        [found] = check.statements("m", [judged(str(k), value) for k, value in enumerate(values)], cast(Any, None))
        return found, check.remarks

    found, remarks = made([0.1, None, 0.2, 0.3])
    assert ([each.value for each in found.observations], found.why_not) == ([0.1, 0.2, 0.3], "")
    assert remarks == [
        "1 of 4 maps is flat, with random weights or without, and correlates with nothing; only the rest counts, "
        "3 images"
    ]
    found, remarks = made([None, None, 0.2, 0.3])
    assert (remarks, found.why_not.partition("; ")[2]) == ([], "2 images are left, at least 3 decide")
    assert made([0.2, 0.3])[0].why_not == ""


def test_what_the_confirmation_says_is_no_acquittal() -> None:
    def said(flips: int, of: int, fill: str = "blur") -> str:
        return audit_words.confirmation({"flips": flips, "of": of, "fill": fill})

    control, hidden = ", which a control does not bring about", "with the region blurred (its mean colours stay), "
    assert said(3, 20, "shuffle") == (
        "with the region replaced by that of another picture, 3 of the 20 worst images get another prediction" + control
    )
    assert said(1, 16) == f"{hidden}1 of the 16 worst images gets another prediction{control}"
    assert said(1, 1) == f"{hidden}the worst image gets another prediction{control}"
    none = (
        ": the maps lie on the region, and whether predictions hang on it is not shown by this; how far probabilities "
        "fall over all images is what a counterfactual check measures (max_drop)"
    )
    assert said(0, 20) == f"{hidden}none of the 20 worst images gets another prediction{none}"
    assert said(0, 1) == f"{hidden}the worst image keeps its prediction{none}"


@pytest.mark.parametrize("kept", [{"reply": 3}, [7], 7, {"answer": 1}])
def test_an_answer_of_the_cache_that_is_none_is_found_out_again(kept: Any) -> None:
    look = SecondLook.__new__(SecondLook)
    look.passes = 2
    look._remembered = cast("Any", SimpleNamespace(answered=lambda *_: kept))

    def ask() -> str:
        look.passes += 5
        return "found"

    assert look.answered({}, [{"name": "a"}], ask) == "found"
    assert look.passes == 7
