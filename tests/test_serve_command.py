"""``cnnviz serve`` as a process: its options, its address, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_it_prints_its_address_and_ends_at_once_with_0_while_it_computes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cnnviz", "serve", "--no-browser", *tiny_options()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(
            made for line in process.stderr if (made := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{43})$", line))
        )
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        headers = {"Authorization": f"Bearer {found[2]}"}
        body = json.dumps({"kind": "synthesize", "layer": "2", "unit": 1, "steps": 2048})
        connection.request("POST", "/api/jobs", body, headers)
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.stderr.read().splitlines() == ["cnnviz: Ctrl-C ends it"]
