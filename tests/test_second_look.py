"""Photographs that are looked at again when a run has ended: kept where there is room, else read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.maps import second_look
from cnnviz.maps.second_look import KeptPhotographs, SecondLook
from cnnviz.models.preprocess import Preprocess, resized
from tests.test_repeat import _run
from tests.test_repeat import work as work


def test_photographs_are_kept_as_the_network_is_shown_them(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Preprocess((3, 32, 32), 40, (0.5,) * 3, (0.5,) * 3, "bilinear")
    rng = np.random.default_rng(0)
    rgb, mask = rng.integers(0, 255, (75, 101, 3), dtype=np.uint8), rng.random((75, 101)) < 0.5
    truth = Truth((101, 75), (TrueObject("a", Box(1, 2, 3, 4)),), {"a": mask}, ("a",), ignored=~mask)
    kept = KeptPhotographs(spec)
    kept.add("one", rgb, truth)
    kept.add("two", rgb, None)
    found = kept.get("one")
    assert found is not None
    assert found.truth is not None
    assert np.array_equal(found.rgb, resized(rgb, spec))
    assert found.truth.masks["a"].dtype == np.bool_
    assert np.array_equal(found.truth.masks["a"], mask)
    assert np.array_equal(found.truth.region_of(["a"]), mask)
    assert (found.truth.objects, found.truth.labels) == (truth.objects, truth.labels)
    assert found.truth.ignored is truth.ignored
    assert kept.get("three") is None
    monkeypatch.setattr(second_look, "_KEPT_BYTES", 3 * found.rgb.nbytes)
    few = KeptPhotographs(spec)
    for number in range(10):
        few.add(str(number), rgb, None)
    assert [few.get(str(number)) is not None for number in range(10)] == [True] * 2 + [False] * 8


def test_those_that_are_read_again_give_the_same_answers(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = SecondLook.photograph

    def photograph(self: SecondLook, record: dict[str, str]) -> second_look.Photograph | None:
        read.append(record["name"])
        return whole(self, record)

    monkeypatch.setattr(SecondLook, "photograph", photograph)
    found, times = [], []
    for room in (1 << 30, 0):
        monkeypatch.setattr(second_look, "_KEPT_BYTES", room)
        read.clear()
        report = _run(work, "--no-cache", "--input-size", "32", "--resize", "40")
        found.append([report["summary"]["audit"][name] for name in ("checks", "passes")])
        times.append(len(read))
    assert found[0] == found[1]
    assert times[0] == 0 < times[1]
