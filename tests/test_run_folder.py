"""A run folder is owned by one run, says what it holds, and is continued without mixing anything."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.cli.console import closing_line
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.reports import without_images
from cnnviz.io.store import LOCK, Store
from cnnviz.run.earlier import EarlierRun
from cnnviz.settings import RuntimeSettings
from tests.support.pictures import photograph, photographs_in
from tests.support.resuming import ONE, again, check_whole
from tests.support.runs import Quiet, files, report, settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs_in(tmp_path / "photos", 6)


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

    def delete() -> None:
        os.rename(out, tmp_path / "trash")  # at once: a picture may be on its way
        shutil.rmtree(tmp_path / "trash", ignore_errors=True)

    with pytest.raises(CnnvizError, match="deleted or moved while the run was writing") as caught:
        pipeline.run(settings(photos, out, runtime=ONE), Meddling(2, delete))
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


# Folders that hold something else.


@pytest.mark.parametrize("name", ["index.html", "report.json", "notes.txt", "images/mine.png"])
def test_a_folder_that_is_not_of_a_run_is_not_continued(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "site"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"my": "page"}')
    with pytest.raises(CnnvizError, match="is not the output folder of a run") as caught:
        again(photos, out)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert {p.name: p.read_text() for p in out.rglob("*") if p.is_file()} == {Path(name).name: '{"my": "page"}'}


@pytest.mark.parametrize("name", ["index.html", "report.json", "records.jsonl", "gallery"])
def test_overwrite_does_not_take_the_place_of_somebody_elses_page(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(CnnvizError, match=f"its {name} would be lost"):
        pipeline.run(settings(photos, out, output={"overwrite": True}), Quiet())
    assert [p.read_text() for p in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("left", "mode"),
    [
        ("records", {}),
        ("records", {"resume": True}),
        ("report", {}),
        ("both", {"resume": True}),
        ("both", {"overwrite": True}),
        ("nothing", {"resume": True}),
    ],
)
def test_a_run_that_was_killed_before_its_first_image_is_begun_again(
    photos: Path, tmp_path: Path, mode: dict[str, bool], left: str
) -> None:
    out, head = tmp_path / "o", {"schema": "cnnviz.report/1", "command": "gradcam", "options": {}, "images": []}
    out.mkdir()
    if left in {"report", "both"}:
        (out / "report.json").write_text(json.dumps(head))
    if left in {"records", "both"}:
        (out / "records.jsonl").write_bytes(b"")
    (out / ".cnnviz-tmp-01").write_bytes(b"")
    result = pipeline.run(settings(photos, out, output=mode), Quiet())
    assert result.exit_code == 0
    check_whole(out)


@pytest.mark.parametrize("name", ["report.json", "index.html", "records.jsonl", "images"])
def test_a_folder_in_the_place_of_a_file_is_said_before_the_first_image(
    photos: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "o"
    pipeline.run(settings(photos / "0.png", out), Quiet())
    place = out / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    if name == "images":
        place.write_text("a file")
    else:
        place.mkdir()
    told = Quiet()
    with pytest.raises(CnnvizError, match=f"'{name}'|its {name}") as caught:
        pipeline.run(settings(photos, out, output={"overwrite": True}), told)
    assert caught.value.exit_code == 2
    assert told.rows == []


def test_the_output_folder_is_not_an_input(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CnnvizError, match="is also the output folder"):
        pipeline.run(settings(photos, photos, output={"overwrite": True}), Quiet())
    assert len(list(photos.iterdir())) == 6


@pytest.mark.parametrize(
    "line", ['{"path": ["x"]}', '{"path": 3}', "[1]", '{"path": "x", "name": []}', "[" * 50_000, "garbage"]
)
def test_lines_that_are_no_records_are_told_and_left_out(photos: Path, tmp_path: Path, line: str) -> None:
    out, told = tmp_path / "o", Quiet()
    pipeline.run(settings(photos, out, runtime=ONE), Quiet(interrupt_after=3))
    lines = (out / "records.jsonl").read_text().splitlines()
    (out / "records.jsonl").write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    rows = again(photos, out, told, runtime=ONE)
    assert len(rows) == 6
    assert any("1 line of records.jsonl cannot be read" in text for text in told.notes)
    check_whole(out)


# Cut short.


def test_after_an_interruption_the_inputs_are_all_that_were_asked_for(photos: Path, tmp_path: Path) -> None:
    (photos / "readme.txt").write_text("no image")
    result = pipeline.run(settings(photos, tmp_path / "o", runtime=ONE), Quiet(interrupt_after=2))
    summary = report(tmp_path / "o")["summary"]
    assert result.summary == summary
    done = len(report(tmp_path / "o")["images"])
    assert summary["explained"] == done < 6
    assert summary["inputs"] in {6, 7}  # whether it had come to the text file
    assert closing_line(result).startswith(f"explained {done} of {summary['inputs']} images")


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (8, 3)])
@pytest.mark.parametrize("kind", ["decode", "draw"])
def test_fail_fast_writes_nothing_beyond_the_first_failure(
    photos: Path, tmp_path: Path, batch: int, workers: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(6, 30):
        Image.fromarray(photograph(index)).save(photos / f"{index:02}.png")
    names = sorted(path.name for path in photos.iterdir())
    if kind == "decode":
        (photos / names[3]).write_bytes(b"no picture")
    else:
        write = Store.write

        def failing(self: Store, name: str, data: bytes) -> None:
            if names[3] in name:
                raise ImageError("unwritable", "no")
            write(self, name, data)

        monkeypatch.setattr(Store, "write", failing)
    out = tmp_path / "o"
    how = RuntimeSettings(batch_size=batch, workers=workers)
    result = pipeline.run(settings(photos, out, runtime=how, output={"fail_fast": True}), Quiet())
    rows = report(out)["images"]
    assert result.exit_code == 3
    assert [Path(row["path"]).name for row in rows] == names[:4]
    assert [row["error"] is None for row in rows] == [True, True, True, False]
    assert (result.summary["inputs"], result.summary["explained"], result.summary["failed"]) == (len(names), 3, 1)
    check_whole(out)


def test_a_long_run_is_continued_in_little_memory(photos: Path, tmp_path: Path) -> None:
    out, count = tmp_path / "o", 2_000
    pipeline.run(settings(photos / "0.png", out), Quiet())
    line = (out / "records.jsonl").read_text()
    with (out / "records.jsonl").open("w") as stream:
        for index in range(count):
            stream.write(line.replace("0.png", f"{index}.png"))
    whole = (out / "report.json").read_text()
    images = ",\n    ".join((out / "records.jsonl").read_text().splitlines())
    head = whole[: whole.index('  "images": [')]
    (out / "report.json").write_text(head + '  "images": [\n    ' + images + "\n  ]\n}\n")
    assert len(report(out)["images"]) == count
    asked = settings(photos / "0.png", out, output={"resume": True})
    tracemalloc.start()
    earlier = EarlierRun(Store(str(out)))
    earlier.check_options("gradcam", asked.options())
    earlier.index()
    used, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / count < 500
    assert most / count < 700 < len(images) / count  # the report's images are not read


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{\n  "a": 1,\n  "images": [\n    {"b": "x"},\n    {"b": "y"}\n  ]\n}\n', {"a": 1}),
        ('{\n  "a": {\n    "images": [\n    ]\n  },\n  "images": []\n}\n', {"a": {"images": []}, "images": []}),
        ('{\n  "images": [],\n  "merged": true\n}\n', {"images": [], "merged": True}),
        ('{"a": 1, "images": [{"b": 2}]}', {"a": 1, "images": [{"b": 2}]}),
    ],
)
def test_a_report_is_read_without_its_images(text: str, kept: dict[str, Any]) -> None:
    assert json.loads(without_images(io.BytesIO(text.encode()))) == kept
