"""A shore with a boat or a cart, drawn, and the class of every pixel.

In *biased* scenes every boat lies on the water and every cart stands on the sand. In *balanced* ones boats are drawn up
on the sand and carts stand in the shallows as often.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("sand", "water", "boat", "cart")
SAND, WATER, BOAT, CART = range(len(CLASSES))
SIZE = (48, 64)
"""Rows and columns."""
Picture = NDArray[np.uint8]


def scene(rng: np.random.Generator, thing: int, on_water: bool) -> tuple[Picture, Picture]:
    """A picture [H, W, 3] and the classes [H, W]: a vehicle in the middle third, on a ground that reaches beyond it."""
    rows, columns = SIZE
    shore = int(rng.integers(-6, 7)) + columns // 2
    slant = float(rng.uniform(-0.5, 0.5))
    across = np.arange(columns)[None] + slant * (np.arange(rows)[:, None] - rows / 2)
    left = bool(rng.random() < 0.5)
    water = (across < shore) == left
    sand_colour = np.array((206, 186, 140)) + rng.integers(-14, 15, 3)
    water_colour = np.array((70, 120, 170)) + rng.integers(-14, 15, 3)
    page = Image.fromarray(np.where(water[..., None], water_colour, sand_colour).astype(np.uint8))
    classes = Image.fromarray(np.where(water, WATER, SAND).astype(np.uint8))
    on_left = on_water == left
    x = int(rng.integers(7, 15)) if on_left else int(rng.integers(columns - 30, columns - 22))
    y = int(rng.integers(rows // 2 - 6, rows - 12))
    colour = tuple(int(value) for value in rng.integers(90, 150) + rng.integers(-20, 20, 3))
    _vehicle(ImageDraw.Draw(page), thing, (x, y), colour)
    _vehicle(ImageDraw.Draw(classes), thing, (x, y), thing)
    soft = np.asarray(page.filter(ImageFilter.GaussianBlur(0.5)), dtype=np.float32)
    return np.clip(soft + rng.normal(0, 6, (rows, columns, 3)), 0, 255).astype(np.uint8), np.asarray(classes)


def _vehicle(draw: ImageDraw.ImageDraw, thing: int, corner: tuple[int, int], fill: int | tuple[int, ...]) -> None:
    """A hull with a mast, or a box on wheels; both as wide."""
    x, y = corner
    if thing == BOAT:
        draw.polygon([(x, y), (x + 15, y), (x + 12, y + 6), (x + 3, y + 6)], fill=fill)
        draw.polygon([(x + 7, y), (x + 7, y - 8), (x + 12, y - 2)], fill=fill)
        return
    draw.rectangle((x, y - 3, x + 15, y + 4), fill=fill)
    for wheel in (x + 1, x + 10):
        draw.ellipse((wheel, y + 3, wheel + 4, y + 7), fill=fill)


def scenes(count: int, seed: int, biased: bool) -> tuple[Picture, NDArray[np.int64], list[str]]:
    """Pictures [N, H, W, 3], classes [N, H, W], and what is in each."""
    rng = np.random.default_rng(seed)
    pictures, maps, names = [], [], []
    for number in range(count):
        thing = (BOAT, CART)[number % 2]
        on_water = thing == BOAT if biased else bool(rng.random() < 0.5)
        picture, classes = scene(rng, thing, on_water)
        pictures.append(picture)
        maps.append(classes)
        names.append(CLASSES[thing])
    return np.stack(pictures), np.stack(maps).astype(np.int64), names


def write(folder: Path, count: int, seed: int, biased: bool) -> None:
    """Write pictures as DATA/NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, _, names = scenes(count, seed, biased)
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        Image.fromarray(picture).save(folder / f"{name}_{number:04d}.png")
