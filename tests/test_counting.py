"""How many images a run has, before it has seen them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.errors import CnnvizError
from cnnviz.run import counting
from cnnviz.run.counting import count_inputs
from cnnviz.settings import RuntimeSettings
from tests.support.pictures import photograph
from tests.support.runs import Quiet, settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images, one of them without a suffix, and three files that are none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(photograph(index)).save(folder / f"{index}.png")
    shutil.move(folder / "3.png", folder / "3")
    (folder / "labels.csv").write_text("path,label\n0.png,cat\n")
    (folder / "zero").touch()
    (folder / "zip.txt").write_text("no image")
    return folder


class Started(Quiet):
    """Remembers of how many images it was told."""

    total: int | None = None

    def start(self, total: int | None) -> None:
        self.total = total


def test_files_among_images_are_not_counted(photos: Path, tmp_path: Path) -> None:
    told = Started(interrupt_after=1)
    one = RuntimeSettings(batch_size=1, workers=1)
    result = pipeline.run(settings(photos, tmp_path / "out", runtime=one), told)
    assert told.total == 4
    # Nor of a run that came to none of these files.
    assert (result.summary["inputs"], result.summary["passed_over"]) == (4, 0)
    resumed = Started()
    result = pipeline.run(settings(photos, tmp_path / "out", runtime=one, output={"resume": True}), resumed)
    assert resumed.total == 4
    assert (result.summary["inputs"], result.summary["passed_over"]) == (4, 3)


def test_shares_and_limits_are_of_images(photos: Path, tmp_path: Path) -> None:
    made = settings(photos, tmp_path / "out")
    assert sum(count_inputs(replace(made, shard=f"{index}/3")) or 0 for index in (1, 2, 3)) == 4
    assert [count_inputs(replace(made, limit=limit)) for limit in (2, 4, 6)] == [2, 4, 4]
    named = replace(made, inputs=(str(photos), str(photos / "labels.csv")))
    assert count_inputs(named) == 5  # the row of the table
    named = replace(made, inputs=(str(photos / "zero"),))
    assert count_inputs(named) == 1  # it was asked for


def test_a_folder_without_images_needs_no_network(photos: Path, tmp_path: Path) -> None:
    for image in photos.glob("[0-9]*"):
        image.unlink()
    with pytest.raises(CnnvizError, match=r"No images in .* \(3 files are not images\)"):
        count_inputs(settings(photos, tmp_path / "out"))


def test_few_files_are_opened(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_LOOKED_INTO", 2)  # 3 and labels.csv
    assert count_inputs(settings(photos, tmp_path / "out")) == 6
