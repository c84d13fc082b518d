"""INPUT arguments to images: every form, every way a path can fail, and names that are safe and unique."""

from __future__ import annotations

import errno
import inspect
import io
import itertools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io import sources
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, open_file, read_bytes
from tests.support.inputs import JPEG, find, kind, make, names


def test_a_file_and_its_bytes(tmp_path: Path) -> None:
    make(tmp_path, "cats/x.jpg")
    uri = str(tmp_path / "cats" / "x.jpg")
    assert find(uri) == [ImageRef(uri, "x.jpg", 0, None, "cats", True)]
    assert read_bytes(find(uri)[0]) == JPEG + b"cats/x.jpg"


def test_a_folder_is_recursive_and_sorted(tmp_path: Path) -> None:
    make(tmp_path, "b/z.jpg", "b/a.PNG", "a.txt", "c.jpg", "b/c/d/e", "B.jpg", ".DS_Store", ".git/x.jpg")
    refs = find(tmp_path)
    visible = [p for p in tmp_path.rglob("*") if p.is_file() and "/." not in str(p)]
    assert names(refs) == [p.relative_to(tmp_path).as_posix() for p in sorted(visible, key=lambda p: p.parts)]
    assert [ref.index for ref in refs] == list(range(6))
    assert not any(ref.explicit for ref in refs)
    assert [ref.folder for ref in refs] == [Path(ref.uri).parent.name for ref in refs]
    assert all(read_bytes(ref).endswith(ref.name.encode()) for ref in refs)
    assert list(find_images([str(tmp_path)], SourceOptions(limit=2))) == refs[:2]


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x.jpg")
    monkeypatch.chdir(tmp_path / "a")
    assert find(".") == [ImageRef("./x.jpg", "x.jpg", 0, None, "a", False)]
    assert names(find("..")) == ["a/x.jpg"]
    assert find("x.jpg")[0].folder == "a"
    assert find("*.jpg") == [ImageRef("x.jpg", "x.jpg", 0, None, "a", False)]


def test_an_empty_folder(tmp_path: Path) -> None:
    assert find(tmp_path) == []


def test_a_folder_is_listed_one_directory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"{n}/x.jpg" for n in range(9)))
    opened: list[str] = []
    real = os.scandir

    def counted(path: str) -> object:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", counted)
    stream = find_images([str(tmp_path)])
    assert [ref.name for ref in itertools.islice(stream, 2)] == ["0/x.jpg", "1/x.jpg"]
    assert len(opened) == 3


def test_links_and_loops(tmp_path: Path) -> None:
    inside, outside = make(tmp_path / "in", "a/x.jpg", "b/y.jpg"), make(tmp_path / "out", "o.jpg")
    (inside / "a" / "loop").symlink_to(inside)
    (inside / "a" / "other").symlink_to(inside / "b")
    (inside / "b" / "back").symlink_to(inside / "a")
    (inside / "0out").symlink_to(outside)
    (inside / "again").symlink_to(outside)
    (outside / "home").symlink_to(inside)
    (outside / "up").symlink_to(outside)
    (inside / "linked.jpg").symlink_to(inside / "a" / "x.jpg")
    assert names(find(inside)) == ["0out/o.jpg", "a/x.jpg", "b/y.jpg", "linked.jpg"]


