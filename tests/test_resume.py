"""Continuing a run: names, order, digests, and images that changed or went."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz import pipeline
from cnnviz.cli.console import closing_line
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.digests import weights_sha256
from cnnviz.settings import DrawSettings, ModelSpec, TargetSettings
from tests.support.pictures import photograph, photographs_in
from tests.support.resuming import ONE, again, check_whole, overlays
from tests.support.runs import Quiet, files, report, settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs_in(tmp_path / "photos", 6)


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


def test_a_folder_without_a_run_is_told(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that does not exist, of an empty one, and of one whose name is like that of a run; not of a run."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    begins = "--resume: there is no run to go on with in {}: one begins there. {}"
    for folder, hint in (
        ("runs/new", "-o names the folder of another run."),
        ("empty", "-o names the folder of another run."),
        ("runs/nwe", "Did you mean -o runs/new?"),
        ("emtpy", "Did you mean -o ./empty?"),
    ):
        told = Quiet()
        pipeline.run(replace(settings(photos, folder, output={"resume": True}), limit=1), told)
        assert begins.format(folder, hint) in told.notes
    told = Quiet()
    pipeline.run(settings(photos, "runs/new", output={"resume": True}), told)
    assert not any("--resume" in note for note in told.notes)


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
    # Seconds are rounded to thousandths: of a run of 8 ms that is 6 %.
    seconds, rate = result.summary["seconds"], result.summary["images_per_second"]
    assert 1 / (seconds + 0.0006) - 0.06 <= rate <= 1 / max(seconds - 0.0006, 1e-4) + 0.06
    assert closing_line(result).startswith("explained 1 of 7 images in ")
    # They are of the image that was explained now, in the report and on the page.
    assert report(out)["summary"]["timed"] == 1
    assert f"<dt>time</dt><dd>{seconds:.1f} s for 1 of them</dd>" in (out / "index.html").read_text()
    pipeline.run(settings(photos, out, output={"resume": True}), Quiet())
    last = report(out)["summary"]
    assert (last["timed"], last["seconds"], last["images_per_second"], last["resumed"]) == (1, seconds, rate, 7)


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
    monkeypatch.setattr("cnnviz.io.digests.open_file", None)
    monkeypatch.setattr("cnnviz.run.reading.open_image", None)
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
