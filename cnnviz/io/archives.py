"""Images within archives: tar, also compressed, and zip; of this machine or behind a URL.

Nothing is extracted under a name of the archive's. Members are listed while the archive is read, and a member is read
from its place. What comes from a server, or is compressed, lies in a temporary file as far as it has come.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import threading
import urllib.parse
import weakref
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from cnnviz.errors import CnnvizError, ImageError, shown
from cnnviz.io.downloads import stored
from cnnviz.io.fetch import chunks
from cnnviz.io.spool import Spool, fetched, unpacked
from cnnviz.io.walk import is_url, said, url_path

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
OPEN = 4
"""Archives that are kept open, those that were asked for last."""

_MEMBER = re.compile(r"(?:tar|zip)://(.*?)::(?!.*::)(.+)", re.DOTALL | re.IGNORECASE)
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
_MOST_OF_RANGE = 100_000
_PADDING = 1 << 20
"""Bytes behind the end of a tar archive that are looked at: programs fill up their blocks with zeros."""
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


def is_archive(path: str) -> bool:
    """Whether a path or URL ends as archives do."""
    return _plain(path).endswith(SUFFIXES)


def _plain(path: str) -> str:
    return (re.split(r"[?#]", path)[0] if path.lower().startswith("http") else path).lower()


def stem(name: str) -> str:
    """The name of an archive without what says that it is one."""
    suffix = next(each for each in sorted(SUFFIXES, key=len, reverse=True) if _plain(name).endswith(each))
    return name[: len(_plain(name)) - len(suffix)] or name


def expand(text: str) -> list[str]:
    """``shard-{000..009}.tar`` as the archives that it means: numbers as wide as the first."""
    found = _RANGE.search(text)
    if found is None or not is_archive(text) or os.path.lexists(text):
        return [text]
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + _MOST_OF_RANGE:
        raise CnnvizError(f"INPUT {text!r}: {found[0]} is no range.", "For example shard-{000..009}.tar")
    numbers = (f"{number:0{len(found[1])}d}" for number in range(first, last + 1))
    return [each for number in numbers for each in expand(text[: found.start()] + number + text[found.end() :])]


def uri_of(member: str, archive: str) -> str:
    """How a member is written in a record: as fsspec writes it."""
    if "::" in member or "%" in member:
        member = member.replace("%", "%25").replace("::", "%3A%3A")
    return f"{'zip' if _plain(archive).endswith('.zip') else 'tar'}://{member}::{archive}"


def is_member(uri: str) -> bool:
    """Whether this is a member of an archive that is read here; others are fsspec's."""
    found = _MEMBER.fullmatch(uri)
    return found is not None and is_archive(found[2])


def path_of(uri: str) -> str:
    """Where an image lies, without what stands around that: a path, that of a URL, or that within an archive."""
    found = _MEMBER.fullmatch(uri) if is_member(uri) else None
    if found is not None:
        return urllib.parse.unquote(found[1], errors="surrogateescape")
    return url_path(uri) if is_url(uri) else uri


def is_fetched(text: str) -> bool:
    """Whether an INPUT is of archives behind a URL: to list them is to fetch them."""
    return is_url(text) and is_archive(text) and not is_member(text)


def members(archive: str) -> Iterator[str]:
    """Names of the files of an archive, in its order, hidden ones left out; of equal names the first counts. Of a link
    to what is not in the archive the name alone is there.

    Raises:
        ImageError: Behind the last of them: the archive could not be read to its end.
    """
    opened = _open(archive)
    yield from opened.names()
    # Of this very object: others may have taken its place since.
    if opened.problem is not None:
        raise opened.problem


def problem(archive: str) -> ImageError | None:
    """Why an archive could not be read to its end; None where it could, or where nobody listed all members lately."""
    return _open(archive).problem


def read_member(uri: str) -> BinaryIO:
    """The bytes of a member, at their beginning. Who gets them closes them.

    Raises:
        ImageError: There is no such member, or it cannot be read.
    """
    found = _MEMBER.fullmatch(uri)
    assert found is not None
    return _open(found[2]).read(found[1])


class _Format(Protocol):
    """How members lie in a kind of archive."""

    def advance(self) -> list[tuple[str, Any]] | None:
        """The next regular files and their places; None at the end."""

    def stream(self, place: Any) -> BinaryIO:
        """A member to read from."""


class _Tar:
    def __init__(self, file: Any, lock: threading.RLock) -> None:
        self._file, self._lock = file, lock
        self._tar = tarfile.TarFile(fileobj=file)
        self._places: dict[str, tuple[int, int]] = {}

    def advance(self) -> list[tuple[str, Any]] | None:
        info = self._tar.next()
        if info is None:
            self._check_end()
            return None
        self._tar.members.clear()  # type: ignore[attr-defined]  # a million of them take a gigabyte
        place: tuple[int, int] | str
        if info.islnk() and info.linkname in self._places:  # a second name of a file before
            place = self._places[info.linkname]
        elif info.islnk() or info.issym():
            return [(info.name, info.linkname)]
        elif info.isreg() and not info.issparse():
            place = (info.offset_data, info.size)
        else:
            return []
        self._places[info.name] = place
        return [(info.name, place)]

    def _check_end(self) -> None:
        """tarfile takes a header that cannot be read for the end, and so it does the end of a file that was cut off."""
        self._file.seek(self._tar.offset)
        block = self._file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it was cut off")
        if block.strip(b"\0"):
            raise tarfile.ReadError("a header cannot be read")
        if self._file.read(_PADDING).strip(b"\0"):
            raise tarfile.ReadError("more follows behind its end, as in archives that were joined")

    def stream(self, place: Any) -> BinaryIO:
        if isinstance(place, str):
            raise ImageError("unreadable", f"the archive has a link to {shown(place)} here, and not the file")
        return io.BufferedReader(_Piece(self._file, self._lock, *place))


