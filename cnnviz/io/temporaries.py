"""Files that are being written, under names of their own; what a killed writer left of them is swept."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from typing import Any

PREFIX = ".cnnviz-tmp-"
_NAMES = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]+")


def temporary() -> str:
    """The name of a file beside: random, because process ids repeat, in containers always."""
    return PREFIX + secrets.token_hex(8)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that is being written."""
    return _NAMES.fullmatch(name) is not None


def sweep_folder(base: str) -> int:
    """Remove the temporaries below a local folder. Returns how many there were."""
    found = [os.path.join(folder, name) for folder, _, files in os.walk(base) for name in files if is_temporary(name)]
    return _remove(found, os.unlink)


def sweep_remote(files: Any, base: str) -> int:
    """The same in a file system of fsspec."""
    found = [path for path in files.find(base) if is_temporary(str(path).rsplit("/", 1)[-1])]
    return _remove(found, files.rm_file)


def _remove(paths: Iterable[str], remove: Any) -> int:
    swept = 0
    for path in paths:
        with contextlib.suppress(Exception):  # each backend has errors of its own
            remove(path)
            swept += 1
    return swept


def make_folders(path: str) -> list[str]:
    """Make a folder and those that lead there. Returns the new ones, the deepest first."""
    made = []
    at = path
    while not os.path.lexists(at):
        made.append(at)
        at = os.path.dirname(at)
    os.makedirs(path, exist_ok=True)
    return made
