"""What a server sends, kept until it is decoded: a little in memory, more on disk.

Memory is handed out by what a header says of an image (:mod:`cnnviz.io.budget`); until the header is there, nobody
knows. So many downloads at once must not need it.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from cnnviz.errors import ImageError

HELD_BYTES = 1 << 20
"""What is larger goes to the folder for temporary files."""


def stored(chunks: Iterator[bytes]) -> BinaryIO:
    """A stream at the beginning of what comes. Who gets it closes it.

    Raises:
        ImageError: Of kind ``unreadable``: there is no room for it on the disk.
    """
    held: BinaryIO = io.BytesIO()
    try:
        for chunk in chunks:
            held = _with_room(held, len(chunk))
            _write(held, chunk)
        held.seek(0)
    except BaseException:
        held.close()
        raise
    return held


def _with_room(held: BinaryIO, more: int) -> BinaryIO:
    if not isinstance(held, io.BytesIO) or held.tell() + more <= HELD_BYTES:
        return held
    try:
        on_disk: BinaryIO = tempfile.TemporaryFile(prefix="cnnviz-")  # noqa: SIM115 - who gets it closes it
    except OSError as error:
        raise _no_room(error) from error
    _write(on_disk, held.getvalue())
    return on_disk


def _write(held: BinaryIO, data: bytes) -> None:
    try:
        held.write(data)
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> ImageError:
    reason = error.strerror or type(error).__name__
    return ImageError("unreadable", f"the download cannot be kept in the folder for temporary files: {reason}")
