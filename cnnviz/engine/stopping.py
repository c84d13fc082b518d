"""Giving up what is being computed, between two of its passes: somebody else does not want it any more."""

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
