"""Synthetic scenes: one textured object somewhere on a textured background, with its class and its box.

The class is the texture of the object. Its outline, colours, size and place, and all of the background, are random and
tell nothing of it; patches of smooth colour in the background have outlines like those of objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
SIZE = 112


def _stripes(u: Floats, v: Floats) -> Floats:
    return np.sin(u)


def _checks(u: Floats, v: Floats) -> Floats:
    return np.sin(u) * np.sin(v)


def _dots(u: Floats, v: Floats) -> Floats:
    return np.cos(u) + np.cos(v) - 0.9


def _grid(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.cos(u), np.cos(v)) - 0.75


def _zigzag(u: Floats, v: Floats) -> Floats:
    return np.sin(u + 1.6 * np.arcsin(np.sin(v)))


def _scales(u: Floats, v: Floats) -> Floats:
    """Rows of arcs, each row half a period beside the one before."""
    row = np.floor(v / np.pi)
    across = np.mod(u + row * np.pi, 2 * np.pi) - np.pi
    return np.cos(3 * np.hypot(across, np.mod(v, np.pi)))


TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "stripes": _stripes, "checks": _checks, "dots": _dots, "grid": _grid, "zigzag": _zigzag, "scales": _scales,
}  # fmt: skip


def texture(name: str, rng: np.random.Generator) -> Floats:
    """[SIZE, SIZE, 3]: two colours in the pattern of a class, at any angle, at scales within a factor of 1.6."""
    period, angle = rng.uniform(8, 13), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIZE, :SIZE] * (2 * np.pi / period)
    u = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(0, 6.28)
    v = -np.sin(angle) * x + np.cos(angle) * y + rng.uniform(0, 6.28)
    share = 1 / (1 + np.exp(-6 * TEXTURES[name](u, v)))
    first, second = two_colours(rng)
    return share[..., None] * first + (1 - share[..., None]) * second


def two_colours(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Colours 0 to 255 that are apart by 70 to 140 in brightness, either of them the brighter."""
    middle, half = rng.uniform(80, 175), rng.uniform(35, 70) * rng.choice([-1, 1])
    return middle + half + rng.uniform(-40, 40, 3), middle - half + rng.uniform(-40, 40, 3)


def background(rng: np.random.Generator) -> Floats:
    """[SIZE, SIZE, 3]: clouds of two scales in two colours, patches of smooth colour, noise."""
    cloud = np.zeros((SIZE, SIZE))
    for scale, weight in ((24, 1.0), (5, 0.6)):
        rough = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), scale / 2)
        cloud += weight * rough / rough.std()
    share = 1 / (1 + np.exp(-1.5 * cloud))[..., None]
    first, second = two_colours(rng)
    image = share * first + (1 - share) * second
    for _ in range(rng.integers(1, 4)):
        mask = outline(rng)[..., None]
        image = (1 - 0.7 * mask) * image + 0.7 * mask * rng.uniform(40, 215, 3)
    return image + rng.normal(0, 9, image.shape)


def outline(rng: np.random.Generator) -> Floats:
    """[SIZE, SIZE], 0 to 1: an ellipse, a rectangle or a polygon that covers 5 to 30 % of the scene."""
    long, ratio, angle = rng.uniform(22, 36), rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    count = int(rng.choice([4, 5, 6, 40]))
    turns = np.linspace(0, 2 * np.pi, count, endpoint=False) + (rng.uniform(-0.25, 0.25, count) if count < 40 else 0)
    corners = np.stack([long * np.cos(turns), ratio * long * np.sin(turns)], axis=1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = corners @ turn.T
    low, high = -corners.min(axis=0) + 3, SIZE - corners.max(axis=0) - 3
    corners += rng.uniform(low, np.maximum(low, high))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [np.rint(16 * corners).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return mask / 255.0


def scene(name: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[int]]:
    """A picture uint8 [SIZE, SIZE, 3], and the box [x, y, width, height] of its object."""
    mask = outline(rng)
    image = background(rng)
    image = (1 - mask[..., None]) * image + mask[..., None] * (texture(name, rng) + rng.normal(0, 9, image.shape))
    rows, columns = (np.flatnonzero((mask > 0.5).any(axis=axis)) for axis in (1, 0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), [int(value) for value in box]


def write(root: Path, counts: dict[str, int], seed: int = 0) -> None:
    """``root/train/stripes/0.png`` and so on for ``train``, ``val`` and ``test``; ``root/truth.json``: their boxes.

    Args:
        root: A folder that does not exist.
        counts: Pictures of each class in each part.
        seed: Of everything.
    """
    labels = list(TEXTURES)
    truth = Truth(labels)
    for part, count in counts.items():
        rng = np.random.default_rng([seed, len(part)])
        for label in labels:
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels, box = scene(label, rng)
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
                truth.add(f"{part}/{label}/{number}.png", pixels.shape, [(label, box)])
    truth.write(root / "truth.json")


class Truth:
    """Boxes of pictures, as COCO has them."""

    def __init__(self, labels: list[str]) -> None:
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._images: list[dict[str, object]] = []
        self._boxes: list[dict[str, object]] = []

    def add(self, name: str, shape: tuple[int, ...], objects: list[tuple[str, list[int]]]) -> None:
        """A picture by the end of its path, and what is in it."""
        image = len(self._images)
        self._images.append({"id": image, "file_name": name, "height": shape[0], "width": shape[1]})
        for label, box in objects:
            entry = {"image_id": image, "category_id": self._numbers[label], "bbox": box, "area": box[2] * box[3]}
            self._boxes.append({"id": len(self._boxes), "iscrowd": 0, **entry})

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        categories = [{"id": number, "name": label} for label, number in self._numbers.items()]
        path.write_text(json.dumps({"images": self._images, "annotations": self._boxes, "categories": categories}))
