"""Waiting for what others do, with an end: a server may stall, and Ctrl-C must be heard all the same."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TypeVar

STALL_SECONDS = 30.0
"""A server that sends nothing for so long is given up, and one that sends less than a kilobyte a second soon after."""

_PACE = 1000.0
_LOOK_SECONDS = 0.1

T = TypeVar("T")


class Clock:
    """Tells one who waits whether anything goes on.

    Attributes:
        ends: What to call when the waiting is given up, such as the shutting of a connection: a thread that reads from
            one would keep the interpreter from ending.
    """

    def __init__(self) -> None:
        self.ends: list[Callable[[], object]] = []
        self._deadline = time.monotonic() + STALL_SECONDS

    def advance(self, received: int) -> None:
        """So many bytes have come: wait longer, but never more than :data:`STALL_SECONDS` from now."""
        self._deadline = min(time.monotonic() + STALL_SECONDS, self._deadline + received / _PACE)

    @property
    def over(self) -> bool:
        return time.monotonic() > self._deadline


def stalled() -> str:
    """What to say of one that was given up."""
    return f"the server stalls: next to nothing came for {STALL_SECONDS:g} seconds"


def patiently(work: Callable[[Clock], T], cancelled: threading.Event | None = None) -> T:
    """Do in a thread what may never end, and wait for it no longer than it makes progress.

    The thread is left behind when it is given up; it does not keep the process alive.

    Args:
        work: Does it, and tells the clock what it has received.
        cancelled: Ends the waiting.

    Raises:
        TimeoutError: Nothing went on for :data:`STALL_SECONDS`.
        CancelledError: It was cancelled.
    """
    clock, done = Clock(), threading.Event()
    result: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work(clock))
        except BaseException as error:
            raised.append(error)
        done.set()

    threading.Thread(target=run, name="remote", daemon=True).start()
    try:
        while not done.wait(_LOOK_SECONDS):
            if cancelled is not None and cancelled.is_set():
                raise CancelledError
            if clock.over:
                raise TimeoutError(stalled())
    except BaseException:
        for end in clock.ends:
            with contextlib.suppress(OSError):
                end()
        raise
    if raised:
        raise raised[0]
    return result[0]
