"""Writing: right pixels, same bytes, whole files or none, nothing outside the folder, a full disk said."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.line_log import LineLog
from cnnviz.io.store import Store


def picture(height: int = 30, width: int = 50) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / (width - 1), 255 * y / (height - 1), 60 + x + y]
    pixels: NDArray[np.uint8] = np.rint(np.stack(planes, axis=2)).clip(0, 255).astype(np.uint8)
    return pixels


def opened(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*")]


def raising(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_png_gives_the_pixels_back(level: int) -> None:
    fmt = ImageFormat("png", level)
    np.testing.assert_array_equal(opened(encode(picture(), fmt)), picture())
    grey = np.ascontiguousarray(picture()[:, :, 0])
    data = encode(grey, fmt)
    assert Image.open(io.BytesIO(data)).mode == "L"
    np.testing.assert_array_equal(opened(data), grey)
    np.testing.assert_array_equal(opened(encode(picture()[::2, ::-1], fmt)), picture()[::2, ::-1])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (30, 50), (700, 900)])
def test_png_of_any_number_of_channels(size: tuple[int, int], channels: int) -> None:
    """Also of several strips, read back by two other libraries."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*size, channels), dtype=np.uint8)
    image[: size[0] // 2] = 7
    data = encode(image if channels > 1 else image[..., 0], ImageFormat())
    with Image.open(io.BytesIO(data)) as opened_by_pillow:
        opened_by_pillow.verify()  # the sums of all chunks
    back = Image.open(io.BytesIO(data))
    assert back.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    np.testing.assert_array_equal(np.asarray(back).reshape(image.shape), image)
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert by_opencv is not None
    assert by_opencv.shape[:2] == size


def test_png_without_igzip_has_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = encode(picture(), ImageFormat())
    monkeypatch.setattr("cnnviz.io.encode.igzip", lambda: None)
    slow = encode(picture(), ImageFormat())
    np.testing.assert_array_equal(opened(slow), opened(fast))
    assert slow != fast


def test_png_level_one_uses_the_filter_sub_and_higher_levels_are_smaller() -> None:
    import zlib

    data = encode(picture(), ImageFormat())
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    rows = zlib.decompress(data[at + 4 : at + 4 + size])
    assert {rows[row * (1 + 3 * 50)] for row in range(30)} == {1}  # PNG's number of SUB
    sizes = [len(encode(picture(), ImageFormat("png", level))) for level in (0, 1, 9)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_near_and_not_blue_for_red(suffix: str) -> None:
    data = encode(picture(), ImageFormat(suffix))
    assert Image.open(io.BytesIO(data)).format == {"jpg": "JPEG", "webp": "WEBP"}[suffix]
    assert np.abs(opened(data).astype(int) - picture()).mean() < 4
    grey = np.ascontiguousarray(picture()[:, :, 0])
    again = np.asarray(Image.open(io.BytesIO(encode(grey, ImageFormat(suffix)))).convert("L"))
    assert np.abs(again.astype(int) - grey).mean() < 4


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_bytes_depend_on_the_pixels_alone(suffix: str) -> None:
    fmt = ImageFormat(suffix)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: encode(picture(), fmt), range(16)))
    assert len(set(made)) == 1


def test_what_cannot_be_encoded_is_said() -> None:
    with pytest.raises(ImageError) as caught:
        encode(np.zeros((1, 20_000, 3), np.uint8), ImageFormat("webp"))
    assert caught.value.kind == "too-large"
    with pytest.raises(ValueError, match="float32"):
        encode(np.zeros((2, 2), np.float32), ImageFormat())
    for wrong in ({"suffix": "gif"}, {"png_level": 10}):
        with pytest.raises(CnnvizError) as said:
            ImageFormat(**wrong)
        assert said.value.exit_code == 2
        assert said.value.hint


