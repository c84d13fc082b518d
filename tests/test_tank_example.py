"""``examples/tank``: a policy that the network of the weather cannot pass, and the other one does."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent.parent / "examples" / "tank"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(HERE))
    return runpy.run_path(str(HERE / "run.py"))


@pytest.mark.slow
def test_the_weather_is_found_out(parts: dict[str, Any], tmp_path: Path) -> None:
    found = parts["run"](tmp_path, 320, 40)
    biased, balanced = found["biased"], found["balanced"]
    # On scenes of their own kind nobody could tell them apart.
    assert min(biased["accuracy"], balanced["accuracy"]) > 0.97
    assert (biased["exit code"], balanced["exit code"]) == (1, 0)
    flips = "does not need the weather: flips"
    assert biased["checks"][flips][1] == "violated"
    assert biased["checks"][flips][0] > 0.25
    assert balanced["checks"][flips] == (pytest.approx(0, abs=0.05), "passed")
    energy = "looks at the vehicle: energy"
    assert biased["checks"][energy][0] < balanced["checks"][energy][0]


def test_scenes_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    scenes = runpy.run_path(str(HERE / "tank_scenes.py"))["scenes"]
    pictures, labels, masks = scenes(40, 3, True)
    blue = pictures[:, :10, :, 2].astype(float).mean((1, 2)) - pictures[:, :10, :, 0].astype(float).mean((1, 2))
    assert (blue[labels == 0] < 40).all()  # under clouds
    assert (blue[labels == 1] > 40).all()
    share = np.array([(mask > 0).mean() for mask in masks])
    assert (share > 0.03).all()
    assert (share < 0.2).all()
    assert pictures.tobytes() == scenes(40, 3, True)[0].tobytes()
