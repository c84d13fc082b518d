"""Ctrl-C: the first asks a command to stop, the second ends it. So do SIGTERM and SIGHUP.

Left to the system, those two end the process where it stands: with temporary files and the lock in its folder, without
a report.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from cnnviz.engine import stopping
from cnnviz.errors import EXIT_INTERRUPTED

_SHOW_CURSOR = b"\x1b[?25h"
# Seconds after which a Ctrl-C that was lost is heard again: by then what lost it has returned.
_AGAIN = 0.05
# How the names of what a run leaves in its folder in passing begin.
_OURS = ".cnnviz-"
# Of a service or a scheduler that ends a job, and of a terminal that is closed. Windows has no SIGHUP.
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def what_next(out: str | None, *, resumes: bool) -> str:
    """What stands behind "interrupted": what to type next, where a run stands in the folder that it was to go on in.

    Args:
        out: The output folder; ``-`` for standard output, None where a command writes nothing.
        resumes: Whether the command has ``--resume``.
    """
    if out is None or out == "-":
        return ""
    if "://" not in out and not _holds_anything(out):
        return " before anything was written"
    return "; continue with --resume" if resumes else "; this command begins again, with --overwrite"


def _holds_anything(folder: str) -> bool:
    """Whether there is more than the lock of a run, and what its writers leave."""
    with contextlib.suppress(OSError, ValueError):
        return any(not name.startswith(_OURS) for name in os.listdir(folder))
    return False


def _tell(text: bytes) -> None:
    """Not by the streams: what was interrupted may hold their locks."""
    with contextlib.suppress(OSError):
        os.write(2, text)


class _Hearing:
    """Hears Ctrl-C, SIGTERM and SIGHUP in the main thread.

    The same signal once more ends the process. Another one does not: who closes a session sends several of them.
    """

    def __init__(self) -> None:
        self.heard: set[int] = set()
        self._first: int = signal.SIGINT
        self._terminal = os.isatty(2)
        self._usual = sys.unraisablehook
        self._over, self._turn = False, threading.Lock()

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if number in self.heard:
            _tell((_SHOW_CURSOR if os.isatty(2) else b"") + b"\ncnnviz: ended at once\n")
            os._exit(EXIT_INTERRUPTED)
        before = bool(self.heard)
        self.heard.add(number)
        if self._terminal and not os.isatty(2):  # it was closed: what is told on the way out goes nowhere
            _give_up_terminal()
        if before:
            return
        self._first = number
        stopping.heard("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        said = stopping.put_off()
        if said is None:
            signal.default_int_handler(number, frame)
        elif said:
            _tell(f"cnnviz: {said}\n".encode())

    def unraisable(self, lost: Any) -> None:
        """The hook for exceptions that Python cannot raise where they come up: in destructors, and in callbacks of
        references. It would print a Ctrl-C there and go on."""
        if lost.exc_type is not KeyboardInterrupt:
            self._usual(lost)
            return
        self.heard.clear()
        # Not a Timer: whoever starts one waits for its thread, and would be interrupted there.
        _thread.start_new_thread(self._press, ())

    def _press(self) -> None:
        """The signal once more for the main thread, whatever it waits for, in a moment; not once nobody hears it: it
        would kill. Not always Ctrl-C, which may be ignored."""
        time.sleep(_AGAIN)
        with self._turn:
            if not self._over:
                _press(self._first)

    def end(self) -> None:
        """Nothing is pressed again from here on."""
        with self._turn:
            self._over = True


def _give_up_terminal() -> None:
    """Let standard error lead nowhere. To write to a terminal that is gone fails, and progress is drawn there."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def _press(number: int) -> None:
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


@contextlib.contextmanager
def ended_by_the_second(afterwards: Any = signal.default_int_handler) -> Iterator[None]:
    """Within it a second Ctrl-C ends the process at once: it waits for no thread, and writes no more.

    SIGTERM and SIGHUP are heard as Ctrl-C is, but where they are ignored, as behind ``nohup``, or have a handler. They
    also are where Ctrl-C is ignored, as it is in what a script starts in the background.

    Nothing where whoever calls has a handler of Ctrl-C of their own, or in another thread than the main one.

    Args:
        afterwards: What Ctrl-C does behind it.
    """
    ours, pressed = threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)
    if not ours or pressed not in (signal.default_int_handler, signal.SIG_IGN):
        yield
        return
    hearing, usual = _Hearing(), sys.unraisablehook
    behind = {number: signal.SIG_DFL for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL}
    if pressed is not signal.SIG_IGN:
        behind[signal.SIGINT] = afterwards
    for number in behind:
        signal.signal(number, hearing.hear)
    sys.unraisablehook = hearing.unraisable
    try:
        yield
    finally:
        try:
            hearing.end()
        finally:
            for number, handler in behind.items():
                signal.signal(number, handler)
            sys.unraisablehook = usual
