"""``cnnviz serve`` as a process: its options, its address, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnviz.cli.app import main
from tests.support.runs import tiny_options


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: expected one of 127.0.0.1, ::1", ""),
        (["--port", "70000"], "--port 70000: expected 0 to 65535", "Leave --port out"),
        (["--port", "http"], "--port http: expected a whole number", ""),
        (["-"], "standard input is read once", "Name a folder"),
        (["--view", "tiles"], "--view tiles", "--view crop"),
        (["nowhere/"], "nowhere/", ""),
    ],
)
def test_wrong_options_are_told_before_the_network_is_loaded(
    arguments: list[str], said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert hint in told


def test_without_the_extra_the_error_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cnnviz.registry import specs

    find = specs.find_spec
    monkeypatch.setattr(specs, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert main(["serve"]) == 2
    told = capsys.readouterr().err
    assert "cnnviz serve needs uvicorn, which is not installed." in told
    assert "pip install 'cnnviz[serve]'" in told


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--no-browser", "--port", port, *tiny_options()]) == 2
    assert f"--port {port}: 127.0.0.1 cannot be listened on" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_it_prints_its_address_and_ends_at_once_with_0_while_it_computes() -> None:
    with _serving() as (process, ask):
        assert ask("/api/jobs", {"kind": "synthesize", "layer": "2", "unit": 1, "steps": 2048})[0] == 200
        process.send_signal(signal.SIGINT)
        _ended_well(process)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_who_waits_for_a_map_at_ctrl_c_is_told_so(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), "teal").save(tmp_path / "one.png")
    answers: list[tuple[int, Any]] = []
    with _serving(str(tmp_path)) as (process, ask):
        asked = {"image": "sample-0", "method": "rise", "options": {"masks": 100_000}}
        thread = threading.Thread(target=lambda: answers.append(ask("/api/explain", asked)))
        thread.start()
        while not ask("/api/status")[1]["busy"]:
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        thread.join(60)
        _ended_well(process)
    ((status, said),) = answers
    assert (status, said["type"]) == (503, "stopped")
    assert said["error"] == "cnnviz serve was ended before this was computed."


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")
def test_sigterm_ends_it_as_ctrl_c_does_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with _serving() as (process, ask):
        assert ask("/api/status")[0] == 200
        assert len(list(tmp_path.glob("cnnviz-serve-*"))) == 1
        process.send_signal(signal.SIGTERM)
        _ended_well(process)
    assert list(tmp_path.glob("cnnviz-serve-*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with _serving(str(tmp_path)) as (process, ask):
        assert ask("/api/model")[1]["samples"] == []
        process.send_signal(signal.SIGINT)
        _ended_well(process)
        found = f"cnnviz: note: no image was found in {tmp_path}: there is none to choose, drop one on the page"
        assert found in process.before


class _Process(subprocess.Popen[str]):
    """A server, and the lines that it printed ahead of its address."""

    before: list[str]


Ask = Callable[..., tuple[int, Any]]


@contextmanager
def _serving(*inputs: str) -> Iterator[tuple[_Process, Ask]]:
    """A server as a process, and what asks it: an answer's status and its JSON."""
    command = [sys.executable, "-m", "cnnviz", "serve", *inputs, "--no-browser", *tiny_options()]
    with _Process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.before, found = [], None
        while found is None:
            process.before.append(process.stderr.readline().rstrip("\n"))
            assert process.poll() is None, process.before
            found = re.fullmatch(r"cnnviz: http://127\.0\.0\.1:(\d+)/\?token=(\S{43})", process.before[-1])
        port, token = int(found[1]), found[2]

        def ask(path: str, body: Any = None) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            data, method = (None, "GET") if body is None else (json.dumps(body), "POST")
            try:
                connection.request(method, path, data, {"Authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())
            finally:
                connection.close()

        yield process, ask


def _ended_well(process: _Process) -> None:
    """With 0, and without a word."""
    assert process.wait(60) == 0
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read() == ""
    assert process.stderr.read().splitlines() == ["cnnviz: Ctrl-C ends it"]
