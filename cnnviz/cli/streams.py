"""Standard output belongs to the result: what others print goes to standard error. Streams may be closed or full."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from cnnviz.errors import CnnvizError

_OUT, _ERR = 1, 2


def open_closed_ones() -> None:
    """Give closed standard streams (``>&-``, ``2>&-``) a place, or the next file that is opened would get their number.

    Standard error then leads nowhere. Standard output stays None for Python: a result cannot be written there.
    """
    for number in (0, _OUT, _ERR):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one: those below are open.
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(_ERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Within the block, what is printed goes to standard error, also from C libraries and programs that are started.

    A factory, a model or a library may print whenever its code runs.
    """
    with contextlib.redirect_stdout(sys.stderr):
        saved = _point_to_standard_error()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            if saved is not None:
                with contextlib.suppress(OSError, AttributeError):
                    ctypes.CDLL(None).fflush(None)  # what C has printed and not yet written
                os.dup2(saved, _OUT)
                os.close(saved)


def _point_to_standard_error() -> int | None:
    """A copy of standard output, which now is standard error. None where Python's streams are replaced, as in tests."""
    try:
        if sys.__stdout__ is None or sys.__stdout__.fileno() != _OUT or sys.stderr.fileno() != _ERR:
            return None
        sys.__stdout__.flush()
        saved = os.dup(_OUT)
        os.dup2(_ERR, _OUT)
    except (OSError, ValueError):
        return None
    return saved


def require_output(what: str) -> None:
    """Raises a CnnvizError when standard output, where ``what`` goes, is closed."""
    if sys.stdout is None:
        raise CnnvizError(f"{what} goes to standard output, which is closed.", "Leave out >&-, or send it to a file.")


def write_result(data: str | bytes) -> None:
    """Write what was asked for to standard output.

    Raises:
        CnnvizError: It is closed or full.
        BrokenPipeError: Its reader went away.
    """
    require_output("The result")
    try:
        if isinstance(data, str):
            sys.stdout.write(data)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(sys.stdout)
        raise CnnvizError(
            f"The result cannot be written to standard output: {error.strerror}.", "Send it to another place."
        ) from error


def tell(text: str) -> None:
    """Write to standard error. A message that cannot be told is no reason to fail.

    Raises:
        BrokenPipeError: Its reader went away.
    """
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere: the interpreter flushes once more when it ends, and would complain."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
