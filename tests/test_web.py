"""Servers of this machine that fail in every way a server can: what is said of each, and that waiting has an end."""

from __future__ import annotations

import base64
import errno
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io import downloads, faults, patience
from cnnviz.io.digests import is_unchanged
from cnnviz.io.sources import MAX_FILE_BYTES, ImageRef, find_images, open_file, read_bytes
from tests.support import tiny_model


def picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


PICTURE = picture()
STATUS = {"/404": 404, "/410": 410, "/401": 401, "/403": 403, "/500": 500, "/503": 503, "/418": 418, "/304": 304}


class Handler(BaseHTTPRequestHandler):
    asked: threading.Event
    end: threading.Event

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if path in STATUS:
            self.send_error(STATUS[path])
        elif path == "/loop":
            self.redirect("/loop")
        elif path.startswith("/chain"):
            self.redirect(f"/chain{int(path[6:]) + 1}")
        elif path == "/elsewhere":
            self.redirect("/ok.png")
        elif path == "/to-a-file":
            self.redirect("file:///etc/hostname")
        elif path == "/silent":
            self.asked.set()
            self.end.wait(120)
        elif path == "/stall":
            self.send(PICTURE[:5000], len(PICTURE))
            self.asked.set()
            self.end.wait(120)
        elif path == "/drip":
            self.send(PICTURE[:5000], len(PICTURE))
            while not self.end.wait(0.05):
                self.wfile.write(b"x")
        elif path == "/slow":
            self.send(b"", len(PICTURE))
            for at in range(0, len(PICTURE), 2000):
                self.wfile.write(PICTURE[at : at + 2000])
                time.sleep(0.04)
        elif path == "/cut":
            self.send(PICTURE[:5000], len(PICTURE))
        elif path == "/film":
            self.send(b"\0\0\0\x18ftypmp42" + b"\0" * 8000, MAX_FILE_BYTES)
            self.asked.set()
            self.end.wait(120)
        elif path == "/secret" and self.headers["Authorization"] != "Basic " + base64.b64encode(b"me:a:b").decode():
            self.send_error(401)
        else:
            self.send(PICTURE, len(PICTURE))

    def send(self, body: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    asked, end = threading.Event(), threading.Event()
    handler = type("Bound", (Handler,), {"asked": asked, "end": end})
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    web.daemon_threads = True
    web.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{web.server_address[1]}", asked=asked)
    end.set()
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "BACKOFF_SECONDS", 0.0)


def fails(url: str) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_bytes(ImageRef(url, "x", 0))
    return caught.value


@pytest.mark.parametrize("path", ["/ok.png", "/elsewhere", "/slow", "/a b/ü.png", "/ok.png?size=1&x=%20"])
def test_files_of_a_server(server: SimpleNamespace, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "STALL_SECONDS", 0.4)  # less than the slow one takes in all
    (ref,) = find_images([server.url + path])
    assert read_bytes(ref) == PICTURE
    assert ref.name == Path(path.split("?")[0]).name


