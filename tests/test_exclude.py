"""``--exclude FILE``: images that are left out by path, name or number, counted and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.io.exclusions import Exclusions
from cnnviz.registry import lookup
from cnnviz.run.preflight import check
from cnnviz.settings import RunSettings
from tests.support.pictures import photographs_in
from tests.support.runs import TINY, ran


def listed(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("line", "uri", "out"),
    [
        ("a.jpg", "photos/a.jpg", True),
        ("a", "photos/a.jpg", True),
        ("photos/a.jpg", "photos/a.jpg", True),
        ("other/a.jpg", "photos/a.jpg", False),
        ("b.jpg", "photos/a.jpg", False),
        ("36", "val/ILSVRC2012_val_00000036.JPEG", True),
        ("ILSVRC2012_val_00000036", "val/ILSVRC2012_val_00000036.JPEG", True),
        ("36", "val/ILSVRC2012_val_00000360.JPEG", False),
        ("3", "val/ILSVRC2012_val_00000036.JPEG", False),
        ("36", "photos/cat_36.jpg", False),
        ("a.jpg", "s3://bucket/photos/a.jpg", True),
        ("a", "https://host/photos/a.jpg?size=3", True),
        ("36", "tar://val/ILSVRC2012_val_00000036.JPEG::/data/val.tar", True),
        ("val/a.jpg", "zip://val/a.jpg::s3://bucket/val.zip", True),
        ("100% a.jpg", "tar://100%25 a.jpg::val.tar", True),
        ("val", "tar://a.jpg::/data/val.tar", False),
    ],
)
def test_what_a_line_names(tmp_path: Path, line: str, uri: str, out: bool) -> None:
    found = Exclusions(listed(tmp_path / "x.txt", line, "", "zzz"))
    assert found.leaves_out(uri) == out
    assert (found.names, found.unused) == (2, 1 if out else 2)


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    found = Exclusions(listed(tmp_path / "x.txt", "photos/a.jpg"))
    assert found.leaves_out(str(tmp_path / "photos" / "a.jpg"))
    assert not found.leaves_out(str(tmp_path / "elsewhere" / "photos" / "a.jpg"))


def test_paths_are_relative_to_a_folder_of_images_too(tmp_path: Path) -> None:
    """As listings of a data set have them, wherever the list lies; one that lies in two folders is told."""
    (tmp_path / "lists").mkdir()
    one, two = photographs_in(tmp_path / "one" / "cats", 3), photographs_in(tmp_path / "two" / "cats", 2)
    names = listed(tmp_path / "lists" / "x.txt", "cats/1.png", "./cats/2.png", "dogs/1.png")
    report, _, told = ran("gradcam", [one.parent], tmp_path / "out", exclude=names)
    assert [Path(row["path"]).name for row in report["images"]] == ["0.png"]
    assert "--exclude left out 2 images; 1 of its 3 names is of no image here" in told.notes
    report, _, told = ran("gradcam", [one.parent, two.parent], tmp_path / "both", exclude=names)
    assert [row["path"] for row in report["images"]] == [str(one / "0.png"), str(two / "0.png")]
    [said] = [note for note in told.notes if note.startswith("--exclude")]
    assert said.endswith(
        "; 1 name is of several images, all left out, which paths would tell apart: "
        f"cats/1.png ({one / '1.png'}, {two / '1.png'})"
    )


def test_an_image_with_two_names_and_one_that_is_given_twice(tmp_path: Path) -> None:
    """Both names are of an image here, and neither of several."""
    image = photographs_in(tmp_path / "one" / "cats", 1) / "0.png"
    names = listed(tmp_path / "x.txt", "one/cats/0.png", "cats/0.png")
    found = Exclusions(names, (str(tmp_path / "one"), str(image)))
    assert all(found.leaves_out(str(image)) for _ in range(2))
    assert found.said(2) == "--exclude left out 2 images"


def test_paths_below_the_url_of_a_folder(tmp_path: Path) -> None:
    found = Exclusions(listed(tmp_path / "x.txt", "cats/1.png"), ("s3://bucket/photos/", "nowhere"))
    assert found.leaves_out("s3://bucket/photos/cats/1.png")
    assert not found.leaves_out("s3://bucket/other/cats/1.png")


@pytest.mark.parametrize("command", ["gradcam", "embed"])
def test_what_is_left_out_is_counted_and_said(tmp_path: Path, command: str) -> None:
    """Every command that reads images leaves them out, and the others keep their order."""
    photos = photographs_in(tmp_path / "photos", 5)
    names = listed(tmp_path / "x.txt", "1.png", "3", "77")
    report, result, told = ran(command, [photos], tmp_path / "out", exclude=names)
    assert [Path(row["path"]).name for row in report["images"]] == ["0.png", "2.png", "4.png"]
    summary = result.summary
    assert (summary["inputs"], summary["explained"], summary["excluded"]) == (3, 3, 2)
    assert "--exclude left out 2 images; 1 of its 3 names is of no image here" in told.notes
    assert names in report["option_files_sha256"]


def test_limit_counts_what_is_left(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "photos", 4)
    names = listed(tmp_path / "x.txt", "0.png")
    report, _, _ = ran("gradcam", [photos], tmp_path / "out", exclude=names, limit=2, scale="run")
    assert [Path(row["path"]).name for row in report["images"]] == ["1.png", "2.png"]


def test_nothing_left_and_nothing_named(tmp_path: Path) -> None:
    photos = photographs_in(tmp_path / "photos", 1)
    with pytest.raises(CnnvizError, match="1 is left out by --exclude"):
        ran("gradcam", [photos], tmp_path / "out", exclude=listed(tmp_path / "x.txt", "0.png"))
    with pytest.raises(CnnvizError, match="names no image"):
        Exclusions(listed(tmp_path / "empty.txt", " "))
    settings = RunSettings("gradcam", (str(photos),), TINY, exclude=str(tmp_path / "nope.txt"))
    with pytest.raises(CnnvizError, match=r"--exclude .*there is no such file"):
        check(settings, lookup.find_entry("gradcam"))
