"""Archives as inputs: order, names, labels, what is passed over, what is broken, compressed and behind a URL; and that
a run over an archive writes what a run over its files writes."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io import archives, faults, patience, spool, web
from cnnviz.io.annotation_formats import load_truth
from cnnviz.io.digests import is_unchanged
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, open_file, read_bytes
from tests.support import tiny_model
from tests.support.pictures import photograph

MODEL = ["-m", f"{tiny_model.__file__}:make", "--input-size", "32", "--resize", "32", "-b", "1", "-j", "2"]


def picture(index: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photograph(index, (56, 48))).save(stream, "PNG")
    return stream.getvalue()


PICTURES = {f"{'cat' if index % 2 else 'dog'}/{index}.png": picture(index) for index in range(5)}


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def names(*inputs: object, **options: Any) -> list[str]:
    return [ref.name for ref in find_images([str(text) for text in inputs], SourceOptions(**options))]


def read(*inputs: object) -> list[bytes | str]:
    """The bytes of each image, or the kind of its error."""
    found: list[bytes | str] = []
    for ref in find_images([str(text) for text in inputs]):
        try:
            found.append(read_bytes(ref))
        except ImageError as error:
            found.append(error.kind)
    return found


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR", ".zip"])
def test_images_in_the_order_of_the_archive(suffix: str, tmp_path: Path) -> None:
    files = dict(reversed(PICTURES.items()))
    path = tmp_path / f"shard-000{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("dog/", b"")
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        kind = suffix.lower().rpartition(".")[2].replace("tgz", "gz").replace("tar", "")
        path.write_bytes(tar(files, f"w:{kind}"))
    refs = list(find_images([str(path)]))
    assert [ref.name for ref in refs] == [f"shard-000/{name}" for name in files]
    assert [ref.folder for ref in refs] == [name.split("/")[0] for name in files]
    assert [read_bytes(ref) for ref in refs] == list(files.values())
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_bytes, refs * 20)) == list(files.values()) * 20
    assert {ref.explicit for ref in refs} == {False}
    assert names(path, limit=2) == [f"shard-000/{name}" for name in list(files)[:2]]


def test_what_is_no_file_is_passed_over_and_names_stay_within(tmp_path: Path) -> None:
    path = tmp_path / "odd.tar"
    data = PICTURES["dog/0.png"]
    with tarfile.open(path, "w") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))

        add("./a/one.png")
        add("./a", tarfile.DIRTYPE)
        add("a/.hidden.png")
        add(".git/x.png")
        add("a/._one.png")
        add("../../etc/two.png")
        add("/abs/three.png")
        add("link.png", tarfile.SYMTYPE, "/etc/passwd")
        add("pipe.png", tarfile.FIFOTYPE)
        add("second.png", tarfile.LNKTYPE, "./a/one.png")
        add("outside.png", tarfile.LNKTYPE, "/etc/passwd")
        add("a/one.png")  # again: the first counts
        add("50% of::all.png")
        add("caf\udce9.png")
    assert names(path) == [
        "odd/a/one.png", "odd/etc/two.png", "odd/abs/three.png", "odd/link.png", "odd/second.png", "odd/outside.png",
        "odd/50% of::all.png", "odd/caf_.png",
    ]  # fmt: skip
    assert read(path) == [data] * 3 + ["unreadable", data, "unreadable", data, data]
    link = list(find_images([str(path)]))[3]
    with pytest.raises(ImageError, match="the archive has a link to '/etc/passwd' here, and not the file"):
        read_bytes(link)
    assert sorted(os.listdir(tmp_path)) == ["odd.tar"]
    unusual = list(find_images([str(path)]))[6]
    assert unusual.uri == f"tar://50%25 of%3A%3Aall.png::{path}"


@pytest.mark.parametrize("at", ["header", "data", "flipped", "no end", "joined"])
def test_an_archive_that_is_broken_is_read_as_far_as_it_goes(at: str, tmp_path: Path) -> None:
    whole = tar(PICTURES)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        third = archive.getmembers()[2]
        end = max(info.offset_data + info.size for info in archive.getmembers())
    path = tmp_path / "x.tar"
    if at == "header":
        whole = whole[: third.offset + 100]
    elif at == "data":
        whole = whole[: third.offset_data + 100]
    elif at == "flipped":
        whole = whole[: third.offset] + b"\xff" * 512 + whole[third.offset + 512 :]
    elif at == "joined":
        whole += tar({"more.png": PICTURES["dog/0.png"]})
    else:
        whole = whole[: -(-end // 512) * 512]
    path.write_bytes(whole)
    there = {"header": 2, "data": 2, "flipped": 2, "no end": 5, "joined": 5}[at]
    found = read(path)
    cut = ["unreadable"] if at == "data" else []
    assert found == [*list(PICTURES.values())[:there], *cut, "unreadable"]
    *_, last = find_images([str(path)])
    assert last.name == "x.tar"
    with pytest.raises(ImageError, match=f"the archive is broken after {there + len(cut)} files: "), open_file(last):
        pass


def test_an_archive_is_known_to_be_broken_when_others_were_read_meanwhile(tmp_path: Path) -> None:
    whole = tar(PICTURES)
    (tmp_path / "broken.tar").write_bytes(whole[: len(whole) // 2])
    for index in range(archives.OPEN):
        (tmp_path / f"{index}.tar").write_bytes(tar({"a.png": PICTURES["dog/0.png"]}))
    found = []
    for ref in find_images([str(tmp_path / "broken.tar")]):
        found.append(ref.name)
        for index in range(archives.OPEN):
            archives.read_member(f"tar://a.png::{tmp_path / f'{index}.tar'}").close()
    assert found[-1] == "broken.tar"


def test_names_that_look_as_others_are_written(tmp_path: Path) -> None:
    files = {"a%20b.png": picture(1), "a%2520b.png": picture(2), "a%3A%3Ab.png": picture(3), "a::b.png": picture(4)}
    path = tmp_path / "x.tar"
    path.write_bytes(tar(files))
    assert read(path) == list(files.values())
    assert read(f"tar://a%20b.png::{path}") == [picture(1)], "as somebody types it"


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_what_is_no_archive_is_a_row(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no archive" * 100)
    (tmp_path / f"empty-{name}").write_bytes(b"")
    assert read(tmp_path / name, tmp_path / f"empty-{name}") == ["unreadable"] * 2
    half = gzip.compress(tar(PICTURES))
    (tmp_path / "half.tar.gz").write_bytes(half[: len(half) // 2])
    found = read(tmp_path / "half.tar.gz")
    assert found[0] == PICTURES["dog/0.png"]
    assert found[-1] == "unreadable"


def test_ranges_and_patterns_name_archives_and_folders_do_not(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"s-{index:03d}.tar").write_bytes(tar({f"{index}.png": PICTURES["dog/0.png"]}))
    expected = [f"s-{index:03d}/{index}.png" for index in range(3)]
    assert names(tmp_path / "s-{000..002}.tar") == expected
    assert names(tmp_path / "s-*.tar") == expected
    assert archives.expand("a{8..10}/{0..1}.tgz") == [f"a{n}/{m}.tgz" for n in (8, 9, 10) for m in (0, 1)]
    assert archives.expand("{1..2}.png") == ["{1..2}.png"]
    with pytest.raises(CnnvizError, match="is no range"):
        names("s-{3..1}.tar")
    with pytest.raises(CnnvizError, match=r"s-003\.tar' does not exist"):
        names(tmp_path / "s-{000..003}.tar")
    assert names(tmp_path) == ["s-000.tar", "s-001.tar", "s-002.tar"]  # files that are no images
    (tmp_path / "list.csv").write_text("path,label\ns-001.tar,cat\n")
    assert [(ref.name, ref.label) for ref in find_images([str(tmp_path / "list.csv")])] == [("s-001/1.png", "cat")]
    (tmp_path / "list.txt").write_text("s-001.tar\ns-000.tar\n")
    assert names(tmp_path / "list.txt") == [expected[1], expected[0]]
    # Two archives of one name.
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "s-000.tar").write_bytes((tmp_path / "s-000.tar").read_bytes())
    assert names(tmp_path / "s-000.tar", tmp_path / "t" / "s-000.tar") == [expected[0], "s-000/0~2.png"]


def test_few_archives_are_open_at_once_and_each_image_is_found_again(tmp_path: Path) -> None:
    for index in range(3 * archives.OPEN):
        (tmp_path / f"{index:02d}.tar.gz").write_bytes(tar({"x.png": bytes([index]) * 5000}, "w:gz"))
    refs = list(find_images([str(tmp_path / "*.tar.gz")]))
    assert len(archives._archives) <= archives.OPEN
    for index, ref in enumerate(refs):
        with open_file(ref) as stream:
            assert stream.read(1) == bytes([index])
    # A new archive under the name of one that is open.
    (tmp_path / "11.tar.gz").write_bytes(tar({"x.png": b"other"}, "w:gz"))
    assert read_bytes(refs[11]) == b"other"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serves ``files``; the first ``cuts`` answers are cut off in the middle."""
    monkeypatch.setattr(faults, "BACKOFF_SECONDS", 0.0)

    class Handler(BaseHTTPRequestHandler):
        files: ClassVar[dict[str, bytes]] = {}
        cuts = 0
        asked = 0
        ranges = False
        sent = 0

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            kind = type(self)
            kind.asked += 1
            data = self.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            start = self.headers.get("Range", "")
            if kind.ranges and start:
                data = data[int(start.removeprefix("bytes=").rstrip("-")) :]
            self.send_response(206 if kind.ranges and start else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if kind.cuts:
                kind.cuts -= 1
                data = data[: len(data) // 2]
            kind.sent += len(data)
            self.wfile.write(data)

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    Handler.url = f"http://127.0.0.1:{web.server_address[1]}"  # type: ignore[attr-defined]
    yield Handler
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["/s.tar", "/s.tar.gz?version=3"])
def test_an_archive_of_a_server_is_fetched_once_and_goes_on_where_it_broke_off(name: str, server: Any) -> None:
    server.files = {name: tar(PICTURES, "w:gz" if ".gz" in name else "w")}
    server.cuts = 2
    assert read(server.url + name) == list(PICTURES.values())
    assert server.asked == 3
    assert names(server.url + name) == [f"s/{each}" for each in PICTURES]
    assert server.asked == 3


@pytest.mark.parametrize("ranges", [False, True])
def test_a_server_that_breaks_off_is_asked_for_the_rest(ranges: bool, server: Any) -> None:
    server.files = {"/s.tar": tar(PICTURES)}
    server.cuts, server.ranges = 2, ranges
    assert read(f"{server.url}/s.tar") == list(PICTURES.values())
    size = len(server.files["/s.tar"])
    assert server.sent == (size if ranges else 2 * (size // 2) + size)


def test_a_server_that_is_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is taken, not waited for until there is more; and what is there already keeps the clock going."""

    class Slow(io.BytesIO):
        status = 200

        @property
        def length(self) -> int:
            return 95 - self.tell()

        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("it waits for all that it asked for")

        def read1(self, size: int | None = -1) -> bytes:
            return super().read(min(10, size or 0))

    class Counted(patience.Clock):
        received = 0

        def advance(self, received: int) -> None:
            self.received += received

    clock = Counted()
    monkeypatch.setattr(web, "open_web", lambda url, clock, start=0: Slow(bytes(range(95))))
    assert list(spool._from("http://a/s.tar", 45, clock))[:2] == [bytes(range(45, 55)), bytes(range(55, 65))]
    assert clock.received == 45


def test_an_archive_that_a_server_does_not_give_is_a_row(server: Any) -> None:
    server.files = {"/cut.tar": tar(PICTURES), "/there.tar": tar(PICTURES)}
    assert read(f"{server.url}/none.tar", f"{server.url}/there.tar") == ["missing", *PICTURES.values()]
    server.cuts = 99
    found = read(f"{server.url}/cut.tar")
    assert found[-1] == "unreadable"
    assert found[0] == PICTURES["dog/0.png"]


def test_an_archive_in_any_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    files = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(spool, "_CHUNK", 1000)
    for index in range(2):
        files.pipe(f"/shards/s-{index}.tar", tar(PICTURES))
    files.pipe("/shards/z.zip", b"")
    try:
        expected = [f"s-{index}/{name}" for index in range(2) for name in PICTURES]
        assert names("memory://shards/s-{0..1}.tar") == expected
        assert names("memory://shards/*.tar") == expected
        assert read("memory://shards/*.tar") == list(PICTURES.values()) * 2
        assert read("memory://shards/z.zip") == ["unreadable"]
        (ref, *_) = find_images(["memory://shards/s-0.tar"])
        assert not is_unchanged(ref, {"bytes": 3, "sha256": "x"})
    finally:
        files.rm("/shards", recursive=True)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_BYTES", 3 << 20)
    (tmp_path / "bomb.tar.gz").write_bytes(tar({"x.png": b"\x89PNG\r\n\x1a\n" + b"\0" * (20 << 20)}, "w:gz"))
    assert set(read(tmp_path / "bomb.tar.gz")) == {"too-large"}


def test_annotations_know_members_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(tar(PICTURES))
    boxes = {
        "images": [{"id": 1, "file_name": "3.png", "width": 48, "height": 56}],
        "categories": [{"id": 1, "name": "c"}],
    }
    boxes["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    (tmp_path / "truth.json").write_text(json.dumps(boxes))
    known = load_truth(str(tmp_path / "truth.json"))
    found = [known.truth(ref, (48, 56)) for ref in find_images([str(tmp_path / "s.tar")])]
    assert [len(truth.boxes()) if truth is not None else 0 for truth in found] == [0, 0, 0, 1, 0]


def test_a_run_over_an_archive_is_one_over_its_files(tmp_path: Path) -> None:
    """Sidecars are passed over, what is broken is a row, and --resume reads what is unchanged without a second map."""
    files = {**PICTURES, "cat/bad.png": b"\x89PNG\r\n\x1a\n broken", "cat/text.jpg": b"no picture", "cat/0.json": b"{}"}
    for name, data in files.items():
        place = tmp_path / "s" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    shard = tmp_path / "s.tar"
    shard.write_bytes(tar(dict(sorted(files.items()))))
    words = ["gradcam", *MODEL, "-c", "top:1", "-q"]
    assert main([*words, str(tmp_path / "s"), "-o", str(tmp_path / "a")]) == 3
    assert main([*words, str(shard), "-o", str(tmp_path / "b")]) == 3
    a, b = (json.loads((tmp_path / each / "report.json").read_text()) for each in "ab")
    assert a["summary"]["passed_over"] == b["summary"]["passed_over"] == 1
    for one, other in zip(a["images"], b["images"], strict=True):
        assert other["name"] == f"s/{one['name']}"
        assert other["path"] == f"tar://{one['name']}::{shard}"
        assert (one["error"] or {}).get("type") == (other["error"] or {}).get("type")
        if one["error"] is None:
            assert one["input"]["sha256"] == other["input"]["sha256"]
            assert one["predictions"] == other["predictions"]
            for left, right in zip(one["explanations"], other["explanations"], strict=True):
                assert (
                    Path(tmp_path, "a", left["files"]["overlay"]).read_bytes()
                    == Path(tmp_path, "b", right["files"]["overlay"]).read_bytes()
                )
    changed = {**files, "dog/2.png": picture(9)}
    shard.write_bytes(tar(dict(sorted(changed.items()))))
    assert main([*words, str(shard), "-o", str(tmp_path / "b"), "--resume"]) == 3
    again = json.loads((tmp_path / "b" / "report.json").read_text())
    assert again["summary"]["resumed"] == 4
    assert [r["name"] for r, old in zip(again["images"], b["images"], strict=True) if r != old] == ["s/dog/2.png"]


def test_a_member_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(tar(PICTURES))
    with pytest.raises(ImageError, match="the archive has no such file"):
        read_bytes(ImageRef(f"tar://none.png::{tmp_path}/s.tar", "x", 0))
    with pytest.raises(ImageError, match="there is no such archive"):
        read_bytes(ImageRef(f"tar://none.png::{tmp_path}/none.tar", "x", 0))
