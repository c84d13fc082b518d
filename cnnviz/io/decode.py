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

import importlib
import io
import logging
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import ImageError

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
_PPM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+\s")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")

# Damaged metadata around sound pixels is no news for a person who wants a map. Silenced once, here:
# `warnings.catch_warnings` swaps state that all threads share.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Jpeg|Png|Tiff)ImagePlugin")
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
    """The image format by magic bytes, or None when this is no image.

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
    """Decode one image to upright 8-bit RGB.

    Animations give their first frame. Transparency is composited on white:
    ``rgb * alpha + 255 * (1 - alpha)``. Grey of 16 bits is divided by 257 and rounded, so that white stays
    white; 16-bit colour keeps its high byte (at most one step away from that). Grey of 32 bits and float
    is taken to span the smallest of [0, 1] (float only), [0, 255], [0, 65535], [0, 2^32) that holds its
    maximum; negative and undefined values are black. CMYK is converted without a profile, and ICC profiles
    are ignored, as the networks' own preprocessing ignores them. Safe in threads.

    Args:
        data: The whole file.
        max_pixels: Images of more pixels are refused by their header.

    Raises:
        ImageError: Of kind ``empty``, ``not-an-image``, ``unsupported`` (an image that this installation
            cannot read), ``too-large``, ``truncated`` or ``corrupt``.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    kind = sniff(data)
    if kind is None:
        raise ImageError("not-an-image", f"the content is no image (it begins with {data[:8]!r})")
    reader = _reader(kind)
    try:
        with reader(io.BytesIO(data)) as image:
            _check_size(image, max_pixels)
            image.load()
            _check_size(image, max_pixels)  # a frame may lie outside the canvas that a GIF's header names
            orientation = _orientation(image)
            rgb = _upright(_to_rgb(image), orientation)
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError("too-large", f"{kind} image too large to decode: {error}") from error
    except Exception as error:  # damaged bytes make decoders raise nearly anything: SyntaxError, KeyError, …
        raise _damage(kind, data, error) from error
    return Decoded(np.ascontiguousarray(rgb))


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


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"the header gives a size of {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError("too-large", f"{width} x {height} pixels; at most {max_pixels} are decoded")


def _damage(kind: str, data: bytes, error: Exception) -> ImageError:
    said = str(error).strip().splitlines()
    reason = said[0][:200] if said else type(error).__name__
    if isinstance(error, EOFError) or "truncated" in reason.lower() or _is_cut(kind, data):
        return ImageError("truncated", f"the {kind.upper()} data ends too early: {reason}")
    return ImageError("corrupt", f"the {kind.upper()} data is damaged: {reason}")


def _is_cut(kind: str, data: bytes) -> bool:
    """Whether the end that the format demands is missing. Asked only after decoding failed."""
    if kind == "jpeg":
        return b"\xff\xd9" not in data[-64:]
    if kind == "png":
        return b"IEND" not in data[-64:]
    if kind == "gif":
        return not data.rstrip(b"\0").endswith(b";")
    if kind == "webp":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return kind == "bmp" and int.from_bytes(data[2:6], "little") > len(data)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of a loaded image of any Pillow mode."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image, dtype=np.uint8)
    if mode.startswith("I;16"):
        return _grey_to_rgb(_divide(np.asarray(image), 65535))
    if mode == "I":
        values = np.maximum(np.asarray(image), 0)
        # Pillow scales a PGM or PNG of more than 8 bits to 16 bits; a TIFF's integers come as they are.
        sixteen = image.format in ("PPM", "PNG")
        return _grey_to_rgb(_divide(values, 65535 if sixteen else _span(values, (255,))))
    if mode == "F":
        values = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)
        values = np.maximum(values, 0.0)
        return _grey_to_rgb(_divide(values, _span(values, (1, 255))))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(np.asarray(image if mode == "RGBA" else image.convert("RGBA"), dtype=np.uint8))
    if mode == "L":
        return _grey_to_rgb(np.asarray(image, dtype=np.uint8))
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _span(values: NDArray[Any], small: tuple[int, ...]) -> float:
    """The upper end of the smallest usual range that holds the values."""
    top = float(values.max())
    return next((float(end) for end in (*small, 65535, 2**32 - 1) if top <= end), top)


def _divide(values: NDArray[Any], span: float) -> NDArray[np.uint8]:
    scaled = np.rint(values.astype(np.float32) * np.float32(255.0 / span))
    steps: NDArray[np.uint8] = np.minimum(scaled, 255.0).astype(np.uint8)
    return steps


def _grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``round((rgb * a + 255 * (255 - a)) / 255)`` in integers."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    blend = rgba[:, :, :3] * alpha + 255 * (255 - alpha)  # at most 255 * 255: 16 bits hold it
    composite: NDArray[np.uint8] = ((blend + 127) // 255).astype(np.uint8)
    return composite


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 when there is none or it makes no sense."""
    if image.format == "TIFF":
        found = image.getexif().get(274)  # gone where this Pillow has turned the pixels while loading
        return found if isinstance(found, int) and 1 <= found <= 8 else 1
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and (found := exif_orientation(exif)):
        return found
    xmp = image.info.get("xmp")
    match = _XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
    return int(match[1]) if match else 1


def exif_orientation(exif: bytes) -> int | None:
    """The orientation tag (0x0112) of the first directory of an EXIF block.

    Read here, in ten lines, because Pillow parses the whole block and warns about tags nobody asked for.
    """
    block = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * entry)
            if tag == 0x0112:
                return int(value) if kind == 3 and 1 <= value <= 8 else None
    except struct.error:
        return None
    return None


def _upright(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn the stored pixels as EXIF orientation 1 to 8 asks."""
    if orientation == 1:
        return rgb
    turned: Any = rgb
    if orientation in (5, 6, 7, 8):
        turned = cv2.transpose(turned)
    # 2, 6 mirror left-right; 4, 8 top-bottom; 3, 7 both; 5 is the transposition alone.
    code = {2: 1, 6: 1, 4: 0, 8: 0, 3: -1, 7: -1}.get(orientation)
    return turned if code is None else cv2.flip(turned, code)  # type: ignore[no-any-return]
