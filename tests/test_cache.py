"""The folder of the cache: whole entries or none, within its limit, beside other processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.io.cache import LIMIT, ContentCache, cache_limit, users_cache
from cnnviz.io.temporaries import temporary


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    cache = ContentCache(str(tmp_path / "c"))
    assert cache.get(key(1)) is None
    for number, content in enumerate((b"", b"x", os.urandom(10_000))):
        cache.put(key(number), content)
        assert cache.get(key(number)) == content
        assert ContentCache(str(tmp_path / "c")).get(key(number)) == content


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "another head", "longer"])
def test_a_damaged_entry_is_none_and_is_replaced(tmp_path: Path, damage: str) -> None:
    cache = ContentCache(str(tmp_path))
    cache.put(key(1), b"the content of an entry")
    [file] = _files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(
        {
            "cut": whole[:-3], "empty": b"", "changed": whole[:-1] + b"X",
            "another head": b"cnnviz-cache/0" + whole[14:], "longer": whole + b"x",
        }[damage]
    )  # fmt: skip
    assert cache.get(key(1)) is None
    assert not file.exists()
    cache.put(key(1), b"the content of an entry")
    assert file.read_bytes() == whole


def test_what_was_used_longest_ago_leaves_first(tmp_path: Path) -> None:
    cache = ContentCache(str(tmp_path), limit=10_000)
    for number in range(20):
        cache.put(key(number), bytes(900))
        os.utime(tmp_path / key(number)[:2] / key(number), (1000 + number, 1000 + number))
    assert cache.get(key(3)) is not None  # used now
    left = 0.9 * 10_000 // (900 + 80)
    assert cache.tidy() == 20 - left
    kept = [number for number in range(20) if cache.get(key(number)) is not None]
    assert kept == [3, *range(20 - int(left) + 1, 20)]
    assert sum(file.stat().st_size for file in _files(tmp_path)) <= 9_000
    assert cache.tidy() == 0


def test_leftovers_of_killed_writers_are_swept_and_live_ones_stay(tmp_path: Path) -> None:
    cache = ContentCache(str(tmp_path), limit=10)
    cache.put(key(1), b"some content")
    old, new = (tmp_path / key(1)[:2] / temporary() for _ in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert cache.tidy() == 1
    assert _files(tmp_path) == [new]


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[str] = []
    cache = ContentCache(str(tmp_path / "file" / "cache"), note=told.append)
    for number in range(3):
        cache.put(key(number), b"x")
        assert cache.get(key(number)) is None
    assert len(told) == 1
    assert "cannot be written" in told[0]
    assert cache.tidy() == 0


def _churn(folder: str, seed: int, wrong: multiprocessing.Queue[str]) -> None:
    """Writes, reads and tidies what others do too; every entry's content follows from its key."""
    cache = ContentCache(folder, limit=60_000)
    for step in range(150):
        name = key((step * (seed + 3)) % 40)
        found = cache.get(name)
        if found is not None and found != name.encode() * 50:
            wrong.put(name)
        cache.put(name, name.encode() * 50)
        if step % 25 == 0:
            cache.tidy()


def test_processes_beside_each_other_never_see_half_of_an_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    wrong = context.Queue()
    workers = [context.Process(target=_churn, args=(str(tmp_path), seed, wrong)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert wrong.empty()
    cache = ContentCache(str(tmp_path), limit=60_000)
    cache.tidy()
    assert sum(file.stat().st_size for file in _files(tmp_path)) <= 60_000
    assert any(cache.get(key(number)) == key(number).encode() * 50 for number in range(40))


def test_where_it_lies_and_how_large_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert users_cache({"CNNVIZ_CACHE_DIR": "/mnt/shared"}) == "/mnt/shared"
    assert users_cache({"CNNVIZ_CACHE_DIR": ""}) is None
    monkeypatch.setattr("sys.platform", "linux")
    assert users_cache({"XDG_CACHE_HOME": "/tmp/x"}) == "/tmp/x/cnnviz"
    assert users_cache({}) == "/home/me/.cache/cnnviz"
    assert cache_limit({}) == LIMIT
    sizes = {"500M": 500 << 20, "2G": 2 << 30, "2GB": 2 << 30, "1.5k": 1536, "100": 100, "0": 0}
    assert {text: cache_limit({"CNNVIZ_CACHE_SIZE": text}) for text in sizes} == sizes
    for text in ("much", "-1", "nan", "1e999"):
        with pytest.raises(CnnvizError, match="expected a size"):
            cache_limit({"CNNVIZ_CACHE_SIZE": text})
