"""Folders of files that are told as images, and what is found in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from cnnviz.errors import ImageError
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, read_bytes

JPEG = b"\xff\xd8\xff\xe0 enough to be told as a JPEG"


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG + name.encode(errors="surrogateescape"))
    return root


def find(*inputs: str | Path, stdin: bytes = b"", null: bool = False) -> list[ImageRef]:
    options = SourceOptions(null=null)
    return list(find_images([str(item) for item in inputs], options, io.BytesIO(stdin)))


def names(refs: Sequence[ImageRef]) -> list[str]:
    return [ref.name for ref in refs]


def kind(ref: ImageRef) -> str:
    with pytest.raises(ImageError) as caught:
        read_bytes(ref)
    return caught.value.kind
