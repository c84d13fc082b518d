"""A budget of memory that threads share: who comes first in the input is served first.

Shares are handed out in the order of the tickets, so an image never waits for one that comes after it; what is
larger than the whole budget waits until nothing else is held, and then goes alone.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from concurrent.futures import CancelledError, Future
from typing import Any


class Budget:
    """So many bytes for all threads together.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._changed = threading.Condition()
        self._issued = 0
        self._turn = 0
        self._passed: set[int] = set()
        self._wanted: int | None = None
        self.closed = threading.Event()

    def ticket(self) -> Ticket:
        """The next place in the queue. It must be taken up or freed, or all later ones wait."""
        with self._changed:
            self._issued += 1
            return Ticket(self, self._issued - 1)

    def close(self) -> None:
        """Nobody waits any longer: whoever does, or would, gets a CancelledError."""
        with self._changed:
            self.closed.set()
            self._changed.notify_all()

    def __enter__(self) -> Budget:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, future: Future[Any], ticket: Ticket) -> bool:
        """Wait for what is done with a ticket. False when that cannot begin until something is given back."""
        future.add_done_callback(self._wake)
        with self._changed:
            self._changed.wait_for(lambda: future.done() or (self._turn == ticket.place and self._is_blocked()))
        return future.done()

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take(self, place: int, amount: int) -> None:
        self._changed.wait_for(lambda: self.closed.is_set() or self._turn == place)
        self._wanted = amount
        self._changed.notify_all()
        self._changed.wait_for(lambda: self.closed.is_set() or not self._is_blocked())
        self._wanted = None
        if self.closed.is_set():
            raise CancelledError
        self.used += amount
        self._pass(place)

    def _is_blocked(self) -> bool:
        """Whether there is no room for the ticket whose turn it is. Without the others there always is."""
        return self._wanted is not None and self.used > 0 and self.used + self._wanted > self.size

    def _pass(self, place: int) -> None:
        self._passed.add(place)
        while self._turn in self._passed:
            self._passed.remove(self._turn)
            self._turn += 1
        self._changed.notify_all()


class Ticket:
    """One place in the queue of a :class:`Budget`, and what was taken with it."""

    def __init__(self, budget: Budget, place: int) -> None:
        self._budget = budget
        self.place = place
        self._held = 0
        self._waits = True

    @property
    def cancelled(self) -> threading.Event:
        """Set when the budget is closed: nobody waits for this any longer."""
        return self._budget.closed

    def take(self, amount: int) -> None:
        """Wait for this turn and for room.

        Raises:
            CancelledError: The budget was closed.
        """
        with self._budget._changed:
            self._budget._take(self.place, amount)
            self._held, self._waits = amount, False

    def keep(self, amount: int) -> None:
        """Give back what is held beyond ``amount``."""
        with self._budget._changed:
            given = max(0, self._held - amount)
            self._held -= given
            self._budget.used -= given
            self._budget._changed.notify_all()
        if given >= _TRIM_BYTES:
            _trim()

    def free(self) -> None:
        """Give everything back, and the place in the queue with it. May be called again, in any thread."""
        with self._budget._changed:
            if self._waits:
                self._waits = False
                self._budget._pass(self.place)
        self.keep(0)


# Smaller images leave nothing worth the walk through the allocator's lists.
_TRIM_BYTES = 32 << 20


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps it for each thread, which with many threads is a multiple."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "malloc_trim") else None
    except OSError:
        return None
