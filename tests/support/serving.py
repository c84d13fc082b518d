"""A live explorer that runs while a test asks it, over a real socket."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnviz.engine.stopping import go_on
from cnnviz.serve.engine import Explorer
from cnnviz.serve.security import Door, Wall
from cnnviz.serve.server import Listening, bound, door_of, server_of
from cnnviz.serve.web import Site
from cnnviz.serve.worker import Worker
from cnnviz.settings import ModelSpec, RunSettings, RuntimeSettings, TargetSettings


def photo(seed: int = 0, size: tuple[int, int] = (90, 70)) -> bytes:
    """Noise with a coloured rectangle, as a PNG."""
    pixels = np.random.default_rng(seed).integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
    pixels[20:50, 30:70, seed % 3] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_photos(folder: Path) -> Path:
    """Three such images, in a folder."""
    for number in range(3):
        (folder / f"{number}.png").write_bytes(photo(number))
    return folder


def soon(it_is: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether it is so within some seconds."""
    until = time.monotonic() + seconds
    while not it_is() and time.monotonic() < until:
        time.sleep(0.01)
    return it_is()


def until_it_is_not_wanted(begun: threading.Event) -> None:
    """What a worker computes, between whose passes it may be given up."""
    begun.set()
    ended = time.monotonic() + 20
    while time.monotonic() < ended:
        go_on()
        time.sleep(0.001)


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A running explorer."""

    door: Door
    explorer: Explorer
    worker: Worker
    notes: list[str]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.door.port}"

    def raw(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request with these headers and no others; underscores are hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.door.port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.putrequest(method, path, skip_host="Host" in sent, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body if isinstance(body, bytes) else None)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """A request with the token."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.door.token}", **headers}
        return self.raw(method or ("GET" if body is None else "POST"), path, data, **headers)

    def drop(self, data: bytes, name: str = "dropped.png") -> dict[str, Any]:
        """An image, as it is described."""
        answer = self.ask(f"/api/images?name={name}", data)
        assert answer.status == 200, answer.body
        described: dict[str, Any] = answer.json
        return described

    def finished(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """A job when it has ended."""
        until, row = time.monotonic() + 60, dict(job)
        while row["state"] in ("waiting", "running"):
            assert time.monotonic() < until, row
            time.sleep(0.02)
            row = self.ask(f"/api/jobs/{job['job']}").json
        return row


@contextmanager
def served(*inputs: Any, model: ModelSpec, task: str = "auto", most: int = 1 << 20) -> Iterator[Served]:
    """An explorer of a network, on a free port."""
    target = TargetSettings(task=task)
    base = RunSettings("serve", tuple(map(str, inputs)), model, target, RuntimeSettings(batch_size=4))
    notes: list[str] = []
    explorer, worker, listening = Explorer(base, notes.append), Worker(), Listening(browser=False)
    with bound(listening) as made:
        door = door_of(listening, int(made.getsockname()[1]))
        server = server_of(Wall(Site(explorer, worker, notes.append).app(), door, most), worker.close)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [made]})
        thread.start()
        try:
            yield Served(door, explorer, worker, notes)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
