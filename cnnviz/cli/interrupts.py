"""Ctrl-C: the first asks a command to stop, the second ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cnnviz.errors import EXIT_INTERRUPTED

_SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def ended_by_the_second() -> Iterator[None]:
    """Within it a second Ctrl-C ends the process at once: it waits for no thread, and writes no more.

    Nothing where whoever calls has a handler of their own, or in another thread than the main one.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            # Not by the streams: what was interrupted may hold their locks.
            with contextlib.suppress(OSError):
                os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + b"\ncnnviz: ended at once\n")
            os._exit(EXIT_INTERRUPTED)
        heard = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
