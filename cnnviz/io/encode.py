"""The bytes of image files and of arrays: the same for the same pixels.

Measured for overlays of 500 x 375 pixels (the median of six photographs, the best of 25 runs in one process; one core
with AVX-512): as PNG by igzip at level 3 1.5 ms (304 kB), at its level 1 1.3 ms (311 kB), by OpenCV with Huffman coding
alone 4.6 ms (361 kB), at level 6 28 ms (262 kB); as JPEG 0.5 ms (58 kB), as WebP 16 ms (43 kB). Figures of photographs
on white (1632 x 502) take 5.1 ms by igzip (719 kB; at its level 1 3.3 ms), 18 ms by OpenCV (724 kB), 66 ms at level 6
(611 kB); a heatmap with alpha 0.6 ms (18 kB), 5.7 ms by Pillow (14 kB). A float32 map takes 0.4 ms stored (750 kB) and
13 ms deflated (467 kB).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.png import encode_png, igzip

IMAGE_FORMATS = ("png", "jpg", "webp")
JPEG_QUALITY = 92
WEBP_QUALITY = 90
_LOOKED_AT, _EVEN = 64, 0.3


@dataclass(frozen=True)
class ImageFormat:
    """How images are written.

    Attributes:
        suffix: ``png``, ``jpg`` or ``webp``.
        png_level: 0 (stored) to 9 (smallest). Level 1 is igzip, at its own level 3: as small as zlib's level 1 in a
            quarter of its time; without igzip, Huffman coding alone on the filter SUB for photographs.
    """

    suffix: str = "png"
    png_level: int = 1

    def __post_init__(self) -> None:
        if self.suffix not in IMAGE_FORMATS:
            raise CnnvizError(
                f"image format {self.suffix!r}: expected {', '.join(IMAGE_FORMATS)}",
                "Use --image-format png, jpg or webp.",
            )
        if not 0 <= self.png_level <= 9:
            raise CnnvizError(f"PNG level {self.png_level}: expected 0 to 9", "Use --png-level 1.")

    def options(self, image: NDArray[np.uint8]) -> list[int]:
        """Parameters of ``cv2.imencode`` for an image."""
        if self.suffix == "jpg":
            return [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        if self.suffix == "webp":
            return [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
        level = [cv2.IMWRITE_PNG_COMPRESSION, self.png_level]
        if self.png_level != 1:
            return level
        strategy = cv2.IMWRITE_PNG_STRATEGY_DEFAULT if _is_even(image) else cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY
        return [*level, cv2.IMWRITE_PNG_STRATEGY, strategy, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]


def _is_even(image: NDArray[np.uint8]) -> bool:
    """Whether many pixels are as those to their left, as in figures on white: of some of its rows."""
    rows = image[:: max(1, len(image) // _LOOKED_AT)]
    same = rows[:, 1:] == rows[:, :-1]
    return bool(np.count_nonzero(same) > _EVEN * same.size)


def encode(image: NDArray[np.uint8], fmt: ImageFormat) -> bytes:
    """An image file's bytes; the same for the same pixels. Safe in threads.

    Args:
        image: uint8, [H, W] grey, [H, W, 2] grey and alpha (PNG only), [H, W, 3] RGB, or [H, W, 4] RGB and alpha
            (PNG only).
        fmt: Format and level.

    Raises:
        ImageError: Of kind ``too-large``, when the format cannot hold so many pixels.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (2, 3, 4))):
        raise ValueError(f"expected uint8 [H, W] or [H, W, 2 to 4], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    limit = {"jpg": 65_500, "webp": 16_383}.get(fmt.suffix, 1_000_000)
    if max(height, width) > limit:
        raise ImageError("too-large", f"{width} x {height} pixels; {fmt.suffix} holds {limit} a side")
    if fmt.suffix == "png" and fmt.png_level == 1 and igzip() is not None:
        return encode_png(image)
    if image.ndim == 3 and image.shape[2] == 2:  # which OpenCV cannot write
        stream = io.BytesIO()
        Image.fromarray(image, "LA").save(stream, "PNG", compress_level=fmt.png_level)
        return stream.getvalue()
    turn = cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 and image.ndim == 3 else cv2.COLOR_RGB2BGR
    pixels: Any = image if image.ndim == 2 else cv2.cvtColor(image, turn)
    done, data = cv2.imencode(f".{fmt.suffix}", pixels, fmt.options(image))
    if not done:
        raise ImageError("not-encoded", f"{width} x {height} pixels cannot be written as {fmt.suffix}")
    return data.tobytes()


def encode_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An ``.npz`` file's bytes, as ``np.load`` reads it; the same for the same arrays.

    Stored, not deflated: float maps shrink by a third, for thirty times the time.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer())  # ZipInfo dates it 1980
    return stream.getvalue()
