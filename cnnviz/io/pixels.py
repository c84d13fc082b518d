"""The pixels of a loaded image, in whatever form Pillow holds them, as upright 8-bit RGB."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

STRIP_BYTES = 8 << 20
"""Pictures are converted in strips that take about so much memory."""

# Bytes a pixel: the strip, its array, its alpha and its blend in 16 bits.
_STRIP_PIXEL = 48

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of a loaded image of any Pillow mode.

    In strips: whole copies of a large picture in other forms would take several times its memory.
    """
    width, height = image.size
    convert = _conversion(image)
    rgb = np.empty((0, width, 3), dtype=np.uint8)
    top = 0
    for strip in _strips(image):
        pixels = convert(strip)
        if len(pixels) == height:
            return pixels
        if not top:
            rgb = np.empty((height, width, 3), dtype=np.uint8)
        rgb[top : top + len(pixels)] = pixels
        top += len(pixels)
    return rgb


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    width, height = image.size
    rows = max(1, STRIP_BYTES // (_STRIP_PIXEL * width))
    if rows >= height:
        yield image
        return
    for top in range(0, height, rows):
        # Not Image.crop, which checks the strip by Pillow's global limit.
        yield image._new(image.im.crop((0, top, width, min(top + rows, height))))


def _conversion(image: Image.Image) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """How strips of this image become RGB [h, W, 3]."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return lambda strip: np.asarray(strip, dtype=np.uint8)
    if mode.startswith("I;16"):
        return lambda strip: _grey_to_rgb(_divide(np.asarray(strip), 65535))
    if mode == "I":
        # Pillow scales a PGM or PNG of more than 8 bits to 16 bits; a TIFF's integers come as they are.
        sixteen = image.format in ("PPM", "PNG")
        end = 65535 if sixteen else _span(float(np.asarray(image.getextrema()[1])), (255,))
        return lambda strip: _grey_to_rgb(_divide(np.maximum(np.asarray(strip), 0), end))
    if mode == "F":
        top = max(float(_finite(strip).max()) for strip in _strips(image))
        span = _span(top, (1, 255))
        return lambda strip: _grey_to_rgb(_divide(_finite(strip), span))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return lambda strip: _on_white(np.asarray(strip if mode == "RGBA" else strip.convert("RGBA"), dtype=np.uint8))
    if mode == "L":
        return lambda strip: _grey_to_rgb(np.asarray(strip, dtype=np.uint8))
    return lambda strip: np.asarray(strip.convert("RGB"), dtype=np.uint8)


def _finite(image: Image.Image) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)
    return np.maximum(values, np.float32(0.0), out=values)


def _span(top: float, small: tuple[int, ...]) -> float:
    """The upper end of the smallest usual range that holds values up to ``top``."""
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


def orientation(image: Image.Image) -> int:
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


def upright(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn the stored pixels as EXIF orientation 1 to 8 asks."""
    if orientation == 1:
        return rgb
    turned: Any = rgb
    if orientation in (5, 6, 7, 8):
        turned = cv2.transpose(turned)
    # 2, 6 mirror left-right; 4, 8 top-bottom; 3, 7 both; 5 is the transposition alone.
    code = {2: 1, 6: 1, 4: 0, 8: 0, 3: -1, 7: -1}.get(orientation)
    if code is None:
        return turned  # type: ignore[no-any-return]
    return cv2.flip(turned, code, dst=None if turned is rgb else turned)  # type: ignore[no-any-return]
