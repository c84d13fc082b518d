"""A run folder is owned by one run, says what it holds, and is continued without mixing anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.errors import CnnvizError
from cnnviz.io.writer import LOCK
from cnnviz.settings import RuntimeSettings
from tests.test_pipeline import Quiet, files, photograph, report, settings

ONE = RuntimeSettings(batch_size=1, workers=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.fromarray(photograph(index)).save(folder / f"{index}.png")
    return folder


class Meddling(Quiet):
    """Does something after the n-th image."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.after, self.act = after, act

    def advance(self, record: Mapping[str, Any]) -> None:
        super().advance(record)
        if len(self.rows) == self.after:
            self.act()


@pytest.mark.parametrize("second", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_run_in_the_folder_is_refused_and_the_first_is_not_harmed(
    photos: Path, tmp_path: Path, second: dict[str, bool]
) -> None:
    out, refused = tmp_path / "out", []

    def other() -> None:
        with pytest.raises(CnnvizError, match="another cnnviz run is writing to") as caught:
            pipeline.run(settings(photos, out, output=second), Quiet())
        refused.append(caught.value.exit_code)

    result = pipeline.run(settings(photos, out, runtime=ONE), Meddling(2, other))
    assert refused == [2]
    assert result.exit_code == 0
    assert [row["error"] for row in report(out)["images"]] == [None] * 6
    assert not (out / LOCK).exists()


def test_a_folder_that_is_deleted_meanwhile_ends_the_run(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CnnvizError, match="deleted or moved while the run was writing") as caught:
        pipeline.run(settings(photos, out, runtime=ONE), Meddling(2, lambda: shutil.rmtree(out)))
    assert caught.value.exit_code == 2
    assert not out.exists(), "nothing is written to where nobody expects it"


def test_what_a_killed_run_left_half_written_is_swept(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(settings(photos, out, runtime=ONE), Quiet(interrupt_after=2))
    for place in (out, out / "images"):
        (place / ".cnnviz-tmp-0123").write_bytes(b"half a picture")
    whole = tmp_path / "whole"
    pipeline.run(settings(photos, whole, runtime=ONE), Quiet())
    pipeline.run(settings(photos, out, runtime=ONE, output={"resume": True}), Quiet())
    assert files(out) == files(whole)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert json.loads((out / "report.json").read_text())["images"] == report(whole)["images"]
