"""A file that can only be read forwards, made one that can be read anywhere: what has come lies in a temporary file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.faults import BrokenOffError, may_pass, persistently
from cnnviz.io.patience import Clock, patiently, stalled
from cnnviz.io.walk import is_web, open_remote, said

MOST_BYTES = 256 << 30
"""What is larger unpacked is refused: a small file may unpack to any size."""
_CHUNK = 1 << 20
_BLOCK = 4 << 20
_PARTIAL = 206  # what a server answers that begins where it was asked to


class Spool(io.RawIOBase):
    """A seekable file of pieces that come one after the other. Not safe in threads.

    Args:
        pieces: Gives the piece that begins at an offset, each time the offset behind the last; empty at the end.
    """

    def __init__(self, pieces: Callable[[int], bytes]) -> None:
        self._pieces = pieces
        self._file = tempfile.TemporaryFile(prefix="cnnviz-")  # noqa: SIM115 - closed with this
        self._have = self._at = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._reach(MOST_BYTES + 1)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._have}[whence]
        self._at = max(0, base + offset)
        return self._at

    def _reach(self, end: int) -> None:
        while self._have < end and not self._ended:
            piece = self._pieces(self._have)
            self._ended = not piece
            self._file.seek(self._have)
            self._file.write(piece)
            self._have += len(piece)
            if self._have > MOST_BYTES:
                raise ImageError("too-large", f"the archive has more than {MOST_BYTES} bytes unpacked")

    def readinto(self, buffer: Any) -> int:
        self._reach(self._at + len(buffer))
        self._file.seek(self._at)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def unpacked(file: Any, name: str) -> Any:
    """The file, or what it unpacks to by the end of its name."""
    stream: Any = None
    if name.endswith((".gz", ".tgz")):
        stream = gzip.GzipFile(fileobj=file)
    elif name.endswith((".bz2", ".tbz2")):
        stream = bz2.BZ2File(file)
    elif name.endswith((".xz", ".txz")):
        stream = lzma.LZMAFile(file)  # noqa: SIM115
    return file if stream is None else Spool(lambda _: _unpack(stream))


def _unpack(stream: Any) -> bytes:
    try:
        data: bytes = stream.read1(_CHUNK)
        return data
    except lzma.LZMAError as error:
        raise OSError(said(error)) from error


def fetched(url: str) -> Callable[[int], bytes]:
    """Pieces of a file behind a URL; where it breaks off, it is opened again and goes on.

    Raises:
        ImageError: Where a piece is asked for: the file is missing, or cannot be read.
    """
    source: list[Iterator[bytes]] = []

    def piece(start: int) -> bytes:
        def read(clock: Clock) -> bytes:
            if not source:
                source.append(_from(url, start, clock))
            return next(source[0], b"")

        def tried() -> bytes:
            try:
                return patiently(read)
            except BaseException:
                source.clear()
                raise

        try:
            return persistently(tried)
        except ImageError:
            raise
        except TimeoutError as error:
            raise ImageError("timed-out", stalled()) from error
        except FileNotFoundError as error:
            if may_pass(error):
                raise ImageError("unreadable", f"cannot be read: {said(error)}") from error
            raise ImageError("missing", "there is no such archive") from error
        except CnnvizError as error:
            raise ImageError("unreadable", error.message) from error
        except Exception as error:  # each backend has errors of its own
            raise ImageError("unreadable", f"cannot be read: {said(error)}") from error

    return piece


def _from(url: str, start: int, clock: Clock) -> Iterator[bytes]:
    """The bytes of a file from an offset on, a piece at a time."""
    if is_web(url):
        # Not at the top: for URLs of the web only, as it takes a while.
        from cnnviz.io.web import open_web

        stream: Any = open_web(url, clock, start)
        announced = getattr(stream, "length", None) or 0
        if start and stream.status == _PARTIAL:
            announced += start
        else:
            _skip(stream, start, clock)
    else:
        files, path = open_remote(url)
        stream = files.fs.open(path, "rb", block_size=_BLOCK)
        announced = int(getattr(stream, "size", None) or 0)
        stream.seek(start)
    # What has come, where more would have to be waited for: each piece has a time of its own.
    read = getattr(stream, "read1", stream.read)
    with stream:
        while (start < announced or not announced) and (piece := read(_CHUNK)):
            start += len(piece)
            yield piece
        if start < announced:
            raise BrokenOffError(f"the server broke off the connection after {start} bytes")


def _skip(stream: Any, count: int, clock: Clock) -> None:
    with suppress(EOFError):
        while count > 0 and (data := stream.read1(min(count, _CHUNK))):
            count -= len(data)
            clock.advance(len(data))
