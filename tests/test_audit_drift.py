"""What the drift check of an audit says of images and maps that are not those of its baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from cnnviz.audit.check import Judged, RawMap
from cnnviz.audit.drift import Drift, accepted
from cnnviz.audit.policy import load_policy
from cnnviz.audit.verdict import Statement
from cnnviz.geometry.placement import Rect
from cnnviz.io.baselines import write_baseline
from cnnviz.maps.second_look import SecondLook


def _judged() -> Judged:
    """A photograph of which a crop is seen."""
    row: dict[str, Any] = {"method": "gradcam", "target": {"class_index": 3}, "scores": {}, "files": {}}
    record: dict[str, Any] = {"name": "a", "path": "a.png", "width": 500, "height": 349, "explanations": [row]}
    record |= {"predictions": [{"class_index": 3}], "input": {"sha256": "a" * 64}, "seen_xywh": [97, 22, 306, 305]}
    return Judged(record, [row], "")


def test_drift_tells_what_it_does_not_compare_as_it_was_accepted(tmp_path: Path) -> None:
    """New images, other targets, another grid, another part of the picture: nothing was said of them."""
    (tmp_path / "p.yaml").write_text("version: 1\nimages: a\nchecks: [{kind: drift}]")
    policy = load_policy(str(tmp_path / "p.yaml"))
    judged = _judged()
    seen = (97.2, 22.1, 402.8, 327.4)
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    write_baseline(
        str(tmp_path / "baseline"), accepted({"gradcam": [judged]}, lambda row: RawMap(values, seen), "first", None)
    )

    def asked(*rows: Judged, raw: np.ndarray = values, rect: Rect = seen) -> tuple[Statement, list[str]]:
        check = Drift(policy.checks[0], policy)
        check.raw = lambda row: RawMap(raw, rect)
        [made] = check.statements("gradcam", rows, cast(SecondLook, SimpleNamespace()))
        return made, check.remarks

    assert asked(judged)[1] == []
    new = replace(judged, record={**judged.record, "name": "new.png", "path": "new.png"})
    made, remarks = asked(judged, new)
    assert (len(made.observations), made.why_not) == (1, "")
    assert remarks == ["1 of 2 images is not in the baseline, and not compared: new.png; --accept takes in all"]
    made, remarks = asked(new)
    assert (len(made.observations), remarks) == (0, [])
    name = judged.record["name"]
    assert made.why_not == (
        f"the baseline in {tmp_path}/baseline has none of these images: they are called new.png, it has {name}"
    )
    made, [text] = asked(judged, raw=np.pad(values, ((0, 0), (1, 1))))
    assert (
        text == "gradcam: 1 of 1 map has another grid than those accepted, compared on 64 cells along the longer side"
    )
    moved = replace(judged, record={**judged.record, "seen_xywh": [0, 0, 500, 349]})
    made, [text] = asked(moved, rect=(0.0, 0.0, 500.0, 349.0))
    assert (len(made.observations), text) == (
        1,
        f"of 1 of 1 image the network sees another part than when the baseline was accepted (of {judged.path} x,y,w,h "
        "0,0,500,349, accepted 97,22,306,305): maps are compared where both saw it",
    )
    rounded = replace(judged, record={**judged.record, "seen_xywh": [97, 22, 306, 306]})
    assert asked(rounded)[1] == []
    made, [text] = asked(replace(judged, maps=[{**judged.maps[0], "target": {"class_index": 4}}]))
    assert len(made.observations) == 0
    assert text.startswith("gradcam: 1 of 1 map is not compared, since the baseline explains other targets there: ")


def _seen_of(rect: Rect, rows: int, columns: int) -> np.ndarray:
    """Of a pattern in the photograph what the cells of a map that covers ``rect`` have at their centres."""
    x0, y0, x1, y1 = rect
    x = x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns
    y = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
    pattern: np.ndarray = np.sin(x[None] / 35) + np.cos(y[:, None] / 45)
    return pattern.astype(np.float32)


def test_maps_of_other_parts_of_a_picture_are_compared_where_both_lie(tmp_path: Path) -> None:
    """What is in the picture is the same, so maps of it are alike: by their cells alone they were not."""
    (tmp_path / "p.yaml").write_text("version: 1\nimages: a\nchecks: [{kind: drift}]")
    policy = load_policy(str(tmp_path / "p.yaml"))
    crop, whole, corner = (97.2, 22.1, 402.8, 327.4), (0.0, 0.0, 500.0, 349.0), (420.0, 20.0, 500.0, 100.0)
    judged = _judged()
    record = judged.record
    values = _seen_of(crop, 14, 14)
    assert np.corrcoef(values.ravel(), _seen_of(whole, 14, 14).ravel())[0, 1] < 0.6
    files = accepted({"gradcam": [judged]}, lambda row: RawMap(values, crop), "first", None)
    facts = json.loads(files.facts)
    assert facts["images"]["a"].pop("rect") == [97.2, 22.1, 402.8, 327.4]
    older = replace(files, facts=json.dumps(facts).encode())
    for kept in (files, older):
        write_baseline(str(tmp_path / "baseline"), kept)
        for rect, grid in ((whole, (14, 14)), (whole, (10, 14)), (crop, (7, 7))):
            check = Drift(policy.checks[0], policy)
            check.raw = lambda row, rect=rect, grid=grid: RawMap(_seen_of(rect, *grid), rect)
            seen = [0, 0, 500, 349] if rect == whole else record["seen_xywh"]
            now = replace(judged, record={**record, "seen_xywh": seen})
            [made] = check.statements("gradcam", [now], cast(SecondLook, SimpleNamespace()))
            assert [each.value > 0.98 for each in made.observations] == [True]
        check = Drift(policy.checks[0], policy)
        check.raw = lambda row: RawMap(_seen_of(corner, 14, 14), corner)
        now = replace(judged, record={**record, "seen_xywh": [420, 20, 80, 80]})
        [made] = check.statements("gradcam", [now], cast(SecondLook, SimpleNamespace()))
        assert made.observations == []
        assert check.remarks[1] == (
            "gradcam: 1 of 1 map is not compared, since the network sees nothing of what it saw when they were "
            "accepted: a.png; --accept takes in all"
        )
