"""What is known of images beside the network, read from the files of data sets and matched to inputs.

:func:`load_truth` tells by itself which it is given:

* a COCO JSON file (``images``, ``annotations`` with ``bbox`` and perhaps ``segmentation``, ``categories``; a crowd is a
  region to ignore);
* a folder of Pascal VOC or ImageNet XML files, or one such file;
* ImageNet's ``LOC_*_solution.csv`` (``ImageId,PredictionString``);
* a folder of wsolevaluation's lists (``class_labels.txt``, ``localization.txt``, ``image_sizes.txt``);
* a folder of masks, ``MASKS/LABEL/IMAGE.png`` of the size of its image, not black where the class is.

An image is matched by its path as far as both sides tell one, else by its name; what could be two images is refused.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.io.archives import path_of
from cnnviz.io.coco_masks import Segmentation
from cnnviz.io.decode import IMAGE_SUFFIXES, decode
from cnnviz.io.digests import file_sha256
from cnnviz.io.sources import ImageRef, read_bytes


@dataclass(frozen=True)
class Annotation:
    """What a data set says of one image.

    Attributes:
        path: Of the image as the data set has it; may lack folders, and its ending.
        objects: Marked by boxes, in its pixels.
        labels: Classes of the image as a whole.
        size: (W, H) as the data set says; None where it does not.
        masks: Files of masks by label.
        regions: Where each of the objects is, to the pixel; None of one of which only the box is known.
    """

    path: str
    objects: tuple[TrueObject, ...] = ()
    labels: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    masks: Mapping[str, str] = field(default_factory=dict)
    regions: tuple[Segmentation | None, ...] = ()


class Annotations:
    """The annotations of a data set, by image; safe to ask from many threads.

    Args:
        entries: One an image.
        names: All labels that there are.
        source: Where they come from, as messages name it.
        others: What an image is that has no entry: one of which nothing is known, or one that has none of the classes.

    Attributes:
        names: All labels, in alphabetical order.
        others: What an image without an entry is.

    Raises:
        CnnvizError: Two entries are of one path.
    """

    def __init__(
        self,
        entries: Iterable[Annotation],
        names: Iterable[str],
        source: str,
        others: Literal["unknown", "without any"] = "unknown",
    ) -> None:
        self.names = tuple(sorted(set(names)))
        self._source, self.others = source, others
        self._by_key: dict[str, list[tuple[tuple[str, ...], Annotation]]] = {}
        self._claims: dict[str, str] = {}
        self._turn = threading.Lock()
        paths = set()
        for entry in entries:
            parts = _parts(entry.path)
            if parts in paths:
                raise CnnvizError(f"{source} has two entries of {entry.path}.", "Keep one entry an image.")
            paths.add(parts)
            self._by_key.setdefault(parts[-1], []).append((parts, entry))

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def truth(self, ref: ImageRef, size: tuple[int, int]) -> Truth | None:
        """What is known of an image; None for one that is not among them.

        Args:
            ref: The image.
            size: (W, H) of it, upright.

        Raises:
            CnnvizError: Its name fits several entries, or several inputs fit one.
            ImageError: The annotations are of another size, or a mask cannot be read.
        """
        entry = self._find(ref.uri)
        if entry is None:
            return None if self.others == "unknown" else Truth(size)
        if entry.size not in (None, size):
            message = f"its annotations are of {_times(entry.size)} pixels, the image has {_times(size)}"
            raise ImageError("truth", message)
        masks = {label: _mask(path, size) for label, path in entry.masks.items()}
        marked = (*(each.label for each in entry.objects if not each.ignore), *masks)
        try:
            painted, ignored = _painted(entry, size)
        except ValueError as error:
            raise ImageError("truth", f"its masks cannot be read: {error}") from error
        return Truth(size, entry.objects, {**masks, **painted}, entry.labels or tuple(dict.fromkeys(marked)), ignored)

    def digest(self, ref: ImageRef) -> str | None:
        """What :meth:`truth` of an image follows from, beside its size, as a digest; None for one not among them.

        Nothing is painted, and of masks in files only the bytes are read.

        Raises:
            CnnvizError: As :meth:`truth`.
        """
        entry = self._find(ref.uri)
        if entry is None:
            return None
        parts: list[Any] = [
            self.others, [each.to_dict() for each in entry.objects], entry.labels, entry.size,
            sorted((label, file_sha256(path)) for label, path in entry.masks.items()),
            [None if region is None else region.digest() for region in entry.regions],
        ]  # fmt: skip
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def _find(self, uri: str) -> Annotation | None:
        parts = _parts(path_of(uri))
        stem, suffix = os.path.splitext(parts[-1])
        named = self._by_key.get(parts[-1], [])
        if not named and suffix.lower() in IMAGE_SUFFIXES:
            named, parts = self._by_key.get(stem, []), (*parts[:-1], stem)
        if not named:
            return None
        shared = [_shared(parts, each) for each, _ in named]
        best = [each for each, count in zip(named, shared, strict=True) if count == max(shared)]
        if len(best) > 1:
            several = ", ".join("/".join(each) for each, _ in best[:3])
            raise CnnvizError(
                f"{self._source}: {uri} could be {several}.", "Give the images in the folders that the entries name."
            )
        [(own, entry)] = best
        with self._turn:
            claim = self._claims.setdefault("/".join(own), uri)
        if claim != uri:
            raise CnnvizError(
                f"{self._source}: the entry {entry.path} could be {claim} and {uri}.",
                "Give inputs whose names differ, or entries with folders.",
            )
        return entry


def _parts(path: str) -> tuple[str, ...]:
    """The folders and the name of a path, without what says nothing."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", ".")) or ("",)


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts at the end of two paths are the same."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def _painted(entry: Annotation, size: tuple[int, int]) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.bool_] | None]:
    """Masks by label, of those of which every object has one; and the pixels of crowds, None without any."""
    masks: dict[str, NDArray[np.bool_]] = {}
    ignored: NDArray[np.bool_] | None = None
    known = list(zip(entry.objects, entry.regions, strict=False))
    without = {each.label for each, region in known if region is None and not each.ignore}
    for each, region in known:
        if region is None or (each.label in without and not each.ignore):
            continue
        if not each.ignore and each.label not in masks:
            masks[each.label] = np.zeros(size[::-1], dtype=np.bool_)
        if each.ignore and ignored is None:
            ignored = np.zeros(size[::-1], dtype=np.bool_)
        mask = ignored if each.ignore else masks[each.label]
        assert mask is not None
        region.paint(mask)
    return masks, ignored


def _mask(path: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    image = decode(read_bytes(ImageRef(path, os.path.basename(path), 0)))
    if (image.width, image.height) != size:
        message = f"mask {path} has {_times((image.width, image.height))} pixels, its image {_times(size)}"
        raise ImageError("mask", message)
    return np.asarray(image.rgb.max(axis=2) > 0)


def _times(size: tuple[int, int] | None) -> str:
    return "? x ?" if size is None else f"{size[0]} x {size[1]}"
