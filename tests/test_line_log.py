"""A file that grows line by line: whole lines, whatever interrupts them."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store


def test_lines(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.open_lines("sub/records.jsonl") as log:
        offsets = [log.append(text) for text in ("one", "zwölf", "")]
        assert offsets == [0, 4, 11]
        before_it_is_closed = (tmp_path / "sub/records.jsonl").read_bytes()
        assert before_it_is_closed == "one\nzwölf\n\n".encode()
        assert log.read(4) == "zwölf"
        assert log.append("after reading") == 12
        with pytest.raises(ValueError, match="newline"):
            log.append("two\nlines")
    with store.open_lines("sub/records.jsonl") as log:
        assert log.end == 26
        assert log.append("more") == 26
        assert [log.read(at) for at in (0, 12, 26)] == ["one", "after reading", "more"]
    log.close()


def test_a_half_line_of_a_killed_run_is_cut_off(tmp_path: Path) -> None:
    path, long = tmp_path / "r.jsonl", "x" * 200_000  # longer than one block from the end
    for whole, half in (("a\nb\n", "hal"), ("", "half"), ("", long), (long + "\n", long), ("a\n", "")):
        path.write_text(whole + half)
        with Store(str(tmp_path)).open_lines("r.jsonl") as log:
            assert log.append("next") == len(whole)
        assert path.read_text() == whole + "next\n"


def test_lone_surrogates_come_back_from_json(tmp_path: Path) -> None:
    store, odd = Store(str(tmp_path)), {"path": "a\udcff.jpg", "label": "é"}
    with store.open_lines("r.jsonl") as log:
        log.append(json.dumps(odd, ensure_ascii=False))
    assert json.loads((tmp_path / "r.jsonl").read_bytes().decode("utf-8")) == odd


def test_a_line_that_does_not_fit_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Store(str(tmp_path)).open_lines("r.jsonl")
    log.append("whole")
    real = os.write

    def part(descriptor: int, data: memoryview) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:5])

    monkeypatch.setattr(os, "write", part)
    with pytest.raises(CnnvizError, match="disk is full"):
        log.append("twenty characters or so")
    assert (tmp_path / "r.jsonl").read_text() == "whole\n"
    monkeypatch.undo()
    assert log.append("again") == 6
    log.close()
    assert (tmp_path / "r.jsonl").read_text() == "whole\nagain\n"


def test_lines_from_threads_do_not_mix(tmp_path: Path) -> None:
    with Store(str(tmp_path)).open_lines("r.jsonl") as log, ThreadPoolExecutor(8) as pool:
        offsets = list(pool.map(lambda n: log.append(str(n) * 500), range(10, 90)))
        assert [log.read(at) for at in offsets] == [str(n) * 500 for n in range(10, 90)]
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 80
