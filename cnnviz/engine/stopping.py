"""Giving up what is being computed, between two of its passes: somebody else does not want it any more.

The other way round, Ctrl-C waits for the end of what is done whole or not at all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_unwanted: ContextVar[Callable[[], bool] | None] = ContextVar("unwanted", default=None)


class GivenUpError(BaseException):
    """It is not wanted any more. As Ctrl-C, it passes what handles failures of an image."""


@contextlib.contextmanager
def while_wanted(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Within it, :func:`go_on` of the same thread raises as soon as ``unwanted`` says so."""
    before = _unwanted.set(unwanted)
    try:
        yield
    finally:
        _unwanted.reset(before)


class Unwanted(threading.Event):
    """Set where threads shall give up what they compute."""

    def heeded(self, begin: Callable[..., object]) -> Callable[..., None]:
        """What begins a thread, ``begin`` first, in which :func:`go_on` asks this."""

        def begun(*values: object) -> None:
            begin(*values)
            _unwanted.set(self.is_set)

        return begun


def go_on() -> None:
    """Between two passes: nothing, while the result is wanted.

    Raises:
        GivenUpError: It is not.
    """
    unwanted = _unwanted.get()
    if unwanted is not None and unwanted():
        raise GivenUpError


class _Asked:
    """What asked the process to stop, as people call it."""

    by = "Ctrl-C"


_asked = _Asked()


def heard(name: str) -> None:
    """For who hears signals: what is named from here on where a run says what ended it."""
    _asked.by = name


def asked_by() -> str:
    """What asked the run to stop: Ctrl-C, or the name of a signal."""
    return _asked.by


def ends_at_once(said: str) -> str:
    """What is said to who asked to stop, with what ends the process without waiting."""
    return f"{said}; {asked_by()} again ends it at once"


class _Unbroken(threading.local):
    """What of this thread Ctrl-C waits for: how deep it is in it, what is said meanwhile, and whether it waits."""

    def __init__(self) -> None:
        self.depth, self.said, self.waits = 0, "", False


_unbroken = _Unbroken()


@contextlib.contextmanager
def unbroken(said: str = "") -> Iterator[None]:
    """Within it the first Ctrl-C of a command waits: what belongs together is done whole.

    Args:
        said: Told to who pressed it; nothing where it is a matter of milliseconds.

    Raises:
        KeyboardInterrupt: At its end, if there was one.
    """
    if not _unbroken.depth:
        _unbroken.said = said
    _unbroken.depth += 1
    try:
        yield
    finally:
        _unbroken.depth -= 1
    if _unbroken.waits and not _unbroken.depth:
        _unbroken.waits = False
        raise KeyboardInterrupt


def put_off() -> str | None:
    """For who hears Ctrl-C, in the main thread: what to say if it waits, None if it is raised at once."""
    _unbroken.waits = _unbroken.depth > 0
    if not _unbroken.waits:
        return None
    return ends_at_once(_unbroken.said) if _unbroken.said else ""
