"""docs/report.md names every key that a run writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnviz.cli.app import main
from tests.support.runs import tiny_options

PAGE = (Path(__file__).parent.parent / "docs" / "report.md").read_text(encoding="utf-8")
# Their keys are options, classes of failures, kinds of files, checks and Python packages: values, not keys.
OPEN = {"options", "option_files_sha256", "failures", "not_run", "environment", "files"}


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in OPEN:
                yield from keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


def test_every_key_is_explained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        folder = tmp_path / "in" / str(number)
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / "a.png")
    (tmp_path / "in" / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("01234"))
    words = [*tiny_options(), "--labels", str(labels), "-o", str(tmp_path / "o")]
    assert main(["gradcam", str(tmp_path / "in"), "-c", "folder", *words]) == 3
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["summary"]["labelled"] == 2
    explained = set(re.findall(r"`(?:scores\.)?(\w+)`", PAGE))
    assert set(keys(report)) - explained == set()


def test_what_it_explains_is_written() -> None:
    """The other direction, for the figures of a map: no row outlives its key."""
    rows = set(re.findall(r"`scores\.(\w+)`", PAGE))
    figures = {"min", "max", "mean", "peak", "box_xywh", "energy_in_box", "entropy", "area_above_half", "flat"}
    assert rows == figures
