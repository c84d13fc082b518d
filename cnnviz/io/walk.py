"""Folders and globs, of this machine and of any file system that fsspec knows: one walk over both.

Lazy and in sorted order. Only the names of the directories that lead to the current file are held.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.errors import CnnvizError, first_line
from cnnviz.io.faults import persistently
from cnnviz.io.names import Names, safe_component
from cnnviz.io.patience import patiently

# What the extra `remote` brings.
_EXTRA_PROTOCOLS = frozenset({"http", "https", "s3", "s3a", "gs", "gcs"})

# An address of IPv6 in brackets has the colons of a chain of file systems.
_IPV6 = re.compile(r"//[^/@]*@?\[[^/]*")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(?:://|::)")

State = frozenset[int] | None
"""How far a glob has matched: the set of positions in the pattern at which the path so far may stand (``**``
stands for any number of folders). None: the pattern is used up, and everything below is asked for."""


Told = Callable[[str], None]
"""Told the path of each folder that is passed over because it holds results of a run."""

_REPORT, _SCHEMA = "report.json", b'"schema": "cnnviz.report/'


@dataclass(slots=True)
class LocalFiles:
    """Directories of this machine. One object serves one walk."""

    told: Told | None = None
    root: str = ""
    entered: set[tuple[int, int]] = field(default_factory=set)

    def join(self, folder: str, name: str) -> str:
        """Path of an entry."""
        return os.path.join(folder, name)

    def uri(self, path: str) -> str:
        """How the path is written in a record."""
        return path

    def head(self, path: str) -> bytes:
        """The first bytes of a file."""
        with open(path, "rb") as stream:
            return stream.read(200)

    def entries(self, folder: str) -> list[tuple[str, bool]]:
        """(name, is a folder), sorted: regular files, folders, and links that lead nowhere; none hidden.

        Links to folders are followed, but a folder is entered once, by its device and inode; and when it
        lies below the root anyway, then there, under its real name.
        """
        folder = folder or "."
        self.root = self.root or os.path.realpath(folder)
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in self.entered:
            return []
        self.entered.add((info.st_dev, info.st_ino))
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and (is_folder := self._is_folder(entry)) is not None:
                    found.append((entry.name, is_folder))
        return sorted(found)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool | None:
        """None for what is to be passed over: pipes, sockets, devices, links to folders listed elsewhere."""
        try:
            if entry.is_dir():
                return None if entry.is_symlink() and self._is_below_root(entry.path) else True
            if entry.is_file():
                return False
        except OSError:  # a link to itself
            return False
        return False if entry.is_symlink() and not os.path.exists(entry.path) else None

    def _is_below_root(self, link: str) -> bool:
        try:
            inside = os.path.relpath(os.path.realpath(link), self.root).split(os.sep)
        except ValueError:  # another drive
            return False
        return not any(part.startswith(".") and part != os.curdir for part in inside)


@dataclass(slots=True)
class RemoteFiles:
    """Directories of a file system of fsspec."""

    fs: Any
    prefix: str
    suffix: str
    told: Told | None = None

    def join(self, folder: str, name: str) -> str:
        """Path of an entry."""
        return f"{folder.rstrip('/')}/{name}" if folder else name

    def uri(self, path: str) -> str:
        """The URL that opens this path."""
        if self.suffix or self.prefix:
            return f"{self.prefix}{path}{self.suffix}"
        return str(self.fs.unstrip_protocol(path))

    def head(self, path: str) -> bytes:
        """The first bytes of a file."""
        with self.fs.open(path, "rb") as stream:
            return bytes(stream.read(200))

    def entries(self, folder: str) -> list[tuple[str, bool]]:
        """(name, is a folder), sorted; none hidden."""
        listed = persistently(lambda: patiently(lambda clock: self.fs.ls(folder, detail=True)))
        own = folder.strip("/")  # object stores may list the folder itself, as an empty object
        found = {
            (str(item["name"]).rstrip("/").rsplit("/", 1)[-1], item["type"] == "directory")
            for item in listed
            if str(item["name"]).strip("/") != own
        }
        return sorted((name, is_folder) for name, is_folder in found if name and not name.startswith("."))


Files = LocalFiles | RemoteFiles
Found = Iterator[tuple[str, str]]
"""(uri, name) of each file, in order."""


def is_url(uri: str) -> bool:
    """Whether this is for fsspec, not a path. A path that exists is a path, whatever it looks like."""
    return bool(_URL.match(uri)) and not os.path.lexists(uri)


def url_path(url: str) -> str:
    """The path of a URL, without its scheme, query and outer archives."""
    first = next((segment for segment in url.split("::") if "://" in segment), url)
    path = first.split("://", 1)[-1]
    return re.split(r"[?#]", path)[0] if first.startswith("http") else path


def is_web(url: str) -> bool:
    """Whether this is one address of the web, not an archive behind one."""
    rest = _IPV6.sub("//", url, count=1)
    return url.lower().startswith(("http://", "https://")) and "::" not in rest


def open_remote(url: str) -> tuple[RemoteFiles, str]:
    """The file system of a URL and the path in it.

    Raises:
        CnnvizError: When the protocol is unknown, its package is missing, or it cannot be reached.
    """
    segments = url.split("::")
    at = next((at for at, segment in enumerate(segments) if "://" in segment), 0)
    protocol = segments[at].split("://")[0]
    try:
        if len(segments) == 1:
            fs, path = _fsspec().url_to_fs(url)
            return RemoteFiles(fs, "", ""), str(path)
        prefix = "".join(f"{segment}::" for segment in segments[:at]) + f"{protocol}://"
        suffix = "".join(f"::{segment}" for segment in segments[at + 1 :])
        fs = _chained(prefix + suffix)
        return RemoteFiles(fs, prefix, suffix), str(fs._strip_protocol(segments[at]))
    except ImportError as error:
        raise lacks_package(url, error) from error
    except Exception as error:  # each backend has errors of its own
        raise CnnvizError(f"{url!r} cannot be opened: {said(error)}", "Check the URL.") from error


def check_protocols(url: str) -> None:
    """Raises a CnnvizError that names the command of pip when a URL needs a package that is not installed."""
    segments = url.split("::")
    for segment in segments:
        protocol = segment.split("://")[0] if "://" in segment or len(segments) > 1 else "file"
        try:
            _filesystem(protocol)
        except ImportError as error:
            raise lacks_package(url, error) from error
        except ValueError:
            return  # no protocol that is known: said where it is opened


@functools.lru_cache(maxsize=64)
def _filesystem(protocol: str) -> Any:
    return importlib.import_module("fsspec").get_filesystem_class(protocol)


def lacks_package(url: str, error: ImportError) -> CnnvizError:
    """What to install for a protocol that fsspec knows but cannot speak here."""
    ours = any(segment.split("://")[0].lower() in _EXTRA_PROTOCOLS for segment in url.split("::"))
    hint = "pip install 'cnnviz[remote]'" if ours else "Install the package that it names."
    return CnnvizError(f"{url!r} needs a package that is not installed: {said(error)}", hint)


@functools.lru_cache(maxsize=16)
def _chained(url: str) -> Any:
    """One object per archive: fsspec makes a new one at each call, which reads the whole directory again."""
    return _fsspec().url_to_fs(url)[0]


def _fsspec() -> Any:
    """``fsspec.core``, imported for URLs only: it takes a while."""
    return importlib.import_module("fsspec.core")


def said(error: Exception) -> str:
    """The first line of an error's text."""
    return first_line(error)[:200]


