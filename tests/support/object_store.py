"""An S3-compatible server of this machine (moto's), with faults on demand between it and whoever asks."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

BUCKET, REGION = "bucket", "eu-central-1"


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that fit.

    Attributes:
        kind: ``500`` (or another status), ``cut`` (half of the body, then the connection ends), ``slow`` (an answer
            after ``seconds``).
        method, path: The request; the path is a regular expression.
        times: How often.
        seconds: For ``slow``.
    """

    kind: str
    method: str
    path: str
    times: int = 1
    seconds: float = 0.0

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and re.search(self.path, path) is not None


@dataclass
class ObjectStore:
    """The server.

    Attributes:
        url: Of the server.
        faults: Used up as requests come.
        requests: Method and path of each request.
    """

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _now: int = 0

    def environment(self) -> dict[str, str]:
        """Variables by which clients find it. Two attempts of the client itself: each failure costs little time."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_MAX_ATTEMPTS": "1",
        }

    def files(self) -> Any:
        """The file system of fsspec, without what it remembers."""
        import s3fs

        found = s3fs.S3FileSystem()
        found.invalidate_cache()
        return found

    def count(self, method: str, path: str) -> int:
        """How many requests there were to paths that fit."""
        return sum(a == method and re.search(path, b) is not None for a, b in self.requests)

    def around(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """The application with faults."""

        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            with self._lock:
                self.requests.append((method, path))
                self._now += method == "PUT"
                self.most_at_once = max(self.most_at_once, self._now)
                fault = next((each for each in self.faults if each.fits(method, path)), None)
                if fault is not None:
                    fault.times -= 1
            try:
                if fault is None:
                    return application(environ, start)
                if fault.kind == "slow":
                    time.sleep(fault.seconds)
                    return application(environ, start)
                if fault.kind == "cut":
                    body = b"".join(application(environ, start))
                    return [body[: len(body) // 2]]
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(f"{fault.kind} Fault", [("Content-Type", "application/xml"), ("Content-Length", "0")])
                return [b""]
            finally:
                with self._lock:
                    self._now -= method == "PUT"

        return answer


def serve() -> tuple[ObjectStore, Callable[[], None]]:
    """A server with one empty bucket, and what ends it."""
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: Any, **__: Any) -> None: ...

    s3fs.S3FileSystem.clear_instance_cache()  # they know the address of an earlier server of this process
    store = ObjectStore()
    application = store.around(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Silent)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    # What moto holds is the process's, not the server's.
    with urllib.request.urlopen(urllib.request.Request(f"{store.url}/moto-api/reset", method="POST")):
        store.requests.clear()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return store, end
