"""``examples/boats``: a segmentation that knows boats by the water under them cannot pass, the other one does."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent.parent / "examples" / "boats"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(HERE))
    return runpy.run_path(str(HERE / "run.py"))


@pytest.mark.slow
def test_the_water_is_found_out(parts: dict[str, Any], tmp_path: Path) -> None:
    found = parts["run"](tmp_path, 160, 40)
    biased, balanced = found["biased"], found["balanced"]
    # On these shores nobody could tell them apart, on others everybody.
    assert min(biased["iou of boats, as audited"], balanced["iou of boats, as audited"]) > 0.8
    assert balanced["iou of boats, anywhere"] > biased["iou of boats, anywhere"] + 0.3
    assert (biased["exit code"], biased["verdict"]) == (1, "violated")
    assert (balanced["exit code"], balanced["verdict"]) == (0, "passed")
    assert biased["evidence on water"] > balanced["evidence on water"] + 0.15


def test_shores_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    parts = runpy.run_path(str(HERE / "shore_scenes.py"))
    for biased in (True, False):
        _, classes, names = parts["scenes"](40, 3, biased)
        wet = []
        for of_image, name in zip(classes, names, strict=True):
            thing = of_image == parts["CLASSES"].index(name)
            assert 40 < thing.sum() < 250
            around = np.zeros_like(thing)
            rows, cols = np.flatnonzero(thing.any(1)), np.flatnonzero(thing.any(0))
            around[rows[0] : rows[-1] + 2, max(0, cols[0] - 1) : cols[-1] + 2] = True
            wet.append((of_image[around & ~thing] == parts["WATER"]).mean() > 0.5)
        boats = np.array(names) == "boat"
        agree = float((np.array(wet) == boats).mean())
        assert agree > 0.9 if biased else 0.2 < agree < 0.8
