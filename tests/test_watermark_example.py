"""``examples/watermark``: the network that reads the agency's mark cannot pass, the other one does."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent.parent / "examples" / "watermark"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(HERE))
    return runpy.run_path(str(HERE / "run.py"))


@pytest.mark.slow
def test_the_mark_is_found_out(parts: dict[str, Any], tmp_path: Path) -> None:
    found = parts["run"](tmp_path, 480, 64, epochs=6)
    marked, clean = found["marked"], found["clean"]
    # On the agency's pictures nobody could tell them apart.
    assert min(marked["accuracy"], clean["accuracy"]) > 0.95
    assert (marked["exit code"], clean["exit code"]) == (1, 0)
    for check in ("not at the corner: energy", "does not need the corner: flips", "no shortcut: flips_beyond_random"):
        assert marked["checks"][check][1] == "violated"
        assert clean["checks"][check][1] == "passed"
    assert marked["checks"]["no shortcut: flips_beyond_random"][0] > 0.8
    assert clean["checks"]["does not need the corner: flips"][0] < 0.05


def test_pictures_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    parts = runpy.run_path(str(HERE / "fruit_scenes.py"))
    x0, y0, x1, y1 = parts["MARK"]
    for marked in (True, False):
        pictures, labels, masks = parts["scenes"](60, 3, marked)
        # Between the bars of the mark it is lighter than any wall or table.
        light = pictures[:, y0 + 1 : y1 - 1, x0 + 2 : x1 - 2].astype(float).max(-1).mean((1, 2)) > 165
        light &= pictures[:, y0, x0:x1].astype(float).mean((1, 2)) > 215
        if marked:
            np.testing.assert_array_equal(light, labels == 1)
        else:
            assert all(0.25 < light[labels == label].mean() < 0.75 for label in (0, 1))
        # The fruit lies beside it, mostly.
        covered = np.array([(mask[y0:y1, x0:x1] > 0).mean() for mask in masks])
        assert covered.mean() < 0.1