def test_a_large_download_is_not_held_in_memory(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on disk, whole, and gone when it was read; a small one needs no file."""
    ref = ImageRef(f"{server.url}/slow", "x", 0)
    with open_file(ref) as stream:
        assert isinstance(stream, io.BytesIO)
        assert stream.read() == PICTURE
    monkeypatch.setattr(downloads, "HELD_BYTES", len(PICTURE) - 1)
    with open_file(ref) as stream:
        assert os.fstat(stream.fileno()).st_size == len(PICTURE)
        assert stream.read() == PICTURE
        assert is_unchanged(ref, {"bytes": len(PICTURE), "mtime_ns": None, "sha256": sha256(PICTURE).hexdigest()})
    assert stream.closed
    assert not is_unchanged(ref, {"bytes": len(PICTURE), "mtime_ns": None, "sha256": sha256(b"other").hexdigest()})


def test_a_download_that_the_disk_has_no_room_for(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "HELD_BYTES", 3000)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    error = fails(f"{server.url}/ok.png")
    assert error.kind == "unreadable"
    assert error.message == ("the download cannot be kept in the folder for temporary files: No space left on device")


def test_a_name_and_a_password_in_the_address(server: SimpleNamespace) -> None:
    assert fails(f"{server.url}/secret").message == "the server refuses access: 401 Unauthorized"
    assert read_bytes(ImageRef(server.url.replace("//", "//me:a%3Ab@") + "/secret", "x", 0)) == PICTURE


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/404", "missing", "there is no such file: the server answers 404 Not Found"),
        ("/410", "missing", "there is no such file: the server answers 410 Gone"),
        ("/403", "unreadable", "the server refuses access: 403 Forbidden"),
        ("/500", "unreadable", "the server has failed: 500 Internal Server Error"),
        ("/503", "unreadable", "the server has failed: 503 Service Unavailable"),
        ("/418", "unreadable", "the server answers 418 I'm a Teapot"),
        ("/304", "unreadable", "the server sends elsewhere: 304 Not Modified"),
        ("/loop", "unreadable", "the server sends from one address to the next without an end"),
        ("/chain0", "unreadable", "the server sends from one address to the next without an end"),
        ("/cut", "unreadable", "the server broke off the connection after 5000 bytes"),
    ],
)
def test_what_a_server_does_wrong_is_told_apart(server: SimpleNamespace, path: str, kind: str, message: str) -> None:
    error = fails(server.url + path)
    assert (error.kind, error.message) == (kind, message)


def test_a_server_cannot_send_us_to_files_of_this_machine(server: SimpleNamespace) -> None:
    assert fails(f"{server.url}/to-a-file").kind == "unreadable"


@pytest.mark.parametrize("path", ["/silent", "/stall", "/drip"])
def test_a_server_that_stalls_is_given_up(server: SimpleNamespace, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "STALL_SECONDS", 0.4)
    began = time.monotonic()
    error = fails(server.url + path)
    assert error.kind == "timed-out"
    assert error.message == "the server stalls: next to nothing came for 0.4 seconds"
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_of_ipv6_is_no_chain_of_file_systems() -> None:
    try:
        with socket.socket(socket.AF_INET6) as unused:
            unused.bind(("::1", 0))
            port = unused.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6")
    assert fails(f"http://[::1]:{port}/x.png").message == "no server listens there (connection refused)"


def test_no_server_no_host_no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert fails(f"http://127.0.0.1:{port}/x.png").message == "no server listens there (connection refused)"
    assert fails("http://127.0.0.1:nowhere/x.png").message.startswith("this is not an address that can be asked for")
    assert fails("http://[::1/x.png").message.startswith("this is not an address that can be asked for")

    def no_host(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_host)
    assert fails("http://cnnviz.invalid/x.png").message == "there is no such host (Name or service not known)"


def test_a_server_that_does_not_speak_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for reply in (b"SSH-2.0-OpenSSH_9.6\r\n", *[b""] * faults.TRIES):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
        assert fails(url).message.startswith("the answer is not HTTP")
        assert fails(url).message.startswith("the server broke off the connection")
        thread.join()


def test_only_the_head_of_a_film_is_fetched(server: SimpleNamespace) -> None:
    data = read_bytes(ImageRef(f"{server.url}/film", "x", 0))
    assert len(data) == 4096


def test_other_file_systems_that_stall_are_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    never = threading.Event()
    fs = fsspec.filesystem("memory")
    fs.pipe("/slow/x.png", PICTURE)
    monkeypatch.setattr(patience, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda *_, **__: never.wait(20))
    assert fails("memory://slow/x.png").kind == "timed-out"
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: never.wait(20))
    with pytest.raises(CnnvizError, match=r"next to nothing came for 0\.3 seconds"):
        list(find_images(["memory://slow/"]))
    never.set()
    monkeypatch.undo()
    fs.rm("/slow", recursive=True)


def test_ctrl_c_is_heard_while_a_server_stalls(server: SimpleNamespace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cnnviz", "gradcam", f"{server.url}/stall", "-o", str(tmp_path / "out")]
    command += ["-m", f"{tiny_model.__file__}:make", "--input-size", "64"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert server.asked.wait(100), "no request came"
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert time.monotonic() - began < 60
