"""An output folder behind a URL, in any file system that fsspec knows.

Object stores can neither append nor rename: a file is put whole, and one that grows by lines is put in parts,
which are joined at the end (:meth:`RemoteFolder.gather`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from cnnviz.errors import ImageError
from cnnviz.io.faults import persistently
from cnnviz.io.line_log import LineLog, Parts
from cnnviz.io.sources import is_url
from cnnviz.io.temporaries import sweep_remote, temporary
from cnnviz.io.walk import open_remote, said

# A put is atomic there: nobody sees half an object, and a rename would be a second upload.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "hf", "memory"})
_KEY_BYTES = 1024
"""The longest name of an object, with the folders before it."""
_CHUNK = 1 << 22


class RemoteFolder:
    """A folder of a file system of fsspec. Names are ``/``-separated; what fails and may pass is tried again.

    Args:
        url: Of the folder.

    Attributes:
        url: Of the folder.
        fs: The file system.
        base: The folder's path in it.
        puts_whole: Whether nobody sees a file before it is complete.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        files, path = open_remote(url)
        self.fs: Any = files.fs
        self.base = path.rstrip("/")
        protocol = self.fs.protocol
        self.puts_whole = bool(_OBJECT_STORES & set(protocol if isinstance(protocol, tuple) else (protocol,)))

    def path(self, name: str) -> str:
        """Where a name lies."""
        return f"{self.base}/{name}"

    def put(self, name: str, stream: BinaryIO) -> None:
        """Write a whole file."""
        persistently(lambda: self._put(self.path(name), stream))

    def _put(self, path: str, stream: BinaryIO) -> None:
        stream.seek(0)
        target = path
        if self.puts_whole:
            self._check_length(path)
        else:
            parent = path.rsplit("/", 1)[0]
            self.fs.makedirs(parent, exist_ok=True)
            target = f"{parent}/{temporary()}"
        copy = self.fs.open(target, "wb")
        try:
            shutil.copyfileobj(stream, copy, _CHUNK)
        except BaseException:
            _give_up(copy)
            raise
        copy.close()
        if target != path:
            self.fs.mv(target, path)

    @staticmethod
    def _check_length(path: str) -> None:
        if len(path.partition("/")[2].encode(errors="surrogatepass")) > _KEY_BYTES:
            raise ImageError("unwritable", f"{path[:80]}… has more than {_KEY_BYTES} bytes, which no object's name has")

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        data: bytes = persistently(lambda: self.fs.cat_file(self.path(name)))
        return data

    def open(self, name: str) -> BinaryIO:
        """A file to read from piece by piece."""

        def opened() -> BinaryIO:
            # What another process put since the folder was listed is longer or shorter than the list says.
            self.fs.invalidate_cache()
            stream: BinaryIO = self.fs.open(self.path(name), "rb")
            return stream

        return persistently(opened)

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return bool(persistently(lambda: self.fs.isfile(self.path(name))))

    def entries(self, below: str = "") -> list[dict[str, Any]]:
        """What is in a folder: ``name`` (without its folder), ``size``, ``type``."""
        folder = f"{self.base}/{below}" if below else self.base

        def listed() -> list[Any]:
            self.fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return list(self.fs.ls(folder, detail=True))
            return []

        found = [{**each, "name": str(each["name"]).rstrip("/")} for each in persistently(listed)]
        # Object stores may list the folder itself, as an empty object.
        inside = [each for each in found if each["name"].strip("/") != folder.strip("/")]
        return sorted(
            ({**each, "name": each["name"].rsplit("/", 1)[-1]} for each in inside), key=lambda each: str(each["name"])
        )

    def remove(self, name: str) -> None:
        """Remove a file. No error where there is none."""
        with contextlib.suppress(FileNotFoundError):
            persistently(lambda: self.fs.rm_file(self.path(name)))

    def copies(self, name: str, url: str) -> bool:
        """Put a copy of a file under a name, if it lies in this file system: it need not leave it then.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if not is_url(url):
            return False
        files, path = open_remote(url)
        if files.fs is not self.fs:
            return False
        self._check_length(self.path(name))
        if not self.puts_whole:
            self.fs.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)
        persistently(lambda: self.fs.cp_file(path, self.path(name)))
        return True

    def sweep(self) -> int:
        """Remove what interrupted writers left, and say how much that was."""
        return 0 if self.puts_whole else sweep_remote(self.fs, self.base)

    # Files that grow.

    def open_lines(self, name: str, ends_the_run: Callable[[str], AbstractContextManager[None]], again: str) -> LineLog:
        """A file that grows line by line, continued when it exists.

        Args:
            name: Of the file.
            ends_the_run: Is around whatever is put, and says what fails.
            again: The option with which a command that a full disk ended is repeated.
        """

        def put(start: int, lines: bytes) -> None:
            with ends_the_run(name):
                self.put_part(name, start, lines)

        def join(whole: BinaryIO) -> None:
            with ends_the_run(name):
                self.join(name, whole)

        with tempfile.TemporaryFile() as spool:  # the duplicate keeps it alive
            with ends_the_run(name), contextlib.suppress(FileNotFoundError), self.open(name) as before:
                shutil.copyfileobj(before, spool)
            spool.flush()
            return LineLog(os.dup(spool.fileno()), name, self.url, Parts(put, join), again=again)

    def put_part(self, name: str, start: int, lines: bytes) -> None:
        """Lines of a file that grows, which begin at this byte of it."""
        with tempfile.SpooledTemporaryFile(_CHUNK) as spool:
            spool.write(lines)
            self.put(f"{_parts(name)}/{start:016d}", spool)  # type: ignore[arg-type]

    def join(self, name: str, whole: BinaryIO) -> None:
        """The whole file in the place of its parts."""
        self.put(name, whole)
        self._remove_parts(name)

    def _remove_parts(self, name: str) -> None:
        for start, _ in list(self._parts_of(name)):
            self.remove(f"{_parts(name)}/{start:016d}")
        with contextlib.suppress(Exception):  # object stores have no empty folders, and others need not let it go
            if not self.puts_whole:
                self.fs.rmdir(self.path(_parts(name)))

    def _parts_of(self, name: str) -> Iterator[tuple[int, int]]:
        for each in self.entries(_parts(name)):
            if str(each["name"]).isdigit():
                yield int(each["name"]), int(each["size"])

    def gather(self, name: str) -> None:
        """Join what a killed writer left in parts.

        A part that lies before the end of the file is in it already: the writer was killed while it removed them. One
        that does not begin at the end belongs to nothing.
        """
        parts = list(self._parts_of(name))
        if not parts:
            return
        with tempfile.TemporaryFile() as whole:
            with contextlib.suppress(FileNotFoundError), self.open(name) as stream:
                shutil.copyfileobj(stream, whole, _CHUNK)
            before = end = whole.tell()
            for start, size in parts:
                if start == end:
                    whole.write(self.read(f"{_parts(name)}/{start:016d}"))
                    end += size
            if end > before:
                self.put(name, whole)
        self._remove_parts(name)


def _give_up(copy: Any) -> None:
    """Leave a file that is only half there: to close it would put that half in the place of what stood there."""
    with contextlib.suppress(Exception):  # each backend has errors of its own
        copy.discard()
    with contextlib.suppress(AttributeError):  # one that closes itself when it is forgotten
        copy.closed = True


def _parts(name: str) -> str:
    return f"{name}.parts"


def opened(path: str) -> BinaryIO:
    """A file of this machine or behind a URL.

    Raises:
        OSError: It cannot be read; FileNotFoundError where there is none.
    """
    if not is_url(path):
        return open(path, "rb")
    folder, _, name = path.rpartition("/")
    try:
        return RemoteFolder(folder).open(name)
    except OSError:
        raise
    except Exception as error:  # each backend has errors of its own
        raise OSError(said(error)) from error
