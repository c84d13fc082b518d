"""Bytes of one image file to the pixels that a viewer shows: 8-bit RGB, upright.

What counts as an image is decided by its first bytes, never by its name. Pillow decodes, but each format's
own reader is called directly: ``Image.open`` would try every plugin, and would warn or raise by a limit
that is global to the process. The size is taken from the header and checked here, before any pixel is
decoded.

OpenCV's decoder was measured against it (ImageNet photographs of 0.19 megapixels, Pillow 13, OpenCV 5):
1.29 ms against 1.42 ms for JPEG and 3.4 ms against 3.8 ms for PNG, with equal pixels. It is not used: for a
damaged file libjpeg and libpng inside OpenCV write to standard error, which nothing can switch off per
call, and a tenth of a millisecond is no reason to write into a user's terminal.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import logging
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

from cnnviz.errors import ImageError, first_line
from cnnviz.io.pixels import STRIP_BYTES, orientation, to_rgb, upright

MAX_PIXELS = 200_000_000

SNIFF_BYTES = 4096
"""So many bytes from the start of a file are enough for :func:`sniff`."""

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif"}
    | {".tiff", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm"}
)
"""Suffixes (lower case) under which a person expects an image: for messages and counts, never to decide."""

_READERS = {
    "jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "png": ("PngImagePlugin", "PngImageFile"),
    "gif": ("GifImagePlugin", "GifImageFile"),
    "webp": ("WebPImagePlugin", "WebPImageFile"),
    "bmp": ("BmpImagePlugin", "BmpImageFile"),
    "tiff": ("TiffImagePlugin", "TiffImageFile"),
    "avif": ("AvifImagePlugin", "AvifImageFile"),
    "jp2": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "ppm": ("PpmImagePlugin", "PpmImageFile"),
}
# Bytes a pixel that a format's decoder holds beside Pillow's own pixels: canvases of WebP, planes of AVIF, the integer
# components of JPEG 2000, a TIFF's strip, which may be the whole picture.
_BESIDE = {"webp": 12, "avif": 10, "jp2": 16, "tiff": 4, "gif": 5}
_PPM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+\s")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)

# Damaged metadata around sound pixels is no news for a person who wants a map. Silenced once, here:
# `warnings.catch_warnings` swaps state that all threads share.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Jpeg|Png|Tiff)ImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.Image")
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One decoded image.

    Attributes:
        rgb: uint8 [H, W, 3], C-contiguous, as a viewer shows it (EXIF orientation applied).
    """

    rgb: NDArray[np.uint8]

    @property
    def width(self) -> int:
        """Pixels across."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Pixels down."""
        return int(self.rgb.shape[0])


def sniff(data: bytes) -> str | None:
    """The image format by magic bytes, or None if the data are not an image.

    Args:
        data: The file, or at least its first :data:`SNIFF_BYTES` bytes.

    Returns:
        One of jpeg, png, gif, webp, bmp, tiff, avif, heic, jp2, ppm. ``heic`` is known but not decoded.
    """
    head = data[:SNIFF_BYTES]
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return "jp2"
    if head[4:8] == b"ftyp":
        return _sniff_heif(head)
    # Two letters are no proof: text may begin with BM. The size of the second header is.
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return "bmp"
    return "ppm" if _PPM.match(head) else None


