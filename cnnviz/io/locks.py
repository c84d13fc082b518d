"""One run at a time writes a folder.

Where the system has locks, the lock is one of the system on the file ``.cnnviz-lock``: it vanishes with its process,
however that ends, and holds between containers of one machine, whatever process ids they have. Between machines, and
behind URLs, where nothing of the kind is to be had, the file says who writes and how long ago that was: best effort.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass

from cnnviz.errors import CnnvizError
from cnnviz.io.store import LOCK, Store

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BEAT_SECONDS = 15.0
"""How often an owner says that it is alive."""
STALE_SECONDS = 60.0
"""An owner that cannot be asked and has said nothing for so long is dead."""
_FAR = 1 << 30  # On Windows what is locked cannot be read: lock a byte behind the end.


@dataclass(frozen=True)
class Owner:
    """The process that writes a folder.

    Attributes:
        token: Random: two owners are never the same.
        host: Name of the machine.
        boot: Identity of its running kernel; empty where the system has none.
        space: Namespace of the process id: equal numbers in two containers are two processes.
        pid: Process id.
        began: When the process started, as the system counts it: process ids are used again.
        command: What it runs.
        beat: Seconds since 1970 when it last said that it is alive.
    """

    token: str
    host: str
    boot: str
    space: str
    pid: int
    began: str
    command: str
    beat: float

    @classmethod
    def here(cls, command: str) -> Owner:
        """This process."""
        pid = os.getpid()
        boot = _line("/proc/sys/kernel/random/boot_id")
        return cls(
            secrets.token_hex(16), socket.gethostname(), boot, _namespace(), pid, _start(pid), command, time.time()
        )

    @classmethod
    def read(cls, data: bytes | None) -> Owner | None:
        """The owner that a lock file names; None when it names none, as while it is written."""
        try:
            found = json.loads(data or b"")
            owner = cls(**found)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.token, owner.host, owner.boot, owner.space, owner.began, owner.command)
        plain = all(isinstance(text, str) and len(text) < 500 for text in texts)
        numbers = isinstance(owner.pid, int) and isinstance(owner.beat, (int, float))
        return owner if plain and numbers else None

    def to_json(self) -> bytes:
        return json.dumps({**asdict(self), "beat": time.time()}).encode()

    def on_machine_of(self, other: Owner) -> bool:
        """Whether both run on one kernel."""
        return self.boot == other.boot if self.boot or other.boot else self.host == other.host

    def ended(self, here: Owner) -> bool:
        """Whether its process is known to be gone."""
        if not self.on_machine_of(here) or self.space != here.space:
            return False
        return _start(self.pid) != self.began


class FolderLock:
    """The right to write a folder, from here to :meth:`release`.

    Args:
        store: The folder.
        command: Said to others that want it.

    Attributes:
        by_system: Whether the system holds the lock; otherwise it is best effort.

    Raises:
        CnnvizError: Another run writes the folder.
    """

    def __init__(self, store: Store, command: str) -> None:
        self.store = store
        self.owner = Owner.here(command)
        self.by_system = False
        self._lost: Owner | None = None
        self._descriptor: int | None = None
        self._released = threading.Event()
        try:
            if store.is_local:
                self._lock_file()
            else:
                self._take(Owner.read(store.read(LOCK)))
                store.write_now(LOCK, self.owner.to_json())
                self._check_mine()
        except BaseException:
            self._close()
            raise
        threading.Thread(target=self._beat, name="folder lock", daemon=True).start()

    def check(self) -> None:
        """Raises a CnnvizError when another run has taken the folder in the meantime."""
        if self._lost is not None:
            raise CnnvizError(
                f"{self.store.root!r} was taken over by another run ({_who(self._lost)})",
                "Let that run end, or run the command again in another folder: -o names it.",
            )

    def release(self) -> None:
        """Let others write the folder. May be called twice."""
        if self._released.is_set():
            return
        self._released.set()
        with contextlib.suppress(CnnvizError, OSError):
            if self._lost is None and self._holds():
                if sys.platform == "win32":
                    self._close()  # an open file cannot be removed there
                self.store.remove(LOCK)
        self._close()

    # A lock of the system.

    def _lock_file(self) -> None:
        """Open and lock the file, and make sure that it still is the one of this name."""
        while True:
            descriptor = self._descriptor = self.store.open_lock()
            self.by_system = self._lock(descriptor)
            if _same_file(descriptor, self.store.path(LOCK)):
                break
            self._close()
        before = Owner.read(os.pread(descriptor, 1 << 16, 0) if hasattr(os, "pread") else None)
        self._take(before)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, self.owner.to_json())

    def _lock(self, descriptor: int) -> bool:
        """Whether the system locked it; False where the file system has no locks."""
        try:
            if sys.platform == "win32":
                os.lseek(descriptor, _FAR, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            with open(self.store.path(LOCK), "rb") as stream:
                raise self._taken(Owner.read(stream.read(1 << 16))) from None
        except OSError:
            return False

    # The owner's word.

    def _take(self, before: Owner | None) -> None:
        """Raises a CnnvizError when the owner before may be alive."""
        if before is None or (self.by_system and before.on_machine_of(self.owner)) or before.ended(self.owner):
            return
        beat = before.beat
        if self._descriptor is not None:
            beat = max(beat, os.fstat(self._descriptor).st_mtime)
        if time.time() - beat < STALE_SECONDS:
            raise self._taken(before)

    def _taken(self, by: Owner | None) -> CnnvizError:
        return CnnvizError(
            f"another cnnviz run is writing to {self.store.root!r}{f' ({_who(by)})' if by is not None else ''}",
            f"{self._when(by)}, or name another folder with --out.",
        )

    def _when(self, by: Owner | None) -> str:
        if by is None or by.on_machine_of(self.owner):
            return "Wait until it has ended"
        return f"If that run is dead, try again in {STALE_SECONDS:.0f} seconds"

    def _holds(self) -> bool:
        """Whether the file is still this run's."""
        if self._descriptor is not None:
            return _same_file(self._descriptor, self.store.path(LOCK))
        found = Owner.read(self.store.read(LOCK))
        return found is not None and found.token == self.owner.token

    def _check_mine(self) -> None:
        """Of two runs that start at once, the one that wrote last has the folder."""
        found = Owner.read(self.store.read(LOCK))
        if found is not None and found.token != self.owner.token:
            raise self._taken(found)

    def _beat(self) -> None:
        """Say now and then that this run is alive, and see whether another took the folder."""
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the next beat may succeed; a folder that is gone is said elsewhere
                found = Owner.read(self.store.read(LOCK))
                if found is not None and found.token != self.owner.token:
                    self._lost = found
                    return
                if self._descriptor is not None:
                    os.utime(self._descriptor if os.utime in os.supports_fd else self.store.path(LOCK))
                else:
                    self.store.write_now(LOCK, self.owner.to_json())

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _who(owner: Owner) -> str:
    return f"{owner.command}, process {owner.pid} on {owner.host}"


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except (OSError, AttributeError):
        return ""


def _start(pid: int) -> str:
    """When a process started, in ticks since the boot; "gone" without such a process, "?" where it cannot be known."""
    if not os.path.isdir("/proc/self"):
        return "?"
    # The name of the program, in parentheses, may hold anything.
    fields = _line(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else "gone"
