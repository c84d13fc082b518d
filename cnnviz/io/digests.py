"""What tells one file from another of the same name: size, time of change, SHA-256 of the content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from cnnviz.io.sources import ImageRef, is_url, open_file
from cnnviz.schema.images import InputFile

_BLOCK = 1 << 20


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
