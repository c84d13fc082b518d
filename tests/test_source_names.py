"""Names of results: unique, printable, short, never outside the output folder."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from cnnviz.io.names import Names, safe_component, safe_name
from cnnviz.io.sources import read_bytes
from tests.support.inputs import JPEG, find, make, names


def test_names_are_unique_over_the_run(tmp_path: Path) -> None:
    one, two = make(tmp_path / "1", "a/x.jpg", "a/x.png"), make(tmp_path / "2", "a/x.jpg", "A/X.PNG")
    assert names(find(one, two)) == ["a/x.jpg", "a/x.png", "A/X~2.PNG", "a~2/x.jpg"]
    assert names(find(one, one, one / "a" / "x.jpg")) == [
        "a/x.jpg", "a/x.png", "a/x~2.jpg", "a/x~2.png", "x.jpg",
    ]  # fmt: skip


def test_names_within_one_folder_are_unique_too(tmp_path: Path) -> None:
    composed, decomposed = "\u00e9.jpg", "e\u0301.jpg"
    make(tmp_path, "x\ny.jpg", "x\ty.jpg", "A/z.jpg", "a/z.jpg", composed, decomposed, "x_y~2.jpg")
    found = names(find(tmp_path))
    assert found[0] == "A/z.jpg"
    assert sorted(found[1:]) == sorted(
        ["a~2/z.jpg", decomposed, composed.replace(".", "~2."), "x_y.jpg", "x_y~2.jpg", "x_y~2~2.jpg"]
    )
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == 7


ODD = ["new\nline.jpg", "tab\t.jpg", "\u2028.jpg", "back\\slash.jpg", "\udcff\udc80.jpg", "\x7f\x1b[31m.jpg"]


@pytest.mark.parametrize("odd", ODD)
def test_names_hold_nothing_unprintable(tmp_path: Path, odd: str) -> None:
    make(tmp_path, odd)
    [ref] = find(tmp_path)
    assert ref.name.isprintable()
    assert "\\" not in ref.name
    assert ref.name.endswith(".jpg")
    ref.name.encode()
    assert read_bytes(ref).startswith(JPEG)  # the uri still opens the file


def test_what_is_harmless_in_a_name_stays(tmp_path: Path) -> None:
    harmless = ["<script>alert(1)<&.jpg", 'it\'s "quoted" %20 #1?.jpg', "日本 é 👩\u200d🚀.jpg"]
    make(tmp_path, *harmless, "-rf.jpg", "~2.jpg")
    assert names(find(tmp_path)) == sorted([*harmless, "-rf.jpg", "~2.jpg"])


def test_long_names_leave_room_for_what_is_appended(tmp_path: Path) -> None:
    make(tmp_path, "x" * 251 + ".jpg", "x" * 250 + "y.jpg", "é" * 120 + ".jpeg", "a" * 200 + "/" + "b." * 120)
    found = names(find(tmp_path, tmp_path))
    assert len(set(found)) == 8
    for name in found:
        assert all(len(part.encode()) + 120 <= 255 for part in name.split("/"))
    assert sum(name.endswith(".jpg") for name in found) == 4


def test_names_never_leave_the_output_folder() -> None:
    assert safe_name("../../etc/passwd") == "etc/passwd"
    assert safe_name("/abs/./x.jpg") == "abs/x.jpg"
    assert safe_name("..") == "_"
    assert safe_component("..") == "_"
    assert safe_name("a/.../x") == "a/_/x"
    deep = safe_name("d/" * 3000 + "x.jpg")
    assert len(deep) < 1000
    assert deep.endswith("/x.jpg")
    assert deep != safe_name("d/" * 3001 + "x.jpg")


def test_many_equal_names_take_linear_time() -> None:
    unique = Names()
    made = [unique.unique("x.jpg") for _ in range(20_000)]
    assert made[:3] == ["x.jpg", "x~2.jpg", "x~3.jpg"]
    assert len(set(made)) == 20_000
