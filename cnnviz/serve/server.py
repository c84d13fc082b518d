"""``cnnviz serve``: the server of a live explorer, on this machine alone."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from cnnviz.errors import CnnvizError
from cnnviz.serve.engine import Explorer
from cnnviz.serve.security import App, Door, Wall
from cnnviz.serve.web import Site
from cnnviz.serve.worker import Worker
from cnnviz.settings import RunSettings

LOOPBACK = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
"""The addresses that may be listened on: nobody else's machine reaches them."""
_PATIENCE = 0.5


@dataclass(frozen=True)
class Listening:
    """Where to listen.

    Attributes:
        host: One of :data:`LOOPBACK`.
        port: 0 for a free one.
        browser: Whether to open the page in the person's browser.
    """

    host: str = "127.0.0.1"
    port: int = 0
    browser: bool = True


class _Server(uvicorn.Server):
    """A server that ends at the first Ctrl-C: nothing that it computes is worth waiting for.

    Args:
        config: Of it.
        stop: Gives up what is being computed, so that who waits for it is told.
    """

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        # What still runs then is in a long pass, or its client is slow.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(super().shutdown(sockets), _PATIENCE)


def bound(listening: Listening) -> socket.socket:
    """A socket that listens on the address.

    Raises:
        CnnvizError: The port is taken, or may not be used.
    """
    made = socket.socket(LOOPBACK[listening.host], socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((listening.host, listening.port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise CnnvizError(
            f"--port {listening.port}: {listening.host} cannot be listened on ({error.strerror}).",
            "Leave --port out for a free one.",
        ) from error
    return made


def door_of(listening: Listening, port: int) -> Door:
    """A door with a new token."""
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    return Door(host, port, secrets.token_urlsafe(32))


def server_of(app: App, stop: Callable[[], None]) -> uvicorn.Server:
    """A server of an application: over HTTP alone, and silent; ``stop`` gives up what it computes."""
    config = uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return _Server(config, stop)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is a Ctrl-C here. Left to the system, it would end the process before the folder is removed: uvicorn
    raises it again when it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(base: RunSettings, listening: Listening, note: Callable[[str], None], say: Callable[[str], None]) -> bool:
    """Load the network, and serve its page until Ctrl-C or SIGTERM.

    Args:
        base: Inputs, model, task and runtime.
        listening: Where.
        note: Told what the user should know of the network.
        say: Told the address, with the token, once it is served.

    Returns:
        Whether nothing is being computed any more.

    Raises:
        CnnvizError: The network or the port cannot be had.
    """
    # The folder is its own, so that a job that Ctrl-C ends leaves nothing behind.
    with (
        _terminated_as_interrupted(),
        bound(listening) as made,
        tempfile.TemporaryDirectory(prefix="cnnviz-serve-", ignore_cleanup_errors=True) as folder,
    ):
        explorer, worker = Explorer(base, note, folder), Worker()
        door = door_of(listening, int(made.getsockname()[1]))
        app: App = Wall(Site(explorer, worker, note).app(), door)
        if base.inputs and not explorer.shelf.samples():
            note(f"no image was found in {', '.join(base.inputs)}: there is none to choose, drop one on the page")
        say(door.url)
        if listening.browser:
            webbrowser.open(door.url)
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            server_of(app, worker.close).run(sockets=[made])
        return not worker.busy