class _Zip:
    def __init__(self, file: Any) -> None:
        self._zip = zipfile.ZipFile(file)
        self._left: list[zipfile.ZipInfo] | None = [info for info in self._zip.infolist() if not info.is_dir()]

    def advance(self) -> list[tuple[str, Any]] | None:
        found, self._left = self._left, None
        return None if found is None else [(info.filename, info) for info in found]

    def stream(self, place: Any) -> BinaryIO:
        stream: Any = self._zip.open(place)  # locks the file itself
        return stream  # type: ignore[no-any-return]


class _Piece(io.RawIOBase):
    """A piece of a file that other threads read too."""

    def __init__(self, file: Any, lock: threading.RLock, start: int, size: int) -> None:
        self._file, self._lock, self._at, self._left = file, lock, start, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._left)
        with self._lock:
            self._file.seek(self._at)
            data = self._file.read(count)
        if count and not data:
            raise ImageError("unreadable", "the archive ends within this file")
        buffer[: len(data)] = data
        self._at, self._left = self._at + len(data), self._left - len(data)
        return len(data)


class _Archive:
    """An open archive. Safe in threads. Takes about a quarter of a kilobyte a member."""

    def __init__(self, path: str) -> None:
        self.problem: ImageError | None = None
        self._lock = threading.RLock()
        self._names: list[str] = []
        self._places: dict[str, Any] = {}
        self._format: _Format | None = None
        self._ended = False
        try:
            file: Any = Spool(fetched(path)) if is_url(path) else open(path, "rb")  # noqa: SIM115 - closed with it
            weakref.finalize(self, file.close)
            reader = unpacked(file, _plain(path))
            if reader is not file:
                weakref.finalize(self, reader.close)
            self._format = _Zip(file) if _plain(path).endswith(".zip") else _Tar(reader, self._lock)
        except _BROKEN as error:
            self._fail(error)
        except ImageError as error:
            self.problem, self._ended = error, True

    def _fail(self, error: Exception) -> None:
        self._ended = True
        if isinstance(error, FileNotFoundError):
            self.problem = ImageError("missing", "there is no such archive")
        else:
            reason = getattr(error, "strerror", None) or said(error)
            after = f" after {len(self._names)} files" if self._names else ""
            self.problem = ImageError("unreadable", f"the archive is broken{after}: {reason}")

    def _advance(self) -> None:
        """List some more members."""
        assert self._format is not None
        try:
            found = self._format.advance()
        except _BROKEN as error:
            self._fail(error)
            return
        except ImageError as error:
            self.problem, self._ended = error, True
            return
        if found is None:
            self._ended = True
        for name, place in found or ():
            parts = [part for part in name.split("/") if part not in ("", ".")]
            key = "/".join(parts)
            hidden = any(part.startswith(".") and part != ".." for part in parts)
            if parts and not hidden and key not in self._places:
                self._places[key] = place
                self._names.append(key)

    def names(self) -> Iterator[str]:
        at = 0
        while True:
            with self._lock:
                while at >= len(self._names) and not self._ended:
                    self._advance()
                if at >= len(self._names):
                    return
                name = self._names[at]
            yield name
            at += 1

    def _find(self, name: str) -> Any:
        with self._lock:
            # As :func:`uri_of` writes it; or as somebody typed it.
            for key in (urllib.parse.unquote(name, errors="surrogateescape"), name):
                while key not in self._places and not self._ended:
                    self._advance()
                if key in self._places:
                    return self._places[key]
        raise self.problem or ImageError("missing", "the archive has no such file")

    def read(self, name: str) -> BinaryIO:
        place = self._find(name)
        assert self._format is not None
        try:
            with self._format.stream(place) as stream:
                return stored(chunks(stream))
        except ImageError:
            raise
        except (NotImplementedError, *_BROKEN) as error:
            raise ImageError("unreadable", f"cannot be read from its archive: {said(error)}") from error


_archives: OrderedDict[Any, _Archive] = OrderedDict()
_turn = threading.Lock()


def _open(path: str) -> _Archive:
    key: Any = path
    if not is_url(path):
        try:
            here = os.stat(path)
            key = (os.path.abspath(path), here.st_mtime_ns, here.st_size)
        except (OSError, ValueError):
            pass  # said where it is opened
    with _turn:
        if key not in _archives:
            _archives[key] = _Archive(path)
        _archives.move_to_end(key)
        while len(_archives) > OPEN:
            _archives.popitem(last=False)  # who still reads from it keeps it
        return _archives[key]
