"""An S3-compatible server that is slow, fails and breaks off: what is tried again, what becomes a row, what ends a run;
and that runs there write what runs on a disk write."""

from __future__ import annotations

import gc
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io import faults, patience, remote_folder, sender
from cnnviz.io.line_log import LineLog
from cnnviz.io.remote_folder import RemoteFolder
from cnnviz.io.sender import Sender
from cnnviz.io.sources import ImageRef, find_images, read_bytes
from cnnviz.io.store import Store
from tests.support import tiny_model
from tests.support.pictures import photograph

pytest.importorskip("moto", reason="pip install 'moto[s3]' flask flask-cors s3fs")
pytest.importorskip("s3fs")
pytest.importorskip("flask_cors")

from tests.support.object_store import BUCKET, REGION, Fault, ObjectStore, serve

MODEL = ["-m", f"{tiny_model.__file__}:make", "--input-size", "32", "--resize", "32", "-b", "1", "-j", "2"]
COUNT = 6


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    store, end = serve()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        files = store.files()
        files.call_s3("create_bucket", Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for index in range(COUNT):
            files.pipe_file(f"{BUCKET}/in/{index}.png", _picture(index))
        yield store
    end()


@pytest.fixture
def s3(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(faults, "BACKOFF_SECONDS", 0.0)
    server.faults.clear()
    server.requests.clear()
    server.most_at_once = 0
    return server


def _picture(index: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photograph(index, (56, 48))).save(stream, "PNG")
    return stream.getvalue()


def _report(s3: ObjectStore, out: str) -> Any:
    return json.loads(s3.files().cat_file(f"{BUCKET}/{out}/report.json"))


def _contents(s3: ObjectStore, out: str) -> dict[str, bytes]:
    files, root = s3.files(), f"{BUCKET}/{out}"
    return {path[len(root) + 1 :]: files.cat_file(path) for path in files.find(root)}


def _of_disk(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _told_apart(found: dict[str, bytes]) -> dict[str, Any]:
    """Without times, places, and whether a run was continued."""
    report = json.loads(found["report.json"])
    for name in ("seconds", "images_per_second", "resumed", "timed"):
        report["summary"].pop(name, None)
    for name in ("out", "resume"):
        report["options"].pop(name)
    report.pop("command_line")
    page = re.sub(r"<div><dt>(time|images per second)</dt><dd>.*?</dd></div>\n", "", found["index.html"].decode())
    page = re.sub(r" (-o|--out) [^\s<]+|file://\S+| --resume", "", page)
    rest = {name: data for name, data in found.items() if name.startswith("images/") or name == "records.jsonl"}
    return {**rest, "report.json": report, "index.html": page, "names": sorted(found)}


def _explain(s3: ObjectStore, out: str, *more: str) -> int:
    words = ["gradcam", f"s3://{BUCKET}/in", *MODEL, "--save", "overlay,raw", "-q", *more]
    return main([*words, "-o", out if out.startswith("/") else f"s3://{BUCKET}/{out}"])


@pytest.fixture(scope="module")
def whole(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run writes to a disk."""
    out = tmp_path_factory.mktemp("disk") / "out"
    assert _explain(server, str(out)) == 0
    return _told_apart(_of_disk(out))


def test_a_run_there_writes_what_it_writes_to_a_disk(s3: ObjectStore, whole: dict[str, Any]) -> None:
    assert _explain(s3, "plain") == 0
    found = _contents(s3, "plain")
    for name, data in _told_apart(found).items():
        assert data == whole[name], name
    pictures = [name for name in found if name.startswith("images/")]
    assert len(pictures) == 2 * COUNT
    for name in pictures:
        assert s3.count("PUT", f"plain/{re.escape(name)}$") == 1
        assert s3.count("HEAD", f"plain/{re.escape(name)}$") == 0
    assert s3.count("GET", r"/in/\d\.png") == COUNT
    assert s3.most_at_once > 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("500", "PUT", "images/2.png", faults.TRIES - 1),
        Fault("503", "PUT", "images/", 2),
        Fault("500", "PUT", "report.json", faults.TRIES - 1),
        Fault("503", "PUT", "records.jsonl", faults.TRIES - 1),
        Fault("slow", "PUT", "images/1.png", 1, 0.5),
        Fault("500", "GET", "in/3.png", faults.TRIES - 1),
        Fault("cut", "GET", "in/3.png", 2),
        Fault("slow", "GET", "in/0.png", 1, 0.5),
        Fault("500", "GET", "/bucket$", 1),
    ],
    ids=lambda fault: f"{fault.kind} {fault.method} {fault.path}",
)
def test_what_fails_and_may_pass_is_tried_again(fault: Fault, s3: ObjectStore, whole: dict[str, Any]) -> None:
    s3.faults.append(fault)
    assert _explain(s3, "again", "--overwrite") == 0
    assert fault.times == 0
    assert _told_apart({**_contents(s3, "again")})["records.jsonl"] == whole["records.jsonl"]


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Fault("500", "GET", "in/3.png", 99), "unreadable", "cannot be read: .*Internal Server Error"),
        (Fault("cut", "GET", "in/3.png", 99), "unreadable", "cannot be read: Response payload is not completed"),
        (Fault("403", "GET", "in/3.png", 99), "unreadable", "access is refused"),
        (
            Fault("500", "PUT", "images/3.png.*overlay", 99),
            "unwritable",
            "cannot be written to 's3://.*Internal Server",
        ),
    ],
    ids=["500", "cut", "403", "put"],
)
def test_what_goes_on_failing_is_a_row_and_mended_later(
    fault: Fault, kind: str, said: str, s3: ObjectStore, whole: dict[str, Any]
) -> None:
    s3.faults.append(fault)
    assert _explain(s3, "rows", "--overwrite") == 3
    rows = {row["name"]: row["error"] for row in _report(s3, "rows")["images"]}
    assert [name for name, error in rows.items() if error] == ["3.png"]
    assert rows["3.png"]["type"] == kind
    assert re.search(said, rows["3.png"]["message"])
    tries = s3.count(fault.method, fault.path)
    assert (1 if fault.kind == "403" else faults.TRIES) <= tries <= 20
    assert not [name for name in _contents(s3, "rows") if name.startswith("images/3.png")]
    s3.faults.clear()
    assert _explain(s3, "rows", "--resume") == 0
    found = _told_apart(_contents(s3, "rows"))
    for name in whole:
        assert found[name] == whole[name], name


def test_without_its_records_a_run_ends_and_is_continued(
    s3: ObjectStore, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server refuses the second part and what follows; what was put before is not lost."""
    monkeypatch.setattr(LineLog, "PART_LINES", 2)
    s3.faults += [
        Fault("500", "PUT", r"records\.jsonl\.parts/0*[1-9]", 99),
        Fault("500", "PUT", r"records\.jsonl$", 99),
    ]
    assert _explain(s3, "ends") == 2
    error = capsys.readouterr().err
    assert "'records.jsonl' cannot be written" in error
    assert "repeat the command with --resume" in error
    assert len([name for name in _contents(s3, "ends") if ".parts/" in name]) == 1
    s3.faults.clear()
    s3.requests.clear()
    assert _explain(s3, "ends", "--resume") == 0
    assert s3.count("PUT", "images/") == 2 * (COUNT - 2)
    found = _told_apart(_contents(s3, "ends"))
    for name in whole:
        assert found[name] == whole[name], name


@pytest.mark.parametrize("out", ["s3://nowhere/out", "s3://bucket/denied"])
def test_a_bucket_that_cannot_be_written_is_said_at_once(
    out: str, s3: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.faults.append(Fault("403", "PUT", "/denied/", 99))
    assert main(["gradcam", f"s3://{BUCKET}/in", *MODEL, "-o", out, "-q"]) == 2
    assert f"cannot write to '{out}'" in capsys.readouterr().err
    assert s3.count("GET", r"/in/") == 0


def test_shares_there_are_joined_there(s3: ObjectStore, whole: dict[str, Any]) -> None:
    for index in (1, 2):
        assert _explain(s3, "shares", "--shard", f"{index}/2") == 0
    s3.requests.clear()
    s3.faults.append(Fault("500", "PUT", "shares/images/1.png", 2))
    assert main(["merge", f"s3://{BUCKET}/shares", "-q"]) == 0
    assert s3.count("GET", r"images/") == 0  # copied by the server
    joined = {name: data for name, data in _contents(s3, "shares").items() if not name.startswith("shard-")}
    found = _told_apart(joined)
    for name in whole:
        assert found[name] == whole[name], name


def test_a_share_that_lost_a_picture(s3: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert _explain(s3, "lost", "--shard", "1/1") == 0
    (name,) = s3.files().glob(f"{BUCKET}/lost/shard-1-of-1/images/4.png*overlay.png")
    s3.files().rm_file(name)
    assert main(["merge", f"s3://{BUCKET}/lost", "-q"]) == 2
    assert "A file of a share is missing" in capsys.readouterr().err


def test_parts_of_a_killed_writer(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far it came with joining them, every line is there once."""
    monkeypatch.setattr(LineLog, "PART_LINES", 2)
    files, place = s3.files(), f"{BUCKET}/lines"
    store = Store(f"s3://{place}")
    log = store.open_lines("r.jsonl")
    for number in range(5):
        log.append(f"line {number}")
    parts = {path: files.cat_file(path) for path in files.find(f"{place}/r.jsonl.parts")}
    assert list(parts.values()) == [b"line 0\nline 1\n", b"line 2\nline 3\n"]
    assert log.read(7) == "line 1"
    store.gather("r.jsonl")  # killed here: the fifth line was nowhere but in its memory
    assert store.read("r.jsonl") == b"line 0\nline 1\nline 2\nline 3\n"
    for path, data in parts.items():  # killed before it removed them
        files.pipe_file(path, data)
    files.pipe_file(f"{place}/r.jsonl.parts/{99:016d}", b"of another time\n")
    store.gather("r.jsonl")
    assert store.read("r.jsonl") == b"line 0\nline 1\nline 2\nline 3\n"
    assert store.entries() == ["r.jsonl"]
    with store.open_lines("r.jsonl") as again:
        assert again.append("line 4") == 28
    assert (store.read("r.jsonl") or b"").decode().splitlines() == [f"line {number}" for number in range(5)]
    assert store.entries() == ["r.jsonl"]


def test_a_line_that_comes_late_takes_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("cnnviz.io.line_log.time.monotonic", lambda: now[0])
    files = pytest.importorskip("fsspec").filesystem("memory")
    log = Store("memory://late").open_lines("r.jsonl")
    log.append("one")
    assert not files.exists("/late/r.jsonl.parts")
    now[0] = LineLog.PART_SECONDS + 1
    log.append("two")
    assert files.cat_file(f"/late/r.jsonl.parts/{0:016d}") == b"one\ntwo\n"
    log.close()
    files.rm("/late", recursive=True)


def test_files_on_their_way_have_an_end_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "WAITING_BYTES", 100)
    go, held, most = threading.Event(), [0], [0]
    guard = threading.Lock()
    sending = Sender()

    def send(size: int) -> None:
        with guard:
            held[0] += size
            most[0] = max(most[0], held[0])
        go.wait(10)
        with guard:
            held[0] -= size

    def submit() -> None:
        for index in range(12):
            sending.submit(str(index), 40, lambda: send(40))

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()  # two of forty fit, the third waits
    assert held[0] == 80
    go.set()
    thread.join(10)
    sending.settle()
    assert most[0] == 80
    sending.submit("large", 1000, lambda: send(1000))  # alone
    sending.settle()
    sending.close()


def test_what_could_not_be_sent_is_told_to_who_asks(s3: ObjectStore) -> None:
    store = Store(f"s3://{BUCKET}/asks")
    s3.faults.append(Fault("500", "PUT", "bad", 99))
    with store.sending():
        store.write("good", b"1")
        store.write("bad", b"2")
        with pytest.raises(ImageError, match="'bad' cannot be written"):
            store.settle(["good", "bad"])
        store.settle(["bad"])  # once
        assert store.read("good") == b"1"
    assert store.read("bad") is None
    with pytest.raises(ImageError, match="more than 1024 bytes"):
        store.write("x/" * 600 + "x", b"")
    with pytest.raises(CnnvizError, match="does not lie within"), store.sending():
        store.write("../x", b"")


def test_half_a_file_never_takes_the_place_of_a_whole_one(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Ctrl-C comes while records are put."""
    folder = RemoteFolder(f"s3://{BUCKET}/half")
    folder.put("records.jsonl", io.BytesIO(b"whole"))
    monkeypatch.setattr(remote_folder, "_CHUNK", 2)

    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise KeyboardInterrupt
            return super().read(size)

    with pytest.raises(KeyboardInterrupt):
        folder.put("records.jsonl", Interrupted(b"other"))
    gc.collect()
    assert folder.read("records.jsonl") == b"whole"


def test_a_server_that_is_silent_is_asked_again(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "STALL_SECONDS", 0.5)
    s3.faults.append(Fault("slow", "GET", "in/1.png", 1, 3.0))
    assert read_bytes(ImageRef(f"s3://{BUCKET}/in/1.png", "1.png", 0)) == _picture(1)
    assert s3.count("GET", "in/1.png") == 2


def test_a_pattern_of_objects(s3: ObjectStore) -> None:
    refs = list(find_images([f"s3://{BUCKET}/in/[0-2].png"]))
    assert [ref.name for ref in refs] == ["0.png", "1.png", "2.png"]
    assert read_bytes(refs[1]) == _picture(1)
    with pytest.raises(ImageError, match="there is no such file"):
        read_bytes(ImageRef(f"s3://{BUCKET}/in/none.png", "none.png", 0))
