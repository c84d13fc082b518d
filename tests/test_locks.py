"""One run at a time writes a folder, whoever died there before; what killed writers left is swept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.io import locks
from cnnviz.io.locks import FolderLock, Owner
from cnnviz.io.store import LOCK, Store

posix = pytest.mark.skipif(os.name == "nt", reason="signals and locks of POSIX")


def lock(root: Path | str, command: str = "gradcam") -> FolderLock:
    return FolderLock(Store(str(root)), command)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks, as some that are mounted from elsewhere."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_two_runs_cannot_write_one_folder(tmp_path: Path) -> None:
    first = lock(tmp_path, "occlusion")
    with pytest.raises(CnnvizError, match=f"another cnnviz run .*occlusion, process {os.getpid()} on ") as caught:
        lock(tmp_path)
    assert caught.value.exit_code == 2
    assert "--out" in caught.value.hint
    first.release()
    first.release()
    assert list(tmp_path.iterdir()) == []
    lock(tmp_path).release()


@posix
def test_the_lock_of_a_killed_process_is_taken_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom cnnviz.io.store import Store\nfrom cnnviz.io.locks import FolderLock\n"
        "lock = FolderLock(Store(sys.argv[1]), 'classmap')\nprint('locked', flush=True)\ntime.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"locked\n"
    with pytest.raises(CnnvizError, match=f"classmap, process {child.pid} on "):
        lock(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == child.pid
    lock(tmp_path).release()


@posix
@pytest.mark.parametrize("space", ["pid:[1]", "pid:[2]"])
def test_a_container_with_the_same_process_id_is_another_process(tmp_path: Path, space: str) -> None:
    """The number in the file is that of a living process, this one; the process that wrote it is dead all the same."""
    (tmp_path / LOCK).write_bytes(replace(Owner.here("gradcam"), token="other", space=space).to_json())
    lock(tmp_path).release()


def test_another_machine_is_believed_for_a_minute(tmp_path: Path) -> None:
    elsewhere = replace(Owner.here("gradcam"), token="other", host="far", boot="another kernel")
    (tmp_path / LOCK).write_bytes(elsewhere.to_json())
    with pytest.raises(CnnvizError, match="on far") as caught:
        lock(tmp_path)
    assert "60 seconds" in caught.value.hint
    old = json.loads(elsewhere.to_json()) | {"beat": time.time() - 61}
    (tmp_path / LOCK).write_text(json.dumps(old))
    with pytest.raises(CnnvizError, match="on far"):
        lock(tmp_path)  # the file itself is a sign of life
    os.utime(tmp_path / LOCK, (time.time() - 61,) * 2)
    lock(tmp_path).release()


@posix
@pytest.mark.usefixtures("no_locks")
def test_without_locks_of_the_system_the_process_is_asked_for(tmp_path: Path) -> None:
    mine = lock(tmp_path)
    assert not mine.by_system
    with pytest.raises(CnnvizError, match="another cnnviz run"):
        lock(tmp_path)
    mine.release()
    if not os.path.isdir("/proc/self"):
        return
    for changes in ({"began": "1"}, {"pid": 2**22 + 1}):  # the same number, used again; a number of nobody
        (tmp_path / LOCK).write_bytes(replace(Owner.here("gradcam"), token="dead", **changes).to_json())
        lock(tmp_path).release()
    (tmp_path / LOCK).write_bytes(replace(Owner.here("gradcam"), token="x", space="pid:[1]", began="1").to_json())
    with pytest.raises(CnnvizError, match="another cnnviz run"):
        lock(tmp_path)  # a process of another container cannot be asked for


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"token": 1}', b"[" * 100_000, b"\xff" * 9])
def test_a_lock_file_that_says_nothing_is_free(tmp_path: Path, text: bytes) -> None:
    (tmp_path / LOCK).write_bytes(text)
    lock(tmp_path).release()


@posix
def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).symlink_to(victim)
    with pytest.raises(CnnvizError):
        lock(tmp_path / "out")
    assert victim.read_bytes() == b"mine"


@pytest.fixture
def remote() -> Iterator[str]:
    fs = pytest.importorskip("fsspec").filesystem("memory")
    yield "memory://locks/out"
    if fs.exists("/locks"):
        fs.rm("/locks", recursive=True)


def test_behind_a_url_the_last_to_write_has_the_folder(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    first = lock(remote)
    with pytest.raises(CnnvizError, match="another cnnviz run"):
        lock(remote)
    first.check()
    stolen = replace(first.owner, token="other", host="far", command="lrp")
    first.store.write(LOCK, stolen.to_json())
    until = time.monotonic() + 10
    while first._lost is None and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(CnnvizError, match=r"taken over by another run \(lrp, process \d+ on far\)"):
        first.check()
    first.release()
    assert first.store.exists(LOCK)  # it is the other's


def test_an_owner_behind_a_url_says_that_it_lives(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    first = lock(remote)
    said = Owner.read(first.store.read(LOCK))
    until = time.monotonic() + 10
    while Owner.read(first.store.read(LOCK)) == said and time.monotonic() < until:
        time.sleep(0.01)
    again = Owner.read(first.store.read(LOCK))
    assert said is not None
    assert again is not None
    assert again.beat > said.beat
    first.release()
    assert not first.store.exists(LOCK)


def test_temporaries_are_swept_and_nothing_else(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    outside = tmp_path / "outside"
    outside.mkdir()
    left = [".cnnviz-tmp-0123456789abcdef", "images/a/.cnnviz-tmp-ff", "units/.cnnviz-tmp-00"]
    kept = ["images/a/x.png", ".cnnviz-notes", "images/.cnnviz-tmp-notes.txt", "cnnviz-tmp-00"]
    for name in (*left, *kept):
        store.write(name, b"x")
    (outside / ".cnnviz-tmp-00").write_bytes(b"")
    (tmp_path / "out" / "link").symlink_to(outside)
    assert store.sweep() == 3
    assert not any((tmp_path / "out" / name).exists() for name in left)
    assert all((tmp_path / "out" / name).exists() for name in kept)
    assert (outside / ".cnnviz-tmp-00").exists()


def test_a_name_that_is_taken_costs_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if process 1 of the container before had left it there."""
    store = Store(str(tmp_path))
    (tmp_path / ".cnnviz-tmp-00").write_bytes(b"of somebody")
    names = iter(["00", "00", "01"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(names))
    store.write("x.png", b"new")
    assert (tmp_path / "x.png").read_bytes() == b"new"
    assert (tmp_path / ".cnnviz-tmp-00").read_bytes() == b"of somebody"


def test_the_folder_is_not_made_a_second_time(tmp_path: Path) -> None:
    """Deleted, moved, or another in its place: said, instead of pictures without records."""
    out = tmp_path / "out"
    for harm in ("delete", "move", "replace"):
        store = Store(str(out))
        log = store.open_lines("records.jsonl")
        log.append("{}")
        store.write("images/x.png", b"x")
        shutil.rmtree(out) if harm == "delete" else os.rename(out, tmp_path / f"moved-{harm}")
        if harm == "replace":
            out.mkdir()
        with pytest.raises(CnnvizError, match="deleted or moved") as caught:
            store.write("images/y.png", b"y")
        assert type(caught.value) is CnnvizError
        with pytest.raises(CnnvizError, match="deleted or moved"):
            log.append("{}")
        log.close()
        assert not (out / "images").exists()
        shutil.rmtree(out, ignore_errors=True)


def test_lines_that_another_program_wrote_are_noticed(tmp_path: Path) -> None:
    with Store(str(tmp_path)).open_lines("records.jsonl") as log:
        log.append('{"path": "a"}')
        with (tmp_path / "records.jsonl").open("ab") as stream:
            stream.write(b"{}\n")
        with pytest.raises(CnnvizError, match="changed by another program"):
            log.append('{"path": "b"}')


def test_a_run_that_came_to_nothing_leaves_no_folder(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a" / "b" / "out"))
    store.withdraw()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    store = Store(str(tmp_path / "a" / "out"))
    store.write("x", b"")
    store.withdraw()
    assert (tmp_path / "a" / "out" / "x").exists()