def test_links_that_lead_nowhere_are_rows(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    refs = find(tmp_path)
    assert names(refs) == ["gone.jpg", "self.jpg"]
    assert [kind(ref) for ref in refs] == ["broken-symlink"] * 2
    assert kind(find(tmp_path / "gone.jpg")[0]) == "broken-symlink"


def test_pipes_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert find(make(tmp_path, "x.jpg"))[0].name == "x.jpg"
    assert len(find(tmp_path)) == 1
    assert kind(find(tmp_path / "pipe.jpg")[0]) == "unreadable"  # and does not wait for a writer


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x.jpg", "b/y.jpg")
    real_scan, real_list = os.scandir, os.listdir

    def refuse(path: str) -> None:
        if os.path.basename(path) == "a":
            raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or real_scan(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "listdir", lambda path: refuse(path) or real_list(path))  # type: ignore[func-returns-value]
    refs = find(tmp_path)
    assert names(refs) == ["a", "b/y.jpg"]
    with pytest.raises(ImageError, match="Permission denied"):
        read_bytes(refs[0])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg")
    (tmp_path / "x.jpg").chmod(0)
    assert kind(find(tmp_path)[0]) == "unreadable"


def test_a_read_error_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = find(make(tmp_path, "x.jpg"))[0]

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("builtins.open", fail)
    assert kind(ref) == "unreadable"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["r.jpg"]),
        ("*/*.jpg", ["a/x.jpg", "b/y.jpg"]),
        ("**/*.jpg", ["a/c/d.jpg", "a/x.jpg", "b/y.jpg", "r.jpg"]),
        ("**/c/**/*.jpg", ["a/c/d.jpg"]),
        ("[ab]/?.*", ["a/x.jpg", "a/x.png", "b/y.jpg"]),
        ("a/*.png", ["x.png"]),
        ("a/*", ["c/d.jpg", "x.jpg", "x.png"]),
        ("a*", ["a/c/d.jpg", "a/x.jpg", "a/x.png"]),
        ("b/**", ["y.jpg"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "a/x.jpg", "a/x.png", "a/c/d.jpg", "b/y.jpg", "r.jpg", ".h/z.jpg")
    assert names(find(tmp_path / pattern)) == expected


def test_a_name_that_looks_like_a_glob_is_a_file_when_it_exists(tmp_path: Path) -> None:
    make(tmp_path, "x[1].jpg", "x1.jpg")
    assert names(find(tmp_path / "x[1].jpg")) == ["x[1].jpg"]


def test_a_glob_does_not_follow_a_loop(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert names(find(tmp_path / "**" / "*.jpg")) == ["a/x.jpg"]


def test_what_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    make(tmp_path, "kitten.jpg")
    for wrong in ("kiten.jpg", "*.png", "none/*.png", "none/x.jpg", "", "bad\0name"):
        with pytest.raises(CnnvizError) as caught:
            find_images([str(tmp_path / wrong) if wrong else ""])  # not even the first image is asked for
        assert caught.value.exit_code == 2
        assert caught.value.hint
        if wrong == "kiten.jpg":
            assert "kitten.jpg" in caught.value.hint


def test_standard_input(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "b.jpg")
    lines = f"{tmp_path}/a/x.jpg\n\n{tmp_path}/b.jpg\r\n{tmp_path}/none.jpg"
    refs = find("-", stdin=lines.encode())
    assert [ref.uri for ref in refs] == [f"{tmp_path}/{name}" for name in ("a/x.jpg", "b.jpg", "none.jpg")]
    assert all(ref.explicit for ref in refs)
    assert kind(refs[2]) == "missing"
    assert not any(name.startswith("/") or ".." in name for name in names(refs))


def test_standard_input_separated_by_nul(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/two\nlines \xff.jpg"
    with open(odd, "wb") as stream:
        stream.write(JPEG)
    [ref] = find("-", stdin=odd + b"\0", null=True)
    assert os.fsencode(ref.uri) == odd
    assert read_bytes(ref) == JPEG
    assert ref.name.endswith("two_lines _.jpg")


def test_a_text_list_is_relative_to_itself(tmp_path: Path) -> None:
    make(tmp_path, "data/a/x.jpg", "other/y.jpg")
    listing = tmp_path / "data" / "list.txt"
    body = f"a/x.jpg\n../other/y.jpg\n{tmp_path}/data/a/x.jpg\nnone.jpg\na\nbad\0name.jpg\n"
    listing.write_bytes(b"\xef\xbb\xbf" + body.encode())
    refs = find(listing)
    outside = str(tmp_path / "other" / "y.jpg").lstrip("/")
    assert names(refs)[:4] == ["a/x.jpg", outside, "a/x~2.jpg", "none.jpg"]
    assert [read_bytes(ref)[-5:] for ref in refs[:3]] == [b"x.jpg", b"y.jpg", b"x.jpg"]
    assert [kind(ref) for ref in refs[3:]] == ["missing", "unreadable", "missing"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path,label\nx.jpg,cat\ny.jpg,\n", ["cat", None]),
        ("path,class_index,wnid,name\nx.jpg,7,n01,cock\ny.jpg,17,n02,jay\n", ["7", "17"]),
        ("x.jpg,cat\ny.jpg,dog\n", ["cat", "dog"]),
        ("x.jpg\ny.jpg\n", [None, None]),
        ("\ufeffid,label,path\n1,cat,x.jpg\n2,dog,y.jpg\n", ["cat", "dog"]),
        ('path,who,class\n"x.jpg",me,"tabby, or tiger"\ny.jpg,you,dog\n', ["tabby, or tiger", "dog"]),
        ("path,species\r\nx.jpg,cat\r\n\r\ny.jpg,dog\r\n", ["cat", "dog"]),
    ],
)
def test_csv_lists(tmp_path: Path, text: str, labels: list[str | None]) -> None:
    make(tmp_path, "x.jpg", "y.jpg")
    (tmp_path / "l.csv").write_text(text, encoding="utf-8")
    refs = find(tmp_path / "l.csv")
    assert [(ref.name, ref.label) for ref in refs] == list(zip(["x.jpg", "y.jpg"], labels, strict=True))
    assert all(read_bytes(ref) == JPEG + ref.name.encode() for ref in refs)


def test_a_csv_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("x.jpg," + "y" * 200_000)
    with pytest.raises(CnnvizError, match="is not CSV"):
        find(tmp_path / "l.csv")


def test_file_urls(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg")
    for form in ("", "/a", "/a/x.jpg", "/**/*.jpg"):
        assert find(f"file://{tmp_path}{form}") == find(f"{tmp_path}{form}")


def test_zip_urls(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        for name in ("a/x.jpg", "b.jpg", "notes.md"):
            archive.writestr(name, JPEG + name.encode())
    tail = f"::{tmp_path}/f.zip"
    whole = find(f"zip://{tail}")
    assert names(whole) == ["a/x.jpg", "b.jpg", "notes.md"]
    assert whole[0].uri == f"zip://a/x.jpg{tail}"
    assert [ref.folder for ref in whole[:2]] == ["a", None]
    assert [read_bytes(ref) for ref in whole] == [JPEG + ref.name.encode() for ref in whole]
    assert names(find(f"zip://*.jpg{tail}")) == ["b.jpg"]
    assert names(find(f"zip://**/*.jpg{tail}")) == ["a/x.jpg", "b.jpg"]
    assert find(f"zip://a/x.jpg{tail}") == [ImageRef(f"zip://a/x.jpg{tail}", "x.jpg", 0, None, "a", True)]
    for wrong in (f"zip://none.jpg{tail}", f"zip://*.png{tail}", "zip://*.jpg::none.zip"):
        with pytest.raises(CnnvizError):
            find(wrong)
    assert kind(ImageRef(f"zip://none.jpg{tail}", "none.jpg", 0)) == "missing"


def test_memory_urls() -> None:
    fs = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("z.jpg", "sub/y.jpg", "sub/deep/x.png"):
        fs.pipe_file(f"/sources/{name}", JPEG + name.encode())
    refs = find("memory://sources")
    assert names(refs) == ["sub/deep/x.png", "sub/y.jpg", "z.jpg"]
    assert [read_bytes(ref) for ref in refs] == [JPEG + ref.name.encode() for ref in refs]
    assert find(refs[1].uri)[0].name == "y.jpg"
    assert names(find("memory://sources/**/*.jpg")) == ["sub/y.jpg", "z.jpg"]
    fs.rm("/sources", recursive=True)
    assert kind(refs[0]) == "missing"


def test_unknown_protocols_are_said() -> None:
    with pytest.raises(CnnvizError, match="nosuch"):
        find_images(["nosuch://bucket/x.jpg"])
    assert kind(ImageRef("nosuch://bucket/x.jpg", "x.jpg", 0)) == "unreadable"


def test_paths_do_not_import_fsspec(tmp_path: Path) -> None:
    make(tmp_path, "x.jpg")
    code = (
        "import sys\nfrom cnnviz.io.sources import find_images, read_bytes\n"
        f"assert [len(read_bytes(r)) for r in find_images([{str(tmp_path)!r}])]\n"
        "print('fsspec' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_only_the_head_of_a_file_that_is_no_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no image" * 10_000)
    (tmp_path / "x.jpg").write_bytes(JPEG * 1000)
    film, photo = find(tmp_path)
    assert read_bytes(film) == (b"no image" * 512)
    assert read_bytes(photo) == JPEG * 1000
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10_000)
    assert kind(photo) == "too-large"


def test_deep_folders_need_no_deep_stack(tmp_path: Path) -> None:
    """300 levels with room for 150 more calls: paths may be deeper than Python's recursion limit."""
    deep = tmp_path.joinpath(*["d"] * 300)
    make(deep, "x.jpg")
    limit, depth = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(depth + 150)
    try:
        refs = find(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert [ref.uri for ref in refs] == [str(deep / "x.jpg")]
    assert names(refs) == ["d/" * 300 + "x.jpg"]


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    numbers = [11, 2, 30, 1, 100, 3]
    make(tmp_path, *(f"{n}.jpg" for n in numbers))
    expected = ["1.jpg", "100.jpg", "11.jpg", "2.jpg", "3.jpg", "30.jpg"]
    assert names(find(tmp_path)) == expected
    assert names(find(tmp_path / "*.jpg")) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_named_but_is_not_a_file(tmp_path: Path) -> None:
    """Named by hand or in a list: nothing is waited for, and each has a reason."""
    make(tmp_path, "folder.jpg/x.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "list.txt").write_text("folder.jpg\npipe.jpg\n/dev/zero\n")
    assert [kind(ref) for ref in find(tmp_path / "list.txt")] == ["unreadable"] * 3
    for name in (tmp_path / "pipe.jpg", "/dev/zero", "/dev/null"):
        with pytest.raises(ImageError, match="not a regular file"):
            read_bytes(find(name)[0])
    assert names(find(tmp_path / "folder.jpg")) == ["x.jpg"]


def test_a_file_that_vanishes_after_it_was_listed(tmp_path: Path) -> None:
    refs = find(make(tmp_path, "a/x.jpg", "b.jpg"))
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "a" / "x.jpg").unlink()
    (tmp_path / "a").rmdir()
    (tmp_path / "a").write_bytes(b"a file where the folder was")
    assert [kind(ref) for ref in refs] == ["missing", "missing"]


def archive(path: Path, change: dict[bytes, tuple[int, int]]) -> Path:
    """A ZIP with one byte of each header changed: by the header's mark, where and to what."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as files:
        files.writestr("x.jpg", JPEG)
    data = bytearray(stream.getvalue())
    for mark, (at, value) in change.items():
        data[data.index(mark) + at] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"PK\3\4": (6, 1), b"PK\1\2": (8, 1)}, "encrypted"),
        ({b"PK\3\4": (8, 99), b"PK\1\2": (10, 99)}, "compression method is not supported"),
        ({JPEG: (9, 0)}, "Bad CRC-32"),
    ],
)
def test_members_of_archives_that_cannot_be_read(
    tmp_path: Path, change: dict[bytes, tuple[int, int]], reason: str
) -> None:
    (ref,) = find(f"zip://x.jpg::{archive(tmp_path / 'a.zip', change)}")
    with pytest.raises(ImageError, match=reason) as caught:
        read_bytes(ref)
    assert caught.value.kind == "unreadable"


def test_a_long_name_is_cut_where_it_is_said() -> None:
    with pytest.raises(CnnvizError) as caught:
        find("x" * 100_000)
    assert len(caught.value.message) < 300


def test_an_error_of_who_reads_is_none_of_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="of who reads"), open_file(ImageRef(str(tmp_path / "a.png"), "a.png", 0)):
        raise ValueError("of who reads")
    with pytest.raises(ImageError, match="NUL"), open_file(ImageRef("a\0.png", "a.png", 0)):
        pass
