"""The output folder: whole files or none, never outside it, on a disk or behind a URL.

A file is written beside its final name and renamed when complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.faults import may_pass
from cnnviz.io.line_log import LineLog, deleted, failure, is_full
from cnnviz.io.remote_folder import RemoteFolder, opened
from cnnviz.io.sender import Sender
from cnnviz.io.sources import is_url
from cnnviz.io.temporaries import is_temporary, make_folders, sweep_folder, temporary
from cnnviz.io.walk import said

LOCK = ".cnnviz-lock"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


class Store:
    """An output folder, local or of any file system that fsspec knows. Safe in threads.

    Names are ``/``-separated and relative to the root; one that would leave it is refused, also through a
    symbolic link.

    Args:
        root: Path of a folder, which is made, or a URL.
        again: The option with which a command that a full disk ended is repeated.

    Raises:
        CnnvizError: When nothing can be written there: this is tried.
    """

    def __init__(self, root: str, again: str = "--resume") -> None:
        self.again = again
        self._noted: set[str] | None = None
        self._remote: RemoteFolder | None = None
        self._sender: Sender | None = None
        self._made: list[str] = []
        self.root = root.removeprefix("file://")
        if is_url(self.root):
            self._remote = RemoteFolder(self.root)
            self._base = self._remote.base
        else:
            self._base = os.path.realpath(self.root or ".")
            try:
                self._made = make_folders(self._base)
                self._identity = os.stat(self._base)
            except OSError as error:
                raise self._unusable(error) from error
        self._try()

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine, not a URL."""
        return self._remote is None

    def _try(self) -> None:
        probe = temporary()
        try:
            if self._remote is not None:
                self.write_now(probe, b"cnnviz\n")
                self.remove(probe)
                return
            stream, path = self._create_beside(os.path.join(self._base, probe))
            with stream:
                stream.write(b"cnnviz\n")
            with contextlib.suppress(FileNotFoundError):  # the folder's owner sweeps
                os.unlink(path)
        except (OSError, ImageError) as error:
            self.withdraw()
            raise self._unusable(error) from error

    def withdraw(self) -> None:
        """Remove the folders that this object made, if they are still empty: nothing came of the run."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                os.rmdir(folder)

    def _unusable(self, error: Exception) -> CnnvizError:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or said(error)
        return CnnvizError(f"cannot write to {self.root!r}: {reason}", "Name another folder with --out.")

    def path(self, name: str) -> str:
        """Where a name lies: an absolute path, or a path in the remote file system.

        Raises:
            CnnvizError: When this would be outside the root.
        """
        parts = name.split("/")
        bad = any(part in ("", ".", "..") for part in parts) or "\0" in name or "\\" in name
        if bad or (os.name == "nt" and ":" in name):
            raise self._leaves(name)
        if self._remote is not None:
            return self._remote.path(name)
        parent = os.path.join(self._base, *parts[:-1])
        if len(parts) > 1:
            real = os.path.realpath(parent)
            if real != self._base and not real.startswith(self._base.rstrip(os.sep) + os.sep):
                raise self._leaves(name)
        return os.path.join(parent, parts[-1])

    def _leaves(self, name: str) -> CnnvizError:
        message = f"{name!r} does not lie within the output folder {self.root!r}"
        return CnnvizError(message, "Remove the link that leads out, or name another folder with --out.")

    @contextlib.contextmanager
    def noting(self) -> Iterator[set[str]]:
        """The names that are written until the block ends."""
        found = self._noted = set()
        try:
            yield found
        finally:
            self._noted = None

    def _note(self, name: str) -> None:
        if self._noted is not None:
            self._noted.add(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, or nothing; within :meth:`sending`, soon.

        Raises:
            CnnvizError: The disk is full, or the name leaves the root.
            ImageError: Of kind ``unwritable``, when only this name cannot be written.
        """
        if self._sender is None:
            self.write_now(name, data)
        else:
            self.path(name)
            self._sender.submit(name, len(data), lambda: self.write_now(name, data))

    def write_now(self, name: str, data: bytes) -> None:
        """Write a whole file, or nothing; it is there when this returns.

        Raises:
            CnnvizError, ImageError: As :meth:`write`.
        """
        with self._said(name), self.stream(name) as stream:
            stream.write(data)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Behind a URL, files are written in threads of their own until the block ends: each waits for an answer.

        What fails is raised by :meth:`settle`, or by whatever asks for the file.
        """
        if self._remote is None:
            yield
            return
        self._sender = sender = Sender()
        try:
            yield
            sender.settle()
        finally:
            self._sender = None
            sender.close()

    def settle(self, names: Iterable[str]) -> None:
        """Wait until these files are there.

        Raises:
            CnnvizError, ImageError: As :meth:`write`: one of them could not be written.
        """
        if self._sender is not None:
            self._sender.settle(names)

    def adopt(self, name: str, path: str) -> None:
        """A file, of a path or a URL, under a name here: one file with two names where the disk allows it, else a copy;
        within :meth:`sending`, soon. Files are never written in place, so that neither changes with the other.

        Raises:
            FileNotFoundError: There is no such file.
            CnnvizError, ImageError: As :meth:`write`.
        """
        if self._sender is not None:
            self._sender.submit(name, 0, lambda: self._adopt(name, path))
        else:
            self._adopt(name, path)

    def _adopt(self, name: str, path: str) -> None:
        if self._remote is None:
            beside = os.path.join(self._base, temporary())
            with contextlib.suppress(OSError):
                os.link(path, beside)
                target = self.path(name)
                self._make_below(os.path.dirname(target))
                os.replace(beside, target)
                with contextlib.suppress(FileNotFoundError):  # which a replace by a second name of one file leaves
                    os.unlink(beside)
                return
        elif self._remote.copies(name, path):
            return
        with opened(path) as source, self.stream(name) as copy:
            shutil.copyfileobj(source, copy)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to, which appears under its name when the block ends without an exception.

        Raises:
            CnnvizError, ImageError: As :meth:`write`.
        """
        path = self.path(name)
        self._note(name)
        if self._remote is not None:
            with tempfile.TemporaryFile() as spool:
                yield spool
                spool.seek(0)
                with self._said(name):
                    self._remote.put(name, spool)
            return
        with self._said(name):
            stream, beside = self._create_beside(path)
        try:
            with self._said(name, full_only=True), stream:
                yield stream
            with self._said(name):
                os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise

    def _create_beside(self, path: str) -> tuple[BinaryIO, str]:
        parent = os.path.dirname(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY
        while True:
            beside = os.path.join(parent, temporary())
            try:
                return os.fdopen(os.open(beside, flags, 0o666), "wb"), beside
            except FileExistsError:
                continue
            except FileNotFoundError:
                self.check_there()
                self._make_below(parent)

    def _make_below(self, folder: str) -> None:
        """Make the folders from the root, which must be there, to one below it."""
        at = self._base
        for part in os.path.relpath(folder, self._base).split(os.sep):
            at = os.path.join(at, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(at)

    def check_there(self) -> None:
        """Raises a CnnvizError when the folder was deleted or moved: it is not to be made a second time."""
        try:
            there = self._remote is not None or os.path.samestat(self._identity, os.stat(self._base))
        except OSError:
            there = False
        if not there:
            raise deleted(self.root)

    @contextlib.contextmanager
    def _said(self, name: str, *, full_only: bool = False) -> Iterator[None]:
        """Turn what the system says into our errors. `full_only`: other errors may be of the caller."""
        try:
            yield
        except CnnvizError:
            raise
        except OSError as error:
            if full_only and not is_full(error):
                raise
            raise failure(error, name, self.root, self.again) from error
        except Exception as error:  # each backend has errors of its own
            if self._remote is None:
                raise
            raise ImageError("unwritable", f"{name!r} cannot be written to {self.root!r}: {said(error)}") from error

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None when there is none."""
        if self._remote is not None:
            with self._read(name):
                return self._remote.read(name)
            return None
        stream = self.open(name)
        if stream is None:
            return None
        with stream:
            return stream.read()

    def open(self, name: str) -> BinaryIO | None:
        """A file to read from piece by piece; None when there is none."""
        with self._read(name):
            return open(self.path(name), "rb") if self._remote is None else self._remote.open(name)
        return None

    @contextlib.contextmanager
    def _read(self, name: str) -> Iterator[None]:
        """A file that is not there is no error; another is said."""
        path = self.path(name)
        self.settle([name])
        try:
            yield
        except Exception as error:  # each backend has errors of its own
            if isinstance(error, FileNotFoundError) and not may_pass(error):
                return
            if isinstance(error, CnnvizError) or (self._remote is None and not isinstance(error, OSError)):
                raise
            reason = getattr(error, "strerror", None) or said(error)
            raise CnnvizError(f"{path!r} cannot be read: {reason}", "Check that it may be read.") from error

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        path = self.path(name)
        if self._remote is None:
            return os.path.isfile(path)
        self.settle([name])
        return self._remote.exists(name)

    def is_empty(self) -> bool:
        """Whether there is nothing but a lock and what an interrupted writer left."""
        return all(name == LOCK or is_temporary(name) for name in self.entries())

    def check_name(self, name: str) -> None:
        """Raises a CnnvizError where a folder has the name of a file to write, or a file that of a folder."""
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            at = "/".join(parts[:depth])
            there = self.path(at)
            if self._remote is None and os.path.lexists(there) and os.path.isdir(there) != (depth < len(parts)):
                kind, other = ("file", "folder") if depth == len(parts) else ("folder", "file")
                raise CnnvizError(
                    f"a {other} is called {at!r} in the output folder {self.root!r}, where a {kind} will be written",
                    f"Rename that {other}, or name another folder with --out.",
                )

    def entries(self) -> list[str]:
        """Names of the files and folders at the top."""
        if self._remote is None:
            return sorted(os.listdir(self._base))
        return [str(each["name"]) for each in self._remote.entries()]

    def sweep(self) -> int:
        """Remove what interrupted writers left, and say how much that was. Only for the folder's owner."""
        if self._remote is None:
            return sweep_folder(self._base)
        return self._remote.sweep()

    def open_lock(self) -> int:
        """A descriptor of the lock file of a local folder."""
        with self._said(LOCK):
            return os.open(self.path(LOCK), os.O_RDWR | os.O_CREAT | _NO_FOLLOW | _BINARY, 0o666)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens when there is none."""
        path = self.path(name)
        with contextlib.suppress(ImageError):  # one that never arrived need not be removed
            self.settle([name])
        with self._said(name), contextlib.suppress(FileNotFoundError):
            if self._remote is None:
                os.unlink(path)
            else:
                self._remote.remove(name)

    def open_lines(self, name: str) -> LineLog:
        """A file that grows line by line, continued when it exists.

        Behind a URL lines gather in a local file, and are put in parts now and then; :meth:`LineLog.close` joins them.
        What a killed writer left in parts must have been joined by :meth:`gather`.

        Raises:
            CnnvizError, ImageError: As :meth:`write`.
        """
        path, remote = self.path(name), self._remote
        if remote is not None:
            return remote.open_lines(name, self._ends_the_run, self.again)
        with self._said(name):
            self.check_there()
            os.makedirs(os.path.dirname(path), exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_FOLLOW | _BINARY
            return LineLog(os.open(path, flags, 0o666), name, self.root, path=path, again=self.again)

    @contextlib.contextmanager
    def _ends_the_run(self, name: str) -> Iterator[None]:
        """Without its records a run is nothing: what a picture is a line for ends it here."""
        try:
            with self._said(name):
                yield
        except ImageError as error:
            hint = f"Check the URL and your access to it, then repeat the command with {self.again}."
            raise CnnvizError(error.message, hint) from error

    def gather(self, name: str) -> None:
        """Join the parts of a file of lines that a killed writer left behind a URL. Only for the folder's owner."""
        if self._remote is not None:
            with self._ends_the_run(name):
                self._remote.gather(name)