def test_npz(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "raw": np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32),
        "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    }
    data = encode_npz(arrays)
    assert data == encode_npz(arrays)
    with np.load(io.BytesIO(data)) as back:
        assert set(back.files) == set(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            np.testing.assert_array_equal(back[name], array)
    command = [sys.executable, "-c", "import numpy,sys,hashlib;from cnnviz.io.encode import encode_npz;"]
    command[-1] += "print(hashlib.md5(encode_npz({'a': numpy.arange(4.0)})).hexdigest())"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == hashlib.md5(encode_npz({"a": np.arange(4.0)})).hexdigest()


def test_a_store_reads_what_it_wrote(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "new" / "out"))
    assert store.is_empty()
    assert list((tmp_path / "new" / "out").iterdir()) == []  # the probe is gone
    store.write("images/a/x.png", b"one")
    store.write("images/a/x.png", b"two")
    assert (tmp_path / "new/out/images/a/x.png").read_bytes() == b"two"
    assert store.read("images/a/x.png") == b"two"
    assert store.exists("images/a/x.png")
    assert not store.exists("images/a")
    assert not store.is_empty()
    store.remove("images/a/x.png")
    store.remove("images/a/x.png")
    assert store.read("images/a/x.png") is None
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("x", b"")
    (tmp_path / "usual").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


BAD_NAMES = ["../x", "/etc/x", "a/../../x", "a/./x", "", "a//x", ".", "..", "a\\..\\x", "a\0b", "link/x"]
BAD_NAMES += ["link/a/x"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = Store(str(tmp_path / "out"))
    (tmp_path / "out" / "link").symlink_to(outside)
    attempts: list[Callable[[str], object]] = [lambda n: store.write(n, b"x"), store.open_lines, store.remove]
    for attempt in attempts:
        with pytest.raises(CnnvizError, match="does not lie within"):
            attempt(name)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "outside"]


def test_links_at_the_end_of_a_name_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    store = Store(str(tmp_path / "out"))
    (tmp_path / "out" / "x.png").symlink_to(victim)
    (tmp_path / "out" / "records.jsonl").symlink_to(victim)
    store.write("x.png", b"new")
    with pytest.raises(ImageError):
        store.open_lines("records.jsonl")
    assert victim.read_bytes() == b"mine"
    assert store.read("x.png") == b"new"


def test_a_linked_root_and_links_within_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "inner").symlink_to(tmp_path / "real" / "sub")
    Store(str(tmp_path / "root")).write("inner/x", b"1")
    assert (tmp_path / "real" / "sub" / "x").read_bytes() == b"1"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    roots = [str(tmp_path / "file"), str(tmp_path / "file" / "below")]
    if os.path.isdir("/proc/self"):
        roots.append("/proc/self/cnnviz")
    for root in roots:
        with pytest.raises(CnnvizError, match="cannot write to") as caught:
            Store(root)
        assert caught.value.exit_code == 2
        assert not isinstance(caught.value, ImageError)
    monkeypatch.setattr(os, "open", raising(errno.EROFS))
    with pytest.raises(CnnvizError, match="Read-only") as caught:
        Store(str(tmp_path / "out"))
    assert caught.value.exit_code == 2


def test_a_name_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a", b"")
    (tmp_path / "folder").mkdir()
    for name in ("a/b.png", "folder", "sub/" + "x" * 300):
        with pytest.raises(ImageError) as caught:
            store.write(name, b"x")
        assert caught.value.kind == "unwritable"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    store = Store(str(tmp_path))
    monkeypatch.setattr(os, call, raising(number))
    with pytest.raises(CnnvizError, match="disk is full") as caught:
        store.write("x.png", b"data")
    assert not isinstance(caught.value, ImageError)
    assert "--resume" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full")
