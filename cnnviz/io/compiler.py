"""C that is compiled where it runs: for the processor at hand, and only where there is a compiler.

What was compiled is kept in the user's own cache, under a name that tells source, compiler and processor, and is loaded
from there only where nobody else can have written it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from cnnviz.io.cache import FOLDER, users_caches
from cnnviz.io.temporaries import temporary

_COMPILERS = ("cc", "gcc", "clang")
# Nobody asks for the errors of sqrt, and no operation traps. What else "fast math" would allow changes results.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-w")
# What only some compilers know: tried first.
_MORE = ("-mprefer-vector-width=512",)
_KEPT = "cnnviz-compiled"
_SECONDS = 60


@functools.cache
def compiled(source: str) -> ctypes.CDLL | None:
    """The library that C source becomes; None where nothing compiles it.

    The compiler is that of the environment variable ``CC``, which may have options, or the first of cc, gcc and clang;
    ``CC=false`` compiles nothing.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    kept = _place(source, compiler)
    if kept is not None and _is_own(os.path.dirname(kept)) and _is_own(kept):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(kept)
    tried = (_built(source, [*compiler, *_FLAGS, *more], kept) for more in (_MORE, ()))
    return next((library for library in tried if library is not None), None)


def _built(source: str, command: Sequence[str], kept: str | None) -> ctypes.CDLL | None:
    try:
        with tempfile.TemporaryDirectory(prefix="cnnviz-", ignore_cleanup_errors=True) as folder:
            made = os.path.join(folder, "compiled.so")
            run = [*command, "-x", "c", "-", "-o", made]
            subprocess.run(run, input=source.encode(), capture_output=True, check=True, timeout=_SECONDS)
            library = ctypes.CDLL(made)
            if kept is not None:
                _keep(made, kept)
            return library
    except (OSError, subprocess.SubprocessError):
        return None


def _keep(made: str, kept: str) -> None:
    folder = os.path.dirname(kept)
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        beside = os.path.join(folder, temporary())
        shutil.copyfile(made, beside)
        os.chmod(beside, 0o700)
        os.replace(beside, kept)


def _place(source: str, compiler: Sequence[str]) -> str | None:
    """Where the library is kept; None where its user wants no cache or has none."""
    base = None if os.environ.get(FOLDER) == "" else users_caches()
    if base is None:
        return None
    with contextlib.suppress(OSError):
        program = os.stat(compiler[0])
        told = (
            source,
            *compiler,
            program.st_size,
            program.st_mtime_ns,
            *_FLAGS,
            *_MORE,
            platform.machine(),
            _processor(),
        )
        return os.path.join(base, _KEPT, hashlib.sha256(repr(told).encode()).hexdigest()[:32] + ".so")
    return None


def _processor() -> str:
    """What a processor can do; computers may share a home."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        return "".join([platform.machine(), *sorted(told)])
    return " ".join((platform.machine(), platform.processor(), platform.version()))


def _is_own(path: str) -> bool:
    """Whether only this user can have written a file or folder."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _compiler() -> list[str] | None:
    if sys.platform == "win32":
        return None
    chosen = shlex.split(os.environ.get("CC", ""))
    found = next(filter(None, map(shutil.which, chosen[:1] or _COMPILERS)), None)
    return None if found is None else [found, *chosen[1:]]
