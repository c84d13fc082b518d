"""A file that grows by whole lines, and what a failed write is called."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

from cnnviz.errors import CnnvizError, ImageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 1 << 16


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in _FULL


def failure(error: OSError, name: str, root: str, again: str = "--resume") -> CnnvizError:
    """A full disk ends the run; anything else is the trouble of this one name (:class:`ImageError`)."""
    if is_full(error):
        return CnnvizError(
            f"the disk is full: {name!r} cannot be written to {root!r} ({error.strerror})",
            f"Free some space, then repeat the command with {again}.",
        )
    return ImageError("unwritable", f"{name!r} cannot be written to {root!r}: {error.strerror or error}")


def deleted(root: str) -> CnnvizError:
    """What to say when the output folder is no longer there."""
    return CnnvizError(
        f"the output folder {root!r} was deleted or moved while the run was writing to it",
        "What it held is gone from there: run the command again, and leave the folder alone until it has ended.",
    )


@dataclass(frozen=True)
class Parts:
    """What a file of lines becomes in a file system that cannot append.

    Attributes:
        put: Takes new lines and the byte of the file at which they begin.
        join: Takes the whole file, at the end.
    """

    put: Callable[[int, bytes], None]
    join: Callable[[BinaryIO], None]


class LineLog:
    """Lines appended to a file, each of them in the file when :meth:`append` returns. Safe in threads.

    A process that was killed may have left half a line at the end: it is cut off, so that the next line
    does not grow on to it.

    Args:
        descriptor: Of a file opened to read and append. Closed by :meth:`close`.
        name: Of the file, for messages.
        root: Of the output folder, for messages.
        parts: For a file system that cannot append: gets new lines when there are ``PART_LINES`` or ``PART_BYTES`` of
            them, or with a line that comes ``PART_SECONDS`` after the part before.
        path: Of the file, where it is a local one: a line is refused when the file is no longer there, or
            another program wrote to it.
        again: The option with which a command that a full disk ended is repeated.
    """

    PART_LINES = 100
    PART_BYTES = 4 << 20
    PART_SECONDS = 10.0

    def __init__(
        self,
        descriptor: int,
        name: str,
        root: str,
        parts: Parts | None = None,
        path: str | None = None,
        again: str = "--resume",
    ) -> None:
        self._descriptor, self._name, self._root, self._parts, self._path = descriptor, name, root, parts, path
        self._again = again
        self._lock = threading.Lock()
        self._pending = 0
        self._put_at = time.monotonic()
        self._closed = False
        self._end = self._put = self._cut_half_line()

    @property
    def end(self) -> int:
        """Byte offset at which the next line will begin."""
        return self._end

    @property
    def holds_all(self) -> bool:
        """Whether lines must be read here, because the file system has them in parts still."""
        return self._parts is not None and not self._closed

    def _cut_half_line(self) -> int:
        end = os.fstat(self._descriptor).st_size
        at = end
        while at:
            start = max(0, at - _BLOCK)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            newline = os.read(self._descriptor, at - start).rfind(b"\n")
            if newline >= 0:
                at = start + newline + 1
                break
            at = start
        if at < end:
            os.ftruncate(self._descriptor, at)
        return at

    def append(self, text: str) -> int:
        """Write ``text`` and a newline.

        Args:
            text: One line. A lone surrogate is written as ``\\udcXX``, which JSON reads back.

        Returns:
            The byte offset at which the line begins.

        Raises:
            CnnvizError: The disk is full; the file then ends with the line before. Or the file is not there any
                more, or not as this object left it.
        """
        if "\n" in text:
            raise ValueError("a line cannot hold a newline")
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            self._check()
            start = self._end
            rest = memoryview(data)
            try:
                os.lseek(self._descriptor, start, os.SEEK_SET)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                os.ftruncate(self._descriptor, start)
                raise failure(error, self._name, self._root, self._again) from error
            self._end = start + len(data)
            self._pending += 1
            if self._parts is not None and self._is_due():
                self._put_part(self._parts)
        return start

    def _check(self) -> None:
        if self._path is None:
            return
        here = os.fstat(self._descriptor)
        try:
            there = os.path.samestat(here, os.stat(self._path))
        except OSError:
            there = False
        if not there:
            raise deleted(self._root)
        if here.st_size != self._end:
            raise CnnvizError(
                f"{self._name!r} in {self._root!r} was changed by another program while the run was writing it",
                "Run the command again in a folder of its own.",
            )

    def _is_due(self) -> bool:
        late = time.monotonic() - self._put_at > self.PART_SECONDS
        return late or self._pending >= self.PART_LINES or self._end - self._put >= self.PART_BYTES

    def _put_part(self, parts: Parts) -> None:
        os.lseek(self._descriptor, self._put, os.SEEK_SET)
        lines = bytearray()
        while len(lines) < self._end - self._put:
            lines += os.read(self._descriptor, self._end - self._put - len(lines))
        parts.put(self._put, bytes(lines))
        self._put, self._pending, self._put_at = self._end, 0, time.monotonic()

    def read(self, offset: int) -> str:
        """The line that begins at a byte offset, without its newline."""
        found = bytearray()
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            while b"\n" not in found and (block := os.read(self._descriptor, _BLOCK)):
                found += block
        return found.split(b"\n", 1)[0].decode("utf-8")

    def close(self) -> None:
        """Close; behind a URL the whole file takes the place of its parts. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._parts is not None:
                    with os.fdopen(os.dup(self._descriptor), "rb") as whole:
                        self._parts.join(whole)
            finally:
                os.close(self._descriptor)

    def __enter__(self) -> LineLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