def test_a_disk_that_fills_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes the place of the file beside: the kernel itself says that there is no space."""
    store = Store(str(tmp_path))
    real = os.open
    made: list[str] = []

    def on_full_disk(path: str, flags: int, mode: int = 0o777) -> int:
        made.append(path)
        os.close(real(path, flags, mode))
        return real("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", on_full_disk)
    with pytest.raises(CnnvizError, match="disk is full"):
        store.write("images/x.png", b"data" * 100_000)

    def written_in_pieces() -> None:
        with store.stream("report.json") as stream:
            for _ in range(10):
                stream.write(b"x")

    with pytest.raises(CnnvizError, match="disk is full"):
        written_in_pieces()
    assert len(made) >= 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE as on Linux")
def test_a_file_size_limit_of_the_system_is_no_traceback(tmp_path: Path) -> None:
    """A real failure in the middle of a file: the kernel refuses the bytes beyond 4096."""
    code = (
        "import resource, signal, sys\nfrom cnnviz.io.store import Store\n"
        "from cnnviz.errors import CnnvizError\n"
        "store = Store(sys.argv[1])\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = store.open_lines('r.jsonl')\nlog.append('a' * 3000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "for act in (lambda: store.write('big', b'x' * 100_000), lambda: log.append('b' * 3000)):\n"
        "    try:\n        act()\n    except CnnvizError as error:\n        print(type(error).__name__)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["ImageError", "ImageError"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
    assert (tmp_path / "r.jsonl").read_text() == "a" * 3000 + "\n"  # no half line


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("report.json", b"old")

    def interrupted(error: BaseException) -> None:
        with store.stream("report.json") as stream:
            stream.write(b"half of the new")
            raise error

    for error in (KeyboardInterrupt(), ValueError("x"), FileNotFoundError("of the caller")):
        with pytest.raises(type(error)):
            interrupted(error)
    assert store.read("report.json") == b"old"
    assert leftovers(tmp_path) == []
    with store.stream("report.json") as stream:
        stream.write(b"new")
        assert store.read("report.json") == b"old"
    assert store.read("report.json") == b"new"


def test_threads_write_whole_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    bodies = [bytes([n]) * 50_000 for n in range(40)]

    def work(n: int) -> None:
        store.write(f"deep/{n % 5}/own{n}", bodies[n])
        store.write("deep/shared", bodies[n])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert all(store.read(f"deep/{n % 5}/own{n}") == bodies[n] for n in range(40))
    assert store.read("deep/shared") in bodies
    assert leftovers(tmp_path) == []


def test_a_remote_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineLog, "PART_LINES", 2)
    fs = pytest.importorskip("fsspec").filesystem("memory")
    if fs.exists("/writer"):
        fs.rm("/writer", recursive=True)
    store = Store("memory://writer/out")
    assert store.is_empty()
    store.write("images/x.png", b"one")
    assert fs.cat_file("/writer/out/images/x.png") == b"one"
    assert store.read("images/x.png") == b"one"
    assert store.read("images/none") is None
    assert store.exists("images/x.png")
    assert not store.exists("images")
    assert not store.is_empty()
    with pytest.raises(CnnvizError, match="does not lie within"):
        store.write("../x", b"")
    with store.open_lines("r.jsonl") as log:
        assert [log.append(text) for text in ("one", "two", "three")] == [0, 4, 8]
        assert fs.cat_file("/writer/out/r.jsonl.parts/0000000000000000") == b"one\ntwo\n"
        assert log.read(4) == "two"
    with store.open_lines("r.jsonl") as log:
        assert log.append("four") == 14
    assert store.read("r.jsonl") == b"one\ntwo\nthree\nfour\n"
    with store.stream("report.json") as stream:
        stream.write(b"{}")
    assert store.read("report.json") == b"{}"
    store.remove("images/x.png")
    store.remove("images/x.png")
    assert not store.exists("images/x.png")


def test_a_remote_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    monkeypatch.setattr("cnnviz.io.faults.BACKOFF_SECONDS", 0.0)
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("x", b"")
    for root in (f"zip://out::{tmp_path}/f.zip", "nosuch://bucket/out"):
        with pytest.raises(CnnvizError) as caught:
            Store(root)
        assert caught.value.exit_code == 2
        assert not isinstance(caught.value, ImageError)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    Store(f"file://{tmp_path}/out").write("x", b"1")
    assert (tmp_path / "out" / "x").read_bytes() == b"1"
