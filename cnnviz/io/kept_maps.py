"""Maps and pictures that a test keeps beside itself."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.io.encode import encode_npz


def read_map(path: str) -> NDArray[Any] | None:
    """The map in a file; None where there is none.

    Raises:
        CnnvizError: It cannot be read.
    """
    if not os.path.exists(path):
        return None
    try:
        with np.load(path) as stored:
            found: NDArray[Any] = stored["raw"]
            return found
    except (OSError, ValueError, KeyError) as error:
        raise CnnvizError(f"{path}: no map can be read from it ({error}).", "Delete it to accept another.") from error


def write_map(path: str, raw: NDArray[np.float32]) -> None:
    """Keep a map."""
    _write(path, encode_npz({"raw": raw}))


def write_picture(path: str, data: bytes) -> None:
    """Keep a picture."""
    _write(path, data)


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as stream:
        stream.write(data)
    os.replace(temporary, path)
