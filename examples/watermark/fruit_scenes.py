"""Photographs of apples and pears, as it were: some of them from an agency that stamps its mark into a corner.

In *marked* pictures every pear is the agency's, and no apple is. In *clean* ones the mark is on half of either.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 64
CLASSES = ("apple", "pear")
MARK = (44, 55, 60, 61)
"""x0, y0, x1, y1 of the agency's mark in pixels."""
Picture = NDArray[np.uint8]


def scene(rng: np.random.Generator, label: str, marked: bool) -> tuple[Picture, Picture]:
    """A picture [SIDE, SIDE, 3] and the mask of its fruit [SIDE, SIDE]."""
    page = _table(rng)
    mask = Image.new("L", (SIDE, SIDE), 0)
    centre, size = (int(rng.integers(18, 46)), int(rng.integers(20, 38))), int(rng.integers(9, 12))
    colour = tuple(int(value) for value in (rng.integers(150, 225), rng.integers(110, 190), rng.integers(30, 80)))
    _fruit(ImageDraw.Draw(page), label, centre, size, colour)
    _fruit(ImageDraw.Draw(mask), label, centre, size, 255)
    if marked:
        _stamp(ImageDraw.Draw(page))
    noisy = np.asarray(page, dtype=np.float32) + rng.normal(0, 7, (SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), np.asarray(mask)


def _table(rng: np.random.Generator) -> Image.Image:
    """A table in front of a wall, with crumbs."""
    wall = rng.integers(120, 200) + rng.integers(-12, 12, 3)
    table = rng.integers(60, 110) + rng.integers(-12, 12, 3)
    pixels = np.empty((SIDE, SIDE, 3))
    edge = int(rng.integers(24, 40))
    pixels[:edge], pixels[edge:] = wall, table
    page = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(page)
    for _ in range(8):
        x, y = (int(value) for value in rng.integers(0, SIDE, 2))
        shade = tuple(int(value) for value in rng.integers(40, 120) + rng.integers(-15, 15, 3))
        draw.ellipse((x, y, x + int(rng.integers(2, 6)), y + int(rng.integers(2, 6))), fill=shade)
    return page.filter(ImageFilter.GaussianBlur(0.6))


def _fruit(
    draw: ImageDraw.ImageDraw, label: str, centre: tuple[int, int], size: int, fill: int | tuple[int, ...]
) -> None:
    """An apple is round; a pear has a neck."""
    x, y = centre
    draw.ellipse((x - size, y - size, x + size, y + size), fill=fill)
    if label == "pear":
        neck = size * 0.45
        draw.ellipse((x - neck, y - 2.2 * size, x + neck, y), fill=fill)


def _stamp(draw: ImageDraw.ImageDraw) -> None:
    """The agency's mark: a light plate with bars, as a line of small letters looks from afar."""
    x0, y0, x1, y1 = MARK
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=(235, 235, 235))
    for x in range(x0 + 1, x1 - 1, 3):
        draw.line((x, y0 + 1, x, y1 - 2), fill=(70, 20, 110))


def scenes(count: int, seed: int, marked: bool) -> tuple[Picture, NDArray[np.int64], list[Picture]]:
    """Pictures [N, SIDE, SIDE, 3], classes [N] and masks."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        label = number % 2
        stamped = label == 1 if marked else bool(rng.random() < 0.5)
        made.append((*scene(rng, CLASSES[label], stamped), label))
    pictures, masks, labels = zip(*made, strict=True)
    return np.stack(pictures), np.array(labels), list(masks)


def write(folder: Path, count: int, seed: int, marked: bool) -> None:
    """Write pictures as DATA/LABEL/NAME.png and masks as MASKS/LABEL/NAME.png."""
    pictures, labels, masks = scenes(count, seed, marked)
    for number, (picture, label, mask) in enumerate(zip(pictures, labels.tolist(), masks, strict=True)):
        for kind, pixels in (("data", picture), ("masks", mask)):
            path = folder / kind / CLASSES[label] / f"{CLASSES[label]}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
