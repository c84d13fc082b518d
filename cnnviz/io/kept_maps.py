"""Maps and pictures that a test keeps beside itself."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.io.encode import encode_npz

Part = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of a picture's width and height, which do not change with its resolution."""


def read_map(path: str) -> tuple[NDArray[Any], Part | None] | None:
    """The map in a file, and the part of the picture that it covers, which older files do not say; None without a file.

    Raises:
        CnnvizError: It cannot be read.
    """
    if not os.path.exists(path):
        return None
    try:
        with np.load(path) as stored:
            found: NDArray[Any] = stored["raw"]
            if "part" not in stored.files:
                return found, None
            x0, y0, x1, y1 = stored["part"].tolist()
            return found, (x0, y0, x1, y1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CnnvizError(f"{path}: no map can be read from it ({error}).", "Delete it to accept another.") from error


def write_map(path: str, raw: NDArray[np.float32], part: Part) -> None:
    """Keep a map, and the part of the picture that it covers."""
    _write(path, encode_npz({"raw": raw, "part": np.asarray(part, dtype=np.float64)}))


def write_picture(path: str, data: bytes) -> None:
    """Keep a picture."""
    _write(path, data)


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as stream:
        stream.write(data)
    os.replace(temporary, path)
