"""The images of a live explorer: those that were named when it was started, and those that are dropped on it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import SNIFF_BYTES, decode, sniff
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.names import safe_component
from cnnviz.io.sources import ImageRef, find_images, is_url, open_file, read_bytes
from cnnviz.models.preprocess import prepare
from cnnviz.render.grid import thumbnail
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.serve.network import Latest

MOST_SAMPLES = 500
"""Images of the INPUTs that are offered; the top patches look at all of them."""
LONGEST_SIDE = 1400
"""Longer side of the pictures that the page shows; what is downloaded has the image's own size."""
_MOST_IMAGES, _ROOM = 24, 1 << 30
_SMALL = 128
_PHOTO = ImageFormat("jpg")


@dataclass(frozen=True, eq=False)
class KeptImage:
    """An image that was decoded.

    Attributes:
        key: Names it in requests.
        item: The decoded image.
        given: Whether it was named when the explorer was started, so that its path may be told.
    """

    key: str
    item: DecodedImage
    given: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.item.rgb.shape[:2]
        return int(width), int(height)


class ImageShelf:
    """Images by key.

    Args:
        inputs: What was named when the explorer was started.
        limit: At most so many of them; None for :data:`MOST_SAMPLES`.
        prepared: Brings an image to the network's input.
    """

    def __init__(self, inputs: Sequence[str], limit: int | None, prepared: PreparedModel) -> None:
        self._prepared = prepared
        self._kept: Latest[KeptImage] = Latest(_MOST_IMAGES, _ROOM)
        found = filter(_is_offered, find_images(inputs)) if inputs else iter(())
        self._samples = list(itertools.islice(found, min(limit or MOST_SAMPLES, MOST_SAMPLES)))
        self._thumbnails: Latest[bytes] = Latest(2 * MOST_SAMPLES)
        self._photos: Latest[bytes] = Latest(_MOST_IMAGES)

    def samples(self) -> list[dict[str, str]]:
        """The images that were named: key and name of each."""
        return [{"image": f"sample-{number}", "name": ref.name} for number, ref in enumerate(self._samples)]

    def add(self, data: bytes, name: str) -> KeptImage:
        """An image that was dropped.

        Args:
            data: The file.
            name: What it was called where it came from: for messages and commands, never a path that is opened.

        Raises:
            ImageError: It cannot be decoded, or is too large.
        """
        called = safe_component(name.replace("\\", "/").rsplit("/", 1)[-1] or "image")
        key = hashlib.sha256(called.encode() + b"\0" + data).hexdigest()[:24]
        return self._put(key, data, ImageRef(called, called, 0), given=False)

    def find(self, key: str) -> KeptImage:
        """An image by its key.

        Raises:
            CnnvizError: There is none; or it was dropped long ago.
            ImageError: A named image cannot be decoded.
        """
        known = self._kept.get(key)
        if known is not None:
            return known
        ref = self._sample(key)
        if ref is None:
            raise CnnvizError("This image is not here any more.", "Drop it again.")
        return self._put(key, read_bytes(ref), ref, given=True)

    def photo(self, key: str) -> bytes:
        """An image as the page shows it, a JPEG.

        Raises:
            CnnvizError, ImageError: As :meth:`find`.
        """
        return self._photos.once(key, lambda: encode(thumbnail(self.find(key).item.rgb, LONGEST_SIDE), _PHOTO))

    def thumbnail(self, key: str) -> bytes:
        """An image, small, as a JPEG.

        Raises:
            CnnvizError, ImageError: As :meth:`find`.
        """
        ref = self._sample(key)
        if ref is None:
            opened = self.find(key).item.rgb
            return self._thumbnails.once(key, lambda: encode(thumbnail(opened, _SMALL), _PHOTO))
        return self._thumbnails.once(key, lambda: encode(thumbnail(decode(read_bytes(ref)).rgb, _SMALL), _PHOTO))

    def _sample(self, key: str) -> ImageRef | None:
        kind, _, number = key.partition("-")
        known = kind == "sample" and number.isascii() and number.isdecimal() and len(number) < 6
        return self._samples[int(number)] if known and int(number) < len(self._samples) else None

    def _put(self, key: str, data: bytes, ref: ImageRef, *, given: bool) -> KeptImage:
        rgb = decode(data).rgb
        pixels, geometry = prepare(rgb, self._prepared.preprocess)
        made = KeptImage(key, DecodedImage(ref, rgb, pixels, geometry), given)
        return self._kept.put(key, made, rgb.nbytes + pixels.nbytes)


def _is_offered(ref: ImageRef) -> bool:
    """Whether a file is an image by its first bytes; of one that was named itself, or lies behind a URL, that shows
    when it is opened.
    """
    if ref.explicit or is_url(ref.uri):
        return True
    try:
        with open_file(ref) as stream:
            return sniff(stream.read(SNIFF_BYTES)) is not None
    except ImageError:
        return False
