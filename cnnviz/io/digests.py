"""What tells one file from another of the same name: size, time of change, SHA-256 of the content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from cnnviz.io.sources import ImageRef, is_url, open_file
from cnnviz.schema.images import InputFile

_BLOCK = 1 << 20
# Packages that decode, resize and compute; versions of PyTorch and its companions are known beside.
_TELLING = (".dist-info", ".egg-info", ".egg-link", ".egg", ".pth")
_COMPUTING = ("numpy", "cv2", "PIL", "scipy", "sklearn", "skimage", "onnxruntime", "onnx2torch")


def fingerprint(ref: ImageRef, stream: BinaryIO) -> InputFile:
    """``input`` of an image's record, from its open file, which is left at its end.

    ``mtime_ns`` is None behind a URL.
    """
    changed = _changed(ref)
    stream.seek(0)
    size, digest = _size_and_sha256(stream)
    return {"bytes": size, "mtime_ns": changed, "sha256": digest}


def is_unchanged(ref: ImageRef, known: Mapping[str, Any]) -> bool:
    """Whether an image is the one of a record's ``input``. It is read only where size or time differ or are unknown.

    Raises:
        ImageError: It cannot be read.
    """
    size, time, digest = known.get("bytes"), known.get("mtime_ns"), known.get("sha256")
    if not is_url(ref.uri):
        try:
            here = os.stat(ref.uri)
        except (OSError, ValueError):
            return False
        if here.st_size != size:
            return False
        if time is not None and here.st_mtime_ns == time:
            return True
    with open_file(ref) as stream:
        return _size_and_sha256(stream) == (size, digest)


def file_sha256(path: str) -> str | None:
    """SHA-256 of a file's content; None when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return _size_and_sha256(stream)[1]
    except (OSError, ValueError):
        return None


@cache
def package_sha256() -> str:
    """SHA-256 over the code of this package."""
    base = Path(__file__).parents[1]
    found = sorted((str(path.relative_to(base)), file_sha256(str(path))) for path in base.rglob("*.py"))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def folder_sha256(folder: str, most: int) -> str | None:
    """SHA-256 over the names and contents of all files of a folder and below, but for compiled code.

    None where they are more than ``most``, or one cannot be read.
    """
    found: list[tuple[str, str]] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = os.path.join(root, name)
            digest = file_sha256(path)
            if digest is None or len(found) == most:
                return None
            found.append((os.path.relpath(path, folder), digest))
    return hashlib.sha256(repr(sorted(found)).encode("utf-8", "surrogatepass")).hexdigest()


def installed_packages() -> list[str]:
    """Names and versions of all packages that can be imported, as their folders have them: none is opened."""
    found = []
    for place, path in enumerate(sys.path):
        with contextlib.suppress(OSError):
            names = os.listdir(path or ".")
            found += [f"{place} {name}" for name in names if name.endswith(_TELLING)]
    return sorted(found)


def running_code(modules: Iterable[str]) -> dict[str, Any]:
    """What else decides what is computed: versions of packages, and digests of code that is no installed package.

    Args:
        modules: Names of modules that are called by name; the files of those of other packages count too.
    """
    named = {name for name in modules if name.partition(".")[0] != "cnnviz" and name in sys.modules}
    files = {getattr(sys.modules[name], "__file__", None) for name in named}
    files |= set(own_code())
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in _COMPUTING}
    tops = {name.partition(".")[0] for name in named}
    versions |= {top: [getattr(sys.modules.get(top), "__version__", None), *_distributions(top)] for top in tops}
    # Paths differ from machine to machine.
    return {"versions": versions, "files": sorted(filter(None, {file_sha256(str(path)) for path in files if path}))}


def own_code() -> list[str]:
    """The Python files, among those that have been imported, that belong to no installed package."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    # torch.ops calls itself a file that is none.
    return sorted(str(path) for path in files if _is_own(path) and os.path.isfile(str(path)))


def _distributions(top: str) -> list[str]:
    """Name and version of what was installed with a package."""
    named = _packages().get(top, [])
    return sorted({f"{name} {metadata.version(name)}" for name in named})


@cache
def _packages() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _is_own(path: str | None) -> bool:
    """Whether a module is of whoever runs this: neither of Python, nor installed, nor of this package."""
    return path is not None and path.endswith(".py") and not path.startswith(_installed())


@cache
def _installed() -> tuple[str, ...]:
    paths = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages(), sys.prefix}
    return tuple(os.path.join(path, "") for path in (*paths, sys.base_prefix, str(Path(__file__).parents[1])) if path)


def _size_and_sha256(stream: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _changed(ref: ImageRef) -> int | None:
    if is_url(ref.uri):
        return None
    try:
        return os.stat(ref.uri).st_mtime_ns
    except (OSError, ValueError):
        return None
