"""A line now and then while one image takes long, where nothing else shows that a run is alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY = 30.0
"""Seconds without a finished image after which a line is told, and between lines."""


class Heartbeat:
    """Tells in a thread of its own how long nothing has been finished, from its making to :meth:`stop`.

    Args:
        told: Called with whole seconds since the last image was finished.
        finished: How many images are finished.
        every: Seconds of silence.
    """

    def __init__(self, told: Callable[[int], None], finished: Callable[[], int], every: float | None = None) -> None:
        self._told, self._finished = told, finished
        self._every = EVERY if every is None else every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more lines."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        known, since, due = self._finished(), time.monotonic(), self._every
        while not self._over.wait(min(1.0, self._every / 4)):
            now, count = time.monotonic(), self._finished()
            if count != known:
                known, since, due = count, now, self._every
            elif now - since >= due:
                self._told(int(now - since))
                due += self._every
