"""A run folder is owned by one run, says what it holds, and is continued without mixing anything."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz import pipeline
from cnnviz.cli.console import closing_line
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.store import LOCK, Store
from cnnviz.models.loading.digests import weights_sha256
from cnnviz.run.earlier import EarlierRun
from cnnviz.settings import DrawSettings, ModelSpec, RuntimeSettings, TargetSettings
from tests.support.pictures import photograph
from tests.support.runs import Quiet, files, report, settings

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


# Continuing: names, order, digests.


def again(inputs: Path | str, out: Path, reporter: Quiet | None = None, **parts: Any) -> list[dict[str, Any]]:
    """Continue the run in the folder; the records of its report."""
    pipeline.run(settings(inputs, out, output={"resume": True}, **parts), reporter or Quiet())
    rows: list[dict[str, Any]] = report(out)["images"]
    return rows


def overlays(rows: list[dict[str, Any]]) -> list[str]:
    return [each["files"]["overlay"] for row in rows for each in row["explanations"]]


def check_whole(out: Path) -> None:
    """Every picture belongs to one record and every record has its pictures; the lines are those of the report."""
    rows = report(out)["images"]
    listed = [name for row in rows for each in row["explanations"] for name in each["files"].values()]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(files(out))
    assert [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()] == rows


def test_names_once_given_stay_given(tmp_path: Path) -> None:
    """Two pictures of one name from two folders, the second run naming the new one first."""
    out = tmp_path / "o"
    for number in (1, 2, 3):
        (tmp_path / f"d{number}").mkdir()
        Image.fromarray(photograph(number)).save(tmp_path / f"d{number}" / "x.jpg")
    first, second, third = (str(tmp_path / f"d{number}" / "x.jpg") for number in (1, 2, 3))
    pipeline.run(settings(first, out), Quiet())
    before = files(out)
    two = replace(settings(first, out, output={"resume": True}), inputs=(second, first))
    told = Quiet()
    pipeline.run(two, told)
    rows = report(out)["images"]
    assert [row["path"] for row in rows] == [second, first]
    assert [row["name"] for row in rows] == ["x~2.jpg", "x.jpg"]
    assert {name: data for name, data in files(out).items() if name in before} == before
    assert [row["path"] for row in told.rows] == [second]
    pipeline.run(replace(two, inputs=(third, second, first)), Quiet())
    assert [row["name"] for row in report(out)["images"]] == ["x~3.jpg", "x~2.jpg", "x.jpg"]
    check_whole(out)


def test_names_that_differ_in_case_only_are_one_name_to_some_file_systems(tmp_path: Path) -> None:
    for folder, name in (("a", "X.png"), ("b", "x.PNG")):
        (tmp_path / folder).mkdir()
        Image.fromarray(photograph(1)).save(tmp_path / folder / name)
    out = tmp_path / "o"
    pipeline.run(settings(tmp_path / "a", out), Quiet())
    rows = again(tmp_path / "b", out)
    assert sorted(row["name"].casefold() for row in rows) == ["x.png", "x~2.png"]
    check_whole(out)


def test_an_input_that_is_named_twice_keeps_both_its_results(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos}/0.png\n{photos}/1.png\n{photos}/0.png\n")
    out, told = tmp_path / "o", Quiet()
    pipeline.run(settings(listed, out, limit=2), Quiet())
    rows = again(listed, out, told)
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "0.png"]
    assert len(told.rows) == 1
    check_whole(out)
    assert again(listed, out, told) == rows
    assert len(told.rows) == 1


def test_a_mended_image_stands_where_the_input_has_it(photos: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "o", tmp_path / "whole"
    good = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(good[:60])
    pipeline.run(settings(photos, out, runtime=ONE), Quiet())
    (photos / "2.png").write_bytes(good)
    rows = again(photos, out, runtime=ONE)
    assert [Path(row["path"]).stem for row in rows] == ["0", "1", "2", "3", "4", "5"]
    pipeline.run(settings(photos, whole, runtime=ONE), Quiet())
    assert (out / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()
    assert (out / "index.html").read_text().index("2.png") < (out / "index.html").read_text().index("3.png")


@pytest.mark.parametrize("same_size", [True, False])
def test_an_image_that_was_replaced_is_done_again(photos: Path, tmp_path: Path, same_size: bool) -> None:
    """Its record and all its pictures are of the new one; those of another class go."""
    out, told = tmp_path / "o", Quiet()
    bitmap = photos / "2.bmp"  # equal sizes for all pixels
    Image.fromarray(photograph(2)).save(bitmap)
    pipeline.run(settings(photos, out, runtime=ONE), Quiet())
    [old] = [row for row in report(out)["images"] if row["path"] == str(bitmap)]
    Image.new("RGB", (90, 70) if same_size else (60, 80), "white").save(bitmap)
    pipeline.run(settings(bitmap, tmp_path / "alone", runtime=ONE), Quiet())
    [expected] = report(tmp_path / "alone")["images"]
    assert overlays([expected]) != overlays([old])
    rows = again(photos, out, told, runtime=ONE)
    assert [row["path"] for row in told.rows] == [str(bitmap)]
    [new] = [row for row in rows if row["path"] == str(bitmap)]
    assert new["predictions"] == expected["predictions"] != old["predictions"]
    assert new["input"]["sha256"] == hashlib.sha256(bitmap.read_bytes()).hexdigest() != old["input"]["sha256"]
    check_whole(out)


def test_a_finished_run_keeps_its_times_when_it_is_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    pipeline.run(settings(photos, out), Quiet())
    first = report(out)["summary"]
    page = (out / "index.html").read_text()
    result = pipeline.run(settings(photos, out, output={"resume": True}), Quiet())
    assert report(out)["summary"] == {**first, "resumed": 6}
    assert (out / "index.html").read_text() == page
    assert closing_line(result).startswith("nothing was left to do: 6 of 6 images were done before")
    Image.fromarray(photograph(7)).save(photos / "7.png")
    result = pipeline.run(settings(photos, out, output={"resume": True}), Quiet())
    assert (result.summary["inputs"], result.summary["resumed"]) == (7, 6)
    assert result.summary["images_per_second"] == pytest.approx(1 / result.summary["seconds"], rel=0.05, abs=0.006)
    assert closing_line(result).startswith("explained 1 of 7 images in ")


def test_an_image_that_was_only_touched_is_not_done_again(photos: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "o", Quiet()
    pipeline.run(settings(photos, out), Quiet())
    before = report(out)["images"]
    for path in photos.iterdir():
        os.utime(path, ns=(1, 1))
    assert again(photos, out, told) == before
    assert told.rows == []


def test_what_is_unchanged_by_size_and_time_is_not_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"
    pipeline.run(settings(photos, out), Quiet())
    monkeypatch.setattr("cnnviz.io.digests.read_bytes", None)
    monkeypatch.setattr("cnnviz.run.loop.open_image", None)
    assert len(again(photos, out)) == 6


def test_results_of_images_that_are_gone_go_and_those_of_others_stay(photos: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "o", Quiet()
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(photograph(9)).save(other / "9.png")
    pipeline.run(replace(settings(photos, out), inputs=(str(photos), str(other))), Quiet())
    (photos / "3.png").unlink()
    rows = again(photos, out, told)
    assert [Path(row["path"]).stem for row in rows] == ["0", "1", "2", "4", "5", "9"]
    check_whole(out)
    assert "1 input of the earlier run no longer exists: its results were removed" in told.notes
    assert "1 result of an input that was not named this time stays in the report" in told.notes
    summary = report(out)["summary"]
    assert (summary["inputs"], summary["explained"], summary["kept"], summary["gone"]) == (5, 5, 1, 1)


def test_a_limit_hides_no_earlier_result(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    pipeline.run(settings(photos, out), Quiet())
    before = report(out)["images"]
    assert again(photos, out, limit=2) == before
    check_whole(out)


def test_no_images_leave_an_earlier_run_as_it_is(photos: Path, tmp_path: Path) -> None:
    out, empty = tmp_path / "o", tmp_path / "empty"
    pipeline.run(settings(photos, out), Quiet())
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    with pytest.raises(CnnvizError, match="No images"):
        again(empty, out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


FACTORY = """
import torch
from torch import nn
from parts import Part
def make():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.{act}(), Part(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3)).eval()
"""
PART = "from torch import nn\nclass Part(nn.Module):\n    def forward(self, x):\n        return {value}\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 2}, "the weights of the network changed"),
        ({"act": "GELU"}, "the source code of the network changed"),
        ({"value": "x * 2"}, "the source code of the network changed"),
        ({"labels": "a\nc\nb\n"}, "the class names changed"),
        ({"table": "path,label\n0.png,b\n"}, "table.csv changed"),
        ({}, ""),
    ],
)
def test_another_network_under_the_same_name_is_refused(
    photos: Path, tmp_path: Path, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights, the factory's file, a file that it imports, the labels, a table of labels."""
    what = {"seed": 1, "act": "ReLU", "value": "x", "labels": "a\nb\nc\n", "table": "path,label\n0.png,a\n"}
    out, table = tmp_path / "o", tmp_path / "table.csv"

    def write(what: dict[str, Any]) -> Any:
        (tmp_path / "factory.py").write_text(FACTORY.format(**what))
        (tmp_path / "parts.py").write_text(PART.format(**what))
        (tmp_path / "labels.txt").write_text(what["labels"])
        table.write_text(what["table"].replace("0.png", f"{photos}/0.png"))
        monkeypatch.delitem(sys.modules, "parts", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        model = ModelSpec(
            model=f"{tmp_path / 'factory.py'}:make", labels=str(tmp_path / "labels.txt"), input_size=(3, 32, 32)
        )
        return {"model": model, "target": TargetSettings(classes=(str(table),))}

    pipeline.run(settings(photos, out, limit=1, **write(what)), Quiet())
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    more = write({**what, **change})
    if not said:
        assert len(again(photos, out, **more)) == 6
        return
    with pytest.raises(CnnvizError, match=said):
        again(photos, out, **more)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_the_digest_of_the_weights_is_over_every_tensor() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    expected = hashlib.sha256()
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name in sorted(state):
        values = state[name].detach().numpy()
        expected.update(f"{name} torch.{values.dtype} {list(values.shape)}\n".encode() + values.tobytes())
    assert weights_sha256(network) == expected.hexdigest()
    with torch.no_grad():
        network[1].running_var[1] += 1e-6
    assert weights_sha256(network) != expected.hexdigest()
    assert weights_sha256(network.bfloat16()) != expected.hexdigest()


def test_one_scale_for_the_run_is_one_scale_for_all_its_pictures(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    scale = {"draw": DrawSettings(scale="run")}
    pipeline.run(settings(photos / "0.png", out, **scale), Quiet())
    with pytest.raises(CnnvizError, match="--scale run makes a scale"):
        again(photos, out, **scale)
    assert len(again(photos / "0.png", out, **scale)) == 1


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


@pytest.mark.parametrize("name", ["index.html", "report.json", "records.jsonl"])
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
    asked = settings(photos / "0.png", out, output={"resume": True})
    tracemalloc.start()
    earlier = EarlierRun(Store(str(out)))
    earlier.check_options("gradcam", asked.options())
    earlier.index()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / count < 500
