"""Failures of servers and networks that may pass: what was asked for is asked again, a limited number of times."""

from __future__ import annotations

import errno
import http.client
import itertools
import random
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TypeVar

from cnnviz.errors import CnnvizError, ImageError

TRIES = 3
"""How often something is tried in all. Clients of object stores try several times themselves, each time."""
RETRY_SECONDS = 60.0
"""After so long it is not tried again."""
BACKOFF_SECONDS = 0.5
"""Before the second try; then four times as long. Up to a half more or less, by chance: many threads wait."""

_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 529})
_LASTING = (
    PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, ImportError, TypeError, AttributeError,
    NotImplementedError, LookupError, CancelledError, ssl.SSLCertVerificationError,
)  # fmt: skip
_LASTING_NUMBERS = frozenset({errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS})

T = TypeVar("T")


class BrokenOffError(ImageError):
    """A server sent less than it announced."""

    def __init__(self, message: str) -> None:
        super().__init__("unreadable", message)


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed a moment later: a server that fails, is busy, silent, or broke off.

    Not what is missing or refused, nor an address that is none.
    """
    if isinstance(error, BrokenOffError):
        return True
    if isinstance(error, CnnvizError):
        return error.__cause__ is not None and may_pass(error.__cause__)
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING_STATUS
    if isinstance(error, urllib.error.URLError):
        return isinstance(error.reason, Exception) and may_pass(error.reason)
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 300:
        return status in _PASSING_STATUS
    if isinstance(error, FileNotFoundError):  # so some backends call every failure
        return error.__cause__ is not None and may_pass(error.__cause__)
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return False  # it does not speak HTTP
    if isinstance(error, (http.client.InvalidURL, ValueError, *_LASTING)):
        return False
    # Also what a client of an object store says with a class of its own.
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return not isinstance(code, int) or code in _PASSING_STATUS
    if isinstance(error, OSError):
        return error.errno not in _LASTING_NUMBERS
    return isinstance(error, Exception)


def persistently(work: Callable[[], T], cancelled: threading.Event | None = None) -> T:
    """Do something again where it fails in a way that may pass, :data:`TRIES` times in all.

    Args:
        work: Does it, from the beginning each time.
        cancelled: Ends the waiting in between.

    Raises:
        Exception: What the last try raised.
        CancelledError: It was cancelled.
    """
    began = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return work()
        except Exception as error:
            if attempt >= TRIES or not may_pass(error) or time.monotonic() - began > RETRY_SECONDS:
                raise
        pause = BACKOFF_SECONDS * 4 ** (attempt - 1) * random.uniform(0.5, 1.5)
        if cancelled is None:
            time.sleep(pause)
        elif cancelled.wait(pause):
            raise CancelledError
    raise AssertionError("unreachable")
