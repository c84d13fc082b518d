"""Where concepts are in images: boxes of a COCO file, or a folder of masks for each concept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import decode
from cnnviz.io.sources import ImageRef, read_bytes

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts by name, and where each is in an image.

    Attributes:
        names: In alphabetical order.
        boxes: By file name: (index of the concept, x, y, w, h) of each object; None for masks.
        folder: That holds the masks, ``CONCEPT/IMAGE.png``; empty for boxes.
    """

    names: tuple[str, ...]
    boxes: Mapping[str, list[tuple[int, Box]]] | None = None
    folder: str = ""
    files: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def regions(self, ref: ImageRef, size: tuple[int, int]) -> dict[int, NDArray[np.bool_]] | None:
        """bool [H, W] of each concept in an image of (W, H) pixels; None for an image that nobody looked at.

        Raises:
            ImageError: A mask cannot be read, or has another size than its image.
        """
        name = os.path.basename(ref.uri)
        width, height = size
        found: dict[int, NDArray[np.bool_]] = {}
        if self.boxes is not None:
            if name not in self.boxes:
                return None
            for concept, (x, y, w, h) in self.boxes[name]:
                region = found.setdefault(concept, np.zeros((height, width), dtype=np.bool_))
                region[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))] = True
            return found
        stem = os.path.splitext(name)[0]
        for concept, stems in self.files.items():
            if stem in stems:
                found[concept] = self._mask(self.names[concept], stem, size)
        return found

    def _mask(self, concept: str, stem: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        path = os.path.join(self.folder, concept, f"{stem}.png")
        image = decode(read_bytes(ImageRef(path, stem, 0)))
        if (image.width, image.height) != size:
            what = f"mask {path} has {image.width} x {image.height} pixels, its image {size[0]} x {size[1]}"
            raise ImageError("mask", what)
        return np.asarray(image.rgb.max(axis=2) > 0)


def read_boxes(path: str, flag: str) -> Concepts:
    """Boxes of a file in COCO's format: ``images``, ``annotations`` with ``bbox`` and ``categories``.

    Raises:
        CnnvizError: It cannot be read or is no such file.
    """
    hint = "Give a COCO JSON file with images, annotations and categories."
    try:
        with open(path, encoding="utf-8") as stream:
            data = json.load(stream)
        categories = {row["id"]: str(row["name"]) for row in data["categories"]}
        names = tuple(sorted(set(categories.values())))
        place = {number: names.index(name) for number, name in categories.items()}
        files = {row["id"]: os.path.basename(str(row["file_name"])) for row in data["images"]}
        boxes: dict[str, list[tuple[int, Box]]] = {name: [] for name in files.values()}
        for row in data["annotations"]:
            x, y, w, h = (float(value) for value in row["bbox"])
            boxes[files[row["image_id"]]].append((place[row["category_id"]], (x, y, w, h)))
    except (OSError, ValueError) as error:
        raise CnnvizError(f"{flag} {path} cannot be read: {error}.", hint) from error
    except (KeyError, TypeError) as error:
        raise CnnvizError(f"{flag} {path}: not in COCO's format ({error}).", hint) from error
    return Concepts(names, boxes)


def find_masks(folder: str, flag: str) -> Concepts:
    """Masks ``FOLDER/CONCEPT/IMAGE.png`` of the size of the image ``IMAGE.*``: not black is the concept.

    Raises:
        CnnvizError: No such folder, or no folders in it.
    """
    hint = "Put masks in a folder a concept: MASKS/CONCEPT/IMAGE.png, not black where the concept is."
    try:
        names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        stems = [
            frozenset(name[:-4] for name in os.listdir(os.path.join(folder, concept)) if name.endswith(".png"))
            for concept in names
        ]
    except OSError as error:
        raise CnnvizError(f"{flag} {folder} cannot be read: {error.strerror}.", hint) from error
    if not any(stems):
        raise CnnvizError(f"{flag} {folder}: no masks in it.", hint)
    return Concepts(names, None, folder, dict(enumerate(stems)))
