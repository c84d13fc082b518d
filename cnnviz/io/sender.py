"""Files on their way to a server: many at once, because each waits for an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

AT_ONCE = 16
"""Files that are sent at the same time."""
WAITING_BYTES = 64 << 20
"""What is sent or waits for it; who brings more waits. A larger file goes alone."""


class Sender:
    """Sends files in threads. Safe in threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, "send")
        self._room = threading.Condition()
        self._held = 0
        self._sent: dict[str, Future[None]] = {}

    def submit(self, name: str, size: int, send: Callable[[], None]) -> None:
        """Send a file soon. One of the same name that is on its way arrives before.

        Args:
            name: Of the file.
            size: Bytes that it holds in memory until it has arrived.
            send: Sends it.
        """
        self.settle([name])
        with self._room:
            self._room.wait_for(lambda: not self._held or self._held + size <= WAITING_BYTES)
            self._held += size
            future = self._sent[name] = self._pool.submit(send)
        future.add_done_callback(lambda _: self._done(size))

    def _done(self, size: int) -> None:
        with self._room:
            self._held -= size
            self._room.notify_all()

    def settle(self, names: Iterable[str] | None = None) -> None:
        """Wait until these files, or all, have arrived.

        Raises:
            Exception: What became of the first that did not arrive. It is told once.
        """
        with self._room:
            wanted = list(self._sent) if names is None else names
            futures = [self._sent.pop(name) for name in dict.fromkeys(wanted) if name in self._sent]
        for future in futures:
            future.exception()
        for future in futures:
            future.result()

    def close(self) -> None:
        """Leave what has not begun, wait for the rest."""
        self._pool.shutdown(cancel_futures=True)
