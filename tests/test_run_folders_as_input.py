"""What runs wrote is not taken for photographs by the next run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.errors import CnnvizError
from cnnviz.io.sources import SourceOptions, find_images
from tests.support.pictures import photograph
from tests.support.runs import Quiet, report, settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(photograph(index)).save(folder / f"{index}.png")
    return folder


def run_folder(place: Path, text: str = '{\n  "schema": "cnnviz.report/1",\n') -> Path:
    (place / "images").mkdir(parents=True)
    (place / "report.json").write_text(text)
    Image.fromarray(photograph(0)).save(place / "images" / "0.png")
    return place


def found(*inputs: Path | str) -> tuple[list[str], list[str]]:
    told: list[str] = []
    refs = find_images([str(text) for text in inputs], SourceOptions(told=told.append))
    return [os.path.basename(ref.uri) for ref in refs], sorted(set(told))


def test_the_output_within_the_input_is_not_explained(photos: Path) -> None:
    """Neither by the run that writes it, nor by the next."""
    for name in ("out/first", "out/second"):
        told = Quiet()
        result = pipeline.run(settings(photos, photos / name), told)
        assert result.summary["inputs"] == 3
    assert report(photos / "out" / "second")["summary"]["run_folders_passed_over"] == [
        str(photos / "out" / "first"), str(photos / "out" / "second"),
    ]  # fmt: skip
    assert f"{photos / 'out' / 'first'} is passed over: it is the output folder of a cnnviz run" in told.notes


def test_nested_linked_and_matched_folders(photos: Path, tmp_path: Path) -> None:
    deep = run_folder(photos / "a" / "b" / "results")
    elsewhere = run_folder(tmp_path / "elsewhere")
    (photos / "link").symlink_to(elsewhere)
    names = ["0.png", "1.png", "2.png"]
    assert found(photos) == (names, sorted([str(deep), str(photos / "link")]))
    assert found(f"{photos}/**/*.png") == (names, sorted([str(deep), str(photos / "link")]))


def test_a_folder_that_is_named_is_gone_through(photos: Path) -> None:
    deep = run_folder(photos / "results")
    assert found(deep) == (["0.png", "report.json"], [])
    assert found(deep / "images") == (["0.png"], [])
    assert found(f"{deep}/images/*.png") == (["0.png"], [])


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "other/1"}', "\udcff"])
def test_a_report_of_something_else_hides_nothing(photos: Path, text: str) -> None:
    folder = run_folder(photos / "data")
    (folder / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    names, told = found(photos)
    assert names.count("0.png") == 2
    assert told == []


def test_behind_a_url() -> None:
    fs = pytest.importorskip("fsspec").filesystem("memory")
    fs.pipe("/walk/0.png", b"x")
    fs.pipe("/walk/out/report.json", b'{\n  "schema": "cnnviz.report/1"}')
    fs.pipe("/walk/out/images/0.png", b"x")
    try:
        assert found("memory://walk") == (["0.png"], ["memory:///walk/out"])
    finally:
        fs.rm("/walk", recursive=True)


def test_nothing_but_results(photos: Path, tmp_path: Path) -> None:
    run_folder(tmp_path / "all" / "results")
    with pytest.raises(CnnvizError, match=r"No images in .*results, the output folder of a cnnviz run, is passed over"):
        pipeline.run(replace(settings(tmp_path / "all", tmp_path / "o")), Quiet())
