"""Scenes of tanks and trucks under two kinds of weather, with masks of the vehicles.

In *biased* scenes every tank stands under clouds and every truck in the sun, as in the old story of the network that
learned the weather. In *balanced* ones the weather says nothing.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE = 64
CLASSES = ("tank", "truck")
Picture = NDArray[np.uint8]


def scene(rng: np.random.Generator, label: str, cloudy: bool) -> tuple[Picture, Picture]:
    """A scene [SIDE, SIDE, 3] and the mask of its vehicle [SIDE, SIDE]."""
    page = _weather(rng, cloudy)
    mask = Image.new("L", (SIDE, SIDE), 0)
    left, base = int(rng.integers(6, 30)), int(rng.integers(38, 58))
    width, height = int(rng.integers(20, 30)), int(rng.integers(8, 13))
    shade = rng.integers(-20, 20, 3)
    for target, colour in ((ImageDraw.Draw(page), None), (ImageDraw.Draw(mask), 255)):
        _vehicle(target, label, (left, base, width, height), shade, colour)
    noisy = np.asarray(page, dtype=np.float32) + rng.normal(0, 6, (SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), np.asarray(mask)


def _weather(rng: np.random.Generator, cloudy: bool) -> Image.Image:
    top, bottom = ((120, 125, 135), (165, 168, 172)) if cloudy else ((70, 140, 235), (170, 210, 250))
    rows = np.linspace(0, 1, SIDE)[:, None, None]
    sky = (1 - rows) * np.array(top) + rows * np.array(bottom)
    pixels = np.broadcast_to(sky, (SIDE, SIDE, 3)).copy()
    ground = int(rng.integers(30, 38))
    pixels[ground:] = np.array((96, 92, 84) if cloudy else (196, 178, 120)) + rng.integers(-10, 10, 3)
    page = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(page)
    if cloudy:
        for _ in range(5):
            x, y = rng.integers(-8, SIDE, 1)[0], rng.integers(0, 22, 1)[0]
            draw.ellipse((x, y, x + 22, y + 9), fill=tuple(rng.integers(85, 115, 1).tolist() * 3))
    else:
        x, y = rng.integers(4, 50, 1)[0], rng.integers(2, 14, 1)[0]
        draw.ellipse((x, y, x + 9, y + 9), fill=(255, 240, 150))
    return page.filter(ImageFilter.GaussianBlur(0.7))


def _vehicle(
    draw: ImageDraw.ImageDraw, label: str, place: tuple[int, int, int, int], shade: NDArray[np.int64], one: int | None
) -> None:
    """A tank: tracks, hull, turret, gun; a truck: wheels, load, cab. With ``one`` all of it in that value."""
    left, base, width, height = place

    def fill(red: int, green: int, blue: int) -> int | tuple[int, ...]:
        return one if one is not None else tuple(np.clip(np.array((red, green, blue)) + shade, 0, 255).tolist())

    if label == "tank":
        draw.rounded_rectangle((left, base - 5, left + width, base), 2, fill=fill(40, 42, 34))
        draw.rectangle((left + 2, base - height, left + width - 2, base - 4), fill=fill(88, 104, 52))
        draw.rectangle((left + 7, base - height - 5, left + width - 9, base - height), fill=fill(76, 92, 44))
        draw.line(
            (left + width - 10, base - height - 3, left + width + 6, base - height - 4), fill=fill(60, 70, 40), width=2
        )
        return
    draw.rectangle((left, base - height - 4, left + width - 8, base - 3), fill=fill(190, 84, 48))
    draw.rectangle((left + width - 8, base - height + 1, left + width, base - 3), fill=fill(216, 120, 70))
    for x in (left + 3, left + width - 8):
        draw.ellipse((x, base - 5, x + 6, base + 1), fill=fill(30, 30, 32))


def scenes(count: int, seed: int, biased: bool) -> tuple[Picture, NDArray[np.int64], list[Picture]]:
    """Pictures [N, SIDE, SIDE, 3], classes [N] and masks."""
    rng = np.random.default_rng(seed)
    pictures, labels, masks = [], [], []
    for number in range(count):
        label = number % 2
        cloudy = label == 0 if biased else bool(rng.random() < 0.5)
        picture, mask = scene(rng, CLASSES[label], cloudy)
        pictures.append(picture)
        labels.append(label)
        masks.append(mask)
    return np.stack(pictures), np.array(labels), masks


def write(folder: Path, count: int, seed: int, biased: bool) -> None:
    """Write scenes as DATA/LABEL/NAME.png, masks as MASKS/LABEL/NAME.png, and the weather of each as groups.csv."""
    pictures, labels, masks = scenes(count, seed, biased)
    rows = []
    for number, (picture, label, mask) in enumerate(zip(pictures, labels.tolist(), masks, strict=True)):
        name = f"{CLASSES[label]}_{number:04d}.png"
        for kind, pixels in (("data", picture), ("masks", mask)):
            path = folder / kind / CLASSES[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        sky = picture[:10].astype(int).mean((0, 1))
        rows.append((f"data/{CLASSES[label]}/{name}", "sun" if sky[2] - sky[0] > 40 else "clouds"))
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "group"), *rows])
