"""C that is compiled where it runs: for the processor at hand, and only where there is a compiler.

What was compiled is kept in the user's own cache, under a name that tells source, compiler and processor, and is loaded
from there only where nobody else can have put it, and only whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.resources
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from cnnviz.io.cache import FOLDER, users_caches

_COMPILERS = ("cc", "gcc", "clang")
# Nobody asks for the errors of sqrt, and no operation traps. What else "fast math" would allow changes results.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-w")
# What only some compilers know: tried first.
_MORE = ("-mprefer-vector-width=512",)
_KEPT, _DIGEST = "cnnviz-compiled", ".sha256"
_SECONDS = 60


def source_of(package: str, name: str) -> str:
    """C that comes with a package."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def compiled(source: str) -> ctypes.CDLL | None:
    """The library that C source becomes; None where nothing compiles it.

    The compiler is that of the environment variable ``CC``, which may have options, or the first of cc, gcc and clang;
    ``CC=false`` compiles nothing.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    folder = _folder()
    kept = None if folder is None else os.path.join(folder, _name(source, compiler))
    if kept is not None and _is_own(kept) and _is_whole(kept):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(kept)
    try:
        return _built(source, compiler, kept)
    except (OSError, subprocess.SubprocessError):
        return None


def _built(source: str, compiler: Sequence[str], kept: str | None) -> ctypes.CDLL:
    beside = None if kept is None else os.path.dirname(kept)  # the usual folder may not be one to run programs from
    with tempfile.TemporaryDirectory(prefix="cnnviz-", dir=beside, ignore_cleanup_errors=True) as folder:
        made = os.path.join(folder, "compiled.so")
        run = [*compiler, *_FLAGS, "-x", "c", "-", "-o", made]
        try:
            _say([*run, *_MORE], source)
        except subprocess.CalledProcessError:
            _say(run, source)
        library = ctypes.CDLL(made)
        if kept is not None:
            with contextlib.suppress(OSError):
                _keep(made, kept)
        return library


def _say(command: Sequence[str], given: str = "") -> str:
    """What a program prints."""
    run = subprocess.run(command, input=given.encode(), capture_output=True, check=True, timeout=_SECONDS)
    return run.stdout.decode(errors="replace")


def _keep(made: str, kept: str) -> None:
    with open(made, "rb") as library:
        content = library.read()
        os.fsync(library.fileno())
    digest = made + _DIGEST
    with open(digest, "w", encoding="ascii") as told:
        told.write(hashlib.sha256(content).hexdigest())
    os.chmod(made, 0o700)
    os.replace(digest, kept + _DIGEST)
    os.replace(made, kept)


def _is_whole(kept: str) -> bool:
    """Whether it is what was written: a library that is cut off ends the process that loads it."""
    with contextlib.suppress(OSError), open(kept, "rb") as library, open(kept + _DIGEST, encoding="ascii") as told:
        return hashlib.sha256(library.read()).hexdigest() == told.read()
    return False


def _folder() -> str | None:
    """Where libraries are kept; None where the user wants no cache or has none, or where others could put them."""
    base = None if os.environ.get(FOLDER) == "" else users_caches()
    if base is None:
        return None
    folder = os.path.realpath(os.path.join(base, _KEPT))
    with contextlib.suppress(OSError):
        if _is_safe(folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            return folder if _is_own(folder) else None
    return None


def _is_own(path: str) -> bool:
    """Whether only this user can have written a file or folder."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _is_safe(path: str) -> bool:
    """Whether nobody but this user and root can put another folder in the place of one that leads there."""
    while (above := os.path.dirname(path)) != path:
        path = above
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        others = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if others or found.st_uid not in (0, os.getuid()):
            return False
    return True


def _name(source: str, compiler: Sequence[str]) -> str:
    program = os.stat(compiler[0])
    told = (source, *compiler, program.st_size, program.st_mtime_ns, *_FLAGS, *_MORE, _processor())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32] + ".so"


def _processor() -> str:
    """What a processor can do; computers may share a home."""
    told: list[str] = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        told += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told.append(_say(["sysctl", "-n", "machdep.cpu.brand_string"]))
    return " ".join((platform.machine(), platform.processor(), platform.version(), *told))


def _compiler() -> list[str] | None:
    if sys.platform == "win32":
        return None
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # a quotation mark without its other half
        return None
    found = next(filter(None, map(shutil.which, chosen[:1] or _COMPILERS)), None)
    if found is None or not _is_there(found):
        return None
    return [found, *chosen[1:]]


def _is_there(compiler: str) -> bool:
    """On a Mac a compiler that is not installed is a program that asks whether to install it."""
    if sys.platform != "darwin" or not compiler.startswith("/usr/bin/"):
        return True
    try:
        _say(["xcode-select", "-p"])
    except (OSError, subprocess.SubprocessError):
        return False
    return True
