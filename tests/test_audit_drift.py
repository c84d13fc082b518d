"""What the drift check of an audit says of images and maps that are not those of its baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from cnnviz.audit.check import Judged
from cnnviz.audit.drift import Drift, accepted
from cnnviz.audit.policy import load_policy
from cnnviz.audit.verdict import Statement
from cnnviz.io.baselines import write_baseline
from cnnviz.maps.second_look import SecondLook


def test_drift_tells_what_it_does_not_compare_as_it_was_accepted(tmp_path: Path) -> None:
    """New images, other targets, another grid, another part of the picture: nothing was said of them."""
    (tmp_path / "p.yaml").write_text("version: 1\nimages: a\nchecks: [{kind: drift}]")
    policy = load_policy(str(tmp_path / "p.yaml"))
    row: dict[str, Any] = {"method": "gradcam", "target": {"class_index": 3}, "scores": {}, "files": {}}
    record: dict[str, Any] = {"name": "a", "path": "a.png", "predictions": [{"class_index": 3}], "explanations": [row]}
    judged = Judged({**record, "input": {"sha256": "a" * 64}, "seen_xywh": [97, 22, 306, 305]}, [row], "")
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    write_baseline(str(tmp_path / "baseline"), accepted({"gradcam": [judged]}, lambda row: values, "first", None))

    def asked(*rows: Judged, raw: np.ndarray = values) -> tuple[Statement, list[str]]:
        check = Drift(policy.checks[0], policy)
        check.raw = lambda row: raw
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
    assert text == "gradcam: 1 of 1 map has another grid than those accepted, compared on 32 x 32 cells"
    made, [text] = asked(replace(judged, record={**judged.record, "seen_xywh": [0, 0, 500, 349]}))
    assert (len(made.observations), text) == (
        1,
        f"of 1 of 1 image the network sees another part than when the baseline was accepted (of {judged.path} x,y,w,h "
        "0,0,500,349, accepted 97,22,306,305): maps are compared as if the parts were the same",
    )
    rounded = replace(judged, record={**judged.record, "seen_xywh": [97, 22, 306, 306]})
    assert asked(rounded)[1] == []
    made, [text] = asked(replace(judged, maps=[{**judged.maps[0], "target": {"class_index": 4}}]))
    assert len(made.observations) == 0
    assert text.startswith("gradcam: 1 of 1 map is not compared, since the baseline explains other targets there: ")