def _sniff_heif(head: bytes) -> str | None:
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    if brands & {b"avif", b"avis"}:
        return "avif"
    return "heic" if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"} else None


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Decode one image to upright 8-bit RGB: :func:`open_image`, then :meth:`OpenImage.decode`."""
    return open_image(io.BytesIO(data), max_pixels=max_pixels).decode()


def open_image(stream: BinaryIO, *, max_pixels: int = MAX_PIXELS) -> OpenImage:
    """Read the header of an image and check its size. No pixel is decoded yet. Safe in threads.

    Args:
        stream: The whole file, at its beginning; read again from when the image is decoded.
        max_pixels: Images of more pixels are refused.

    Raises:
        ImageError: Of kind ``empty``, ``not-an-image``, ``unsupported`` (an image that this installation
            cannot read), ``too-large``, ``truncated``, ``corrupt`` or ``unreadable``.
    """
    head = stream.read(SNIFF_BYTES)
    if not head:
        raise ImageError("empty", "the file has no bytes")
    kind = sniff(head)
    if kind is None:
        raise ImageError("not-an-image", f"the content is not an image (it begins with {_quoted(head[:8])})")
    reader = _reader(kind)
    if kind == "tiff":
        _silence_libtiff()
    stream.seek(0)
    with _explained(kind, stream):
        try:
            image = reader(stream)
        except Image.DecompressionBombError:
            stream.seek(0)
            with _without_limit():
                image = reader(stream)
        _check_size(image, max_pixels)
        return OpenImage(kind, image, stream, max_pixels)


@dataclass(frozen=True, slots=True, eq=False)
class OpenImage:
    """An image whose header has been read.

    Attributes:
        kind: The format, as :func:`sniff` names it.
    """

    kind: str
    _image: Any
    _stream: BinaryIO
    _max_pixels: int

    @property
    def peak_bytes(self) -> int:
        """An upper bound of the memory that :meth:`decode` takes, its result included.

        Pillow's pixels, what the format's decoder keeps beside them, RGB, perhaps a turned copy of that, and
        the file where it lies in memory.
        """
        image = self._image
        stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
        beside = _BESIDE.get(self.kind, 0)
        if self.kind == "jpeg" and "progression" in image.info:
            beside = 2 * len(image.getbands())
        width, height = image.size
        rgb = 3 if orientation(image) == 1 else 6
        file = self._stream.getbuffer().nbytes if isinstance(self._stream, io.BytesIO) else 0
        return int(width * height * (stored + beside + rgb)) + STRIP_BYTES + file

    def decode(self) -> Decoded:
        """The pixels, once.

        Animations give their first frame. Transparency is composited on white:
        ``rgb * alpha + 255 * (1 - alpha)``. Grey of 16 bits is divided by 257 and rounded, so that white
        stays white; 16-bit colour keeps its high byte (at most one step away from that). Grey of 32 bits and
        float is taken to span the smallest of [0, 1] (float only), [0, 255], [0, 65535], [0, 2^32) that
        holds its maximum; negative and undefined values are black. CMYK is converted without a profile, and
        ICC profiles are ignored, as the networks' own preprocessing ignores them. Safe in threads.

        Raises:
            ImageError: As :func:`open_image`.
        """
        image = self._image
        with _explained(self.kind, self._stream):
            if self.kind == "tiff" and image._im is None:
                # Pillow checks TIFFs again by a limit of its own, unless the pixels have their place already.
                image.im = _imaging.new(image.mode, getattr(image, "_tile_size", image.size))
            image.load()
            _check_size(image, self._max_pixels)  # a frame may lie outside the canvas that a GIF's header names
            turn = orientation(image)
            rgb = to_rgb(image)
            image.close()  # frees its pixels before they are turned
            rgb = upright(rgb, turn)
        return Decoded(np.ascontiguousarray(rgb))


@contextlib.contextmanager
def _explained(kind: str, stream: BinaryIO) -> Iterator[None]:
    """Turn what a decoder raises into our errors."""
    try:
        yield
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError("too-large", f"{kind} image too large to decode: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk; Pillow's own have no number
            raise ImageError("unreadable", f"cannot be read: {error.strerror}") from error
        raise _damage(kind, stream, error) from error
    except Exception as error:  # damaged bytes make decoders raise nearly anything: SyntaxError, KeyError, …
        raise _damage(kind, stream, error) from error


_LIMIT = threading.Lock()


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow reads a header (of GIF and WebP) without its own limit, which is global. Ours is checked after it."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _reader(kind: str) -> Any:
    """The class of Pillow that reads this format, when this build of Pillow can."""
    if kind in _READERS:
        module_name, class_name = _READERS[kind]
        try:
            module = importlib.import_module(f"PIL.{module_name}")
        except ImportError:
            module = None
        if module is not None and getattr(module, "SUPPORTED", True):
            return getattr(module, class_name)
    raise ImageError("unsupported", f"{kind.upper()} cannot be decoded here; convert it to JPEG or PNG")


@functools.cache
def _silence_libtiff() -> None:
    """libtiff writes about odd tags and damage to standard error, and Pillow offers nothing to switch that off."""
    # What a library loads is found through it. Where libtiff is linked into it (Windows) there is nothing to be found.
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
            switch = getattr(library, name)
            switch.argtypes, switch.restype = [ctypes.c_void_p], ctypes.c_void_p
            switch(None)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"the header gives a size of {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError("too-large", f"{width} x {height} pixels; at most {max_pixels} are decoded")


def _damage(kind: str, stream: BinaryIO, error: Exception) -> ImageError:
    reason = first_line(error)[:200]
    if isinstance(error, EOFError) or "truncated" in reason.lower() or _is_cut(kind, stream):
        return ImageError("truncated", f"the {kind.upper()} data ends too early: {reason}")
    return ImageError("corrupt", f"the {kind.upper()} data is damaged: {reason}")


def _quoted(head: bytes) -> str:
    """The first bytes of a file, as text where they are text, else as numbers."""
    text = head.decode("latin-1").strip()
    return f'"{text}"' if text and text.isascii() and text.isprintable() else head.hex(" ")


def _is_cut(kind: str, stream: BinaryIO) -> bool:
    """Whether the end that the format demands is missing. Asked only after decoding failed."""
    try:
        stream.seek(0)
        head = stream.read(8)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 64))
        tail = stream.read(64)
    except (OSError, ValueError):
        return False
    if kind == "jpeg":
        return b"\xff\xd9" not in tail
    if kind == "png":
        return b"IEND" not in tail
    if kind == "gif":
        return not tail.rstrip(b"\0").endswith(b";")
    if kind == "webp":
        return int.from_bytes(head[4:8], "little") + 8 > size
    return kind == "bmp" and int.from_bytes(head[2:6], "little") > size
