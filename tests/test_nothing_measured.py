"""Runs that measured nothing say so, and why, on the console, in report.json and on their page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnviz.maps.unmeasured import why_nothing
from cnnviz.settings import TargetSettings
from tests.support.pictures import photographs_in
from tests.support.runs import ran


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("activations", {}),
        ("adversarial", {}),
        ("classmap", {}),
        ("concepts", {"of": "0"}),
        ("dream", {}),
        ("embed", {}),
        ("factors", {}),
        ("invert", {}),
        ("top-patches", {}),
    ],
)
def test_where_no_image_could_be_read_the_report_says_that_nothing_was_measured(
    name: str, params: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    report, result, _ = ran(name, [tmp_path / "no.png"], tmp_path / "out", params=params)
    assert result.exit_code == 3
    assert result.sentences == ("nothing was measured: no image could be used",)
    assert report["summary"]["unmeasured"] == "no image could be used"
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "<dt>nothing was measured</dt><dd>no image could be used</dd>" in page


def test_nor_was_anything_compared_where_no_image_could_be_read(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    params = {"method": ("gradcam",)}
    report, result, _ = ran("evaluate", [tmp_path / "no.png"], tmp_path / "out", params=params, metrics=("deletion",))
    assert (result.exit_code, result.sentences) == (3, ("nothing was measured: no image was explained",))
    assert report["summary"]["unmeasured"] == "no image was explained"


def test_images_that_only_leaves_out_are_the_reason() -> None:
    asked = TargetSettings(only="wrong")
    left_out, failed = {"error": None, "skipped": True}, {"error": {"type": "unreadable"}}
    assert why_nothing([left_out], asked) == "--only wrong left out the one image: without --only it is measured"
    assert why_nothing([left_out] * 3, asked) == "--only wrong left out all 3 images: without --only they are measured"
    assert why_nothing([left_out, failed], asked) == "no image was explained"


def test_a_run_that_measured_something_does_not_say_so(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "in", 2)
    (photos / "no.png").write_bytes(b"no picture")
    report, result, _ = ran("activations", [photos], tmp_path / "out")
    assert (result.exit_code, report["summary"]["explained"]) == (3, 2)
    assert "unmeasured" not in report["summary"]
    assert "over 2 images" in result.sentences[0]