def walk(files: Files, root: str, state: State = None, pattern: Sequence[str] = ()) -> Found:
    """(uri, name) of every file below a folder, depth first and sorted.

    Folders below it that are the output of a run are passed over, and told. The names are safe and unique within
    this walk. A folder that cannot be listed is yielded like a file:
    reading it says why. A stack instead of recursion, because a path may have two thousand components.
    """
    stack = [_listing(files, root, "", state, pattern)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif item.is_folder:
            stack.append(_listing(files, item.path, item.name, item.state, pattern))
        else:
            yield files.uri(item.path) or ".", item.name


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    name: str
    is_folder: bool
    state: State


def _listing(files: Files, folder: str, below: str, state: State, pattern: Sequence[str]) -> Iterator[_Entry]:
    """What is asked for in one directory."""
    try:
        entries = files.entries(folder)
    except Exception:  # a backend's own; said when the entry is read
        base = safe_component(os.path.basename(os.path.abspath(folder))) if folder else "folder"
        yield _Entry(folder, below or base, False, None)
        return
    # The folder that was named is gone through whatever it is.
    if below and _is_of_a_run(files, folder, entries):
        if files.told is not None:
            files.told(files.uri(folder))
        return
    names = Names()
    for entry, is_folder in entries:
        following = state if state is None else _advance(state, entry, pattern)
        if (following is None) if not is_folder else (following is None or following):
            name = names.unique(safe_component(entry))
            path = f"{below}/{name}" if below else name
            yield _Entry(files.join(folder, entry), path, is_folder, following)


def _is_of_a_run(files: Files, folder: str, entries: Sequence[tuple[str, bool]]) -> bool:
    """Whether a folder is the output of a run, whose pictures are no photographs."""
    if (_REPORT, False) not in entries:
        return False
    try:
        return _SCHEMA in files.head(files.join(folder, _REPORT))
    except Exception:  # each backend has errors of its own
        return False


def _advance(state: frozenset[int], name: str, pattern: Sequence[str]) -> State:
    """The state one component further; empty when the pattern does not fit."""
    after = set()
    for place in state:
        if pattern[place] == "**":
            after.add(place)
        elif fnmatch.fnmatchcase(name, pattern[place]):
            after.add(place + 1)
    return _settle(after, pattern)


def _settle(places: set[int], pattern: Sequence[str]) -> State:
    """Let every ``**`` also stand for no folder at all."""
    for place, part in enumerate(pattern):
        if place in places and part == "**":
            places.add(place + 1)
    return None if len(pattern) in places else frozenset(places)


def matching(open_files: Callable[[], Files], path: str, text: str) -> Callable[[], Found]:
    """A glob: the fixed part in front is the root, the rest is matched one component at a time.

    A folder that matches is listed whole, as a shell would hand it over.

    Raises:
        CnnvizError: When nothing matches ``text``.
    """
    parts = path.replace(os.sep, "/").split("/")
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:fixed]) or ("/" if fixed else "")
    pattern = [part for part in parts[fixed:] if part]

    def found() -> Found:
        return walk(open_files(), root, _settle({0}, pattern), pattern)

    if isinstance(open_files(), LocalFiles) and not os.path.isdir(root or "."):
        raise CnnvizError(f"INPUT {text!r}: no folder {root!r}", "Check the part before the wildcard.")
    if next(found(), None) is None:
        raise CnnvizError(f"INPUT {text!r} matches no file", "Use ** for sub-folders, or name the folder.")
    return found
