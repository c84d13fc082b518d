"""What was computed before, kept by the digest of all that it depends on: whole files in a folder that may be shared.

An entry is one file, ``XX/<key>``, that begins with the digest of its content. It is written beside its name and
renamed, so that runs beside each other never see half of one, and whichever comes last writes the same. An entry that
is cut off or damaged is as good as none: it is removed, and written again. A file's time of change is when it was used
last; where the folder grows beyond its limit, what was used longest ago goes. A cache never ends a run: what cannot be
read or written is left alone, and said once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.temporaries import is_temporary, temporary

FOLDER, SIZE = "CNNVIZ_CACHE_DIR", "CNNVIZ_CACHE_SIZE"
LIMIT = 4 << 30
_MAGIC = b"cnnviz-cache/1 "
_HEAD = len(_MAGIC) + 64 + 1
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# To this share of the limit it is emptied, so that not every run has to.
_KEPT = 0.9
# What a killed writer left is older than this, in seconds.
_STALE = 3600.0


class ContentCache:
    """A folder of entries. Safe in threads, and beside other processes.

    Args:
        folder: Where it lies; made when something is kept.
        limit: Bytes that it may take.
        note: Told once where it cannot be written.
    """

    def __init__(self, folder: str, limit: int = LIMIT, note: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.limit = folder, limit
        self._note, self._silent = note, False

    def get(self, key: str) -> bytes | None:
        """What is kept under a key; None where there is nothing, or nothing whole."""
        path = self._path(key)
        try:
            with open(path, "rb") as stream:
                head, content = stream.read(_HEAD), stream.read()
        except OSError:
            return None
        if head != _head(content):
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        with contextlib.suppress(OSError):  # a folder that others may only read
            os.utime(path)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep something under a key, or not where it cannot be written."""
        path = self._path(key)
        beside = os.path.join(os.path.dirname(path), temporary())
        try:
            # What was seen in photographs is for whoever ran it, unless that they make the folder for more.
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(beside, "xb") as stream:
                stream.write(_head(content))
                stream.write(content)
            os.replace(beside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            if not self._silent:
                self._silent = True
                self._note(f"the cache {self.folder} cannot be written ({error.strerror or error})")

    def tidy(self) -> int:
        """Remove what was used longest ago until the folder is within its limit. Returns how many entries went."""
        entries = sorted(self._entries(), key=lambda entry: entry[1])
        total, gone = sum(size for _, _, size in entries), 0
        if total <= self.limit:
            return 0
        for path, _, size in entries:
            if total <= _KEPT * self.limit:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                gone += 1
            total -= size
        return gone

    def _entries(self) -> Iterator[tuple[str, float, int]]:
        """Path, time and size of each; leftovers of killed writers are removed on the way."""
        try:
            shards = [entry.path for entry in os.scandir(self.folder) if len(entry.name) == 2 and entry.is_dir()]
        except OSError:
            return
        for shard in shards:
            with contextlib.suppress(OSError), os.scandir(shard) as files:
                for file in files:
                    with contextlib.suppress(OSError):
                        facts = file.stat()
                        if not is_temporary(file.name):
                            yield file.path, facts.st_mtime, facts.st_size
                        elif time.time() - facts.st_mtime > _STALE:
                            os.unlink(file.path)

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, key[:2], key)


def _head(content: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n"


def users_cache(environment: Mapping[str, str] = os.environ) -> str | None:
    """The cache of whoever is here: ``CNNVIZ_CACHE_DIR``, where that is empty none; else the system's place for it."""
    named = environment.get(FOLDER)
    if named is not None:
        return named or None
    base = users_caches(environment)
    return None if base is None else os.path.join(base, "cnnviz")


def users_caches(environment: Mapping[str, str] = os.environ) -> str | None:
    """The folder in which the system keeps the caches of whoever is here; None for nobody."""
    home = os.path.expanduser("~")
    if home == "~":
        return None
    if sys.platform == "win32":
        return environment.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Caches")
    return environment.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")


def cache_limit(environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that a cache may take: ``CNNVIZ_CACHE_SIZE``, such as 500M or 20G.

    Raises:
        CnnvizError: It is no size.
    """
    text = environment.get(SIZE)
    if not text:
        return LIMIT
    number, unit = text.strip().rstrip("bB"), ""
    if number and number[-1].upper() in _UNITS:
        number, unit = number[:-1], number[-1].upper()
    try:
        found = float(number) * _UNITS[unit]
        if not 0 <= found < float("inf"):
            raise ValueError(text)
    except ValueError:
        raise CnnvizError(f"{SIZE}={shown(text)}: expected a size.", f"For example {SIZE}=4G") from None
    return int(found)
