"""The bytes of a file behind a URL."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, BinaryIO

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import SNIFF_BYTES, sniff
from cnnviz.io.downloads import stored
from cnnviz.io.faults import BrokenOffError, persistently
from cnnviz.io.patience import Clock, patiently, stalled
from cnnviz.io.walk import is_web, open_remote, said

MAX_FILE_BYTES = 1 << 30
"""Larger image files are refused before they are read."""

_CHUNK = 1 << 18


def chunks(stream: BinaryIO, clock: Clock | None = None) -> Iterator[bytes]:
    """A file piece by piece, as far as it may be an image: of one that is not only the beginning."""
    read = getattr(stream, "read1", stream.read)  # what has come, where this waits for more
    head, size = b"", 0
    while chunk := read(_CHUNK if size >= SNIFF_BYTES else SNIFF_BYTES - size):
        size += len(chunk)
        yield chunk
        if clock is not None:
            clock.advance(len(chunk))
        if len(head) < SNIFF_BYTES:
            head += chunk
            if len(head) >= SNIFF_BYTES and sniff(head) is None:
                return
        if size > MAX_FILE_BYTES:
            raise too_large()
    if getattr(stream, "length", None):  # of what an HTTP server announced
        raise BrokenOffError(f"the server broke off the connection after {size} bytes")


def too_large() -> ImageError:
    return ImageError("too-large", f"the file has more than {MAX_FILE_BYTES} bytes")


def download(url: str, cancelled: threading.Event | None) -> BinaryIO:
    def read(clock: Clock) -> BinaryIO:
        if is_web(url):
            with _web().open_web(url, clock) as stream:
                return stored(chunks(stream, clock))
        files, path = open_remote(url)
        with files.fs.open(path, "rb") as stream:
            return stored(chunks(stream, clock))

    try:
        return persistently(lambda: patiently(read, cancelled), cancelled)
    except (ImageError, CancelledError):
        raise
    except TimeoutError as error:
        raise ImageError("timed-out", stalled()) from error
    except CnnvizError as error:
        raise ImageError("unreadable", error.message) from error
    except Exception as error:  # each backend has errors of its own
        raise (_web().web_error(error) if is_web(url) else _unreachable(error)) from error


def _web() -> Any:
    """Imported for URLs only: it takes a while."""
    return importlib.import_module("cnnviz.io.web")


def _unreachable(error: Exception) -> ImageError:
    """What a backend of fsspec says. Some call every failure a missing file, and keep the reason as its cause."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and getattr(cause, "status", 404) == 404 and not isinstance(cause, OSError):
        return ImageError("missing", "there is no such file")
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return ImageError("unreadable", f"cannot be read: {said(cause)}")
    if isinstance(error, PermissionError):
        return ImageError("unreadable", f"access is refused: {said(error)}")
    return ImageError("unreadable", f"cannot be read: {said(error)}")
