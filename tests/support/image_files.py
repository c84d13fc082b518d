"""Files of every kind of image, and what decoding makes of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import ImageError
from cnnviz.io.decode import decode

Pixels = NDArray[np.uint8]


def photo(height: int = 24, width: int = 40) -> Pixels:
    """Smooth, asymmetric, three different channels: small JPEG error, and no turn leaves it as it was."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = 255 * x / (width - 1), 255 * y / (height - 1), 40 + 1.5 * x + 2.5 * y
    pixels: Pixels = np.rint(np.stack([red, green, np.minimum(blue, 255)], axis=2)).astype(np.uint8)
    return pixels


def saved(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def kind_of(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.kind


def apart(left: Pixels, right: Pixels) -> int:
    assert left.shape == right.shape
    return int(np.abs(left.astype(int) - right.astype(int)).max())


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: for what Pillow cannot write, and for headers that lie."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
