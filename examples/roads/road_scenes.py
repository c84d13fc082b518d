"""Roads as a driver sees them, drawn: a plane in perspective with a surface, marks, speed bumps and damages, and the
class of every pixel.

Classes follow the Road Traversing Knowledge data set (Rateke, Justen and von Wangenheim 2019): which surface, and what
is on it. Nothing of that data set is used; every picture is made by this file from its seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("background", "asphalt", "paved", "unpaved", "marking", "speed bump", "pothole", "crack")
BACKGROUND, ASPHALT, PAVED, UNPAVED, MARKING, BUMP, POTHOLE, CRACK = range(len(CLASSES))
SIZE = (96, 128)
"""Rows and columns."""

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Plane:
    """The ground in perspective.

    Attributes:
        across: Place across the road [H, W]; the road is from -1 to 1.
        away: Distance [H, W]; 1 at the bottom of the picture. Both are large above the horizon.
        ground: Where the ground is.
        fine: How much of a small pattern can be seen, 1 near and 0 far.
    """

    across: Pixels
    away: Pixels
    ground: Mask
    fine: Pixels


def plane(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> Plane:
    """A road that starts below the camera and ends at a horizon."""
    rows, columns = size
    horizon = rows * rng.uniform(0.26, 0.4)
    down = np.maximum(np.arange(rows) - horizon, 0.0)[:, None]
    bottom = rows - 1 - horizon
    away = bottom / np.maximum(down, 0.2) + np.zeros((1, columns))
    shift, bend, wide = rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.05), rng.uniform(0.36, 0.46)
    middle = columns * (0.5 + shift / away + bend * (np.minimum(away, 9) - 1) / 4)
    across = (np.arange(columns)[None] - middle) * away / (wide * columns)
    ground = down > 0.5
    return Plane(across, away, np.broadcast_to(ground, size).copy(), np.clip(2.2 / away, 0.0, 1.0) ** 2)


def noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> Pixels:
    """Smooth noise with spots of about ``cell`` pixels, of mean 0 and deviation 1."""
    small = rng.normal(size=(max(2, round(size[0] / cell)), max(2, round(size[1] / cell))))
    found = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray((found - found.mean()) / max(float(found.std()), 1e-6), dtype=np.float64)


def surface(kind: int, ground: Plane, rng: np.random.Generator) -> Pixels:
    """How a surface looks, [H, W, 3] in 0–255, all over the plane."""
    size = ground.across.shape[0], ground.across.shape[1]
    if kind == ASPHALT:
        tone = rng.uniform(70, 120)
        grey = tone + 5 * noise(rng, size, 1) * ground.fine + 4 * noise(rng, size, 12)
        return grey[..., None] + np.array([0.0, 0.0, rng.uniform(0, 6)])
    if kind == PAVED:
        long, wide = rng.uniform(0.2, 0.3), rng.uniform(0.12, 0.2)
        course = np.floor(ground.away / long)
        joint = np.minimum(ground.away / long - course, 1 - (ground.away / long - course)) * long
        along = ground.across / wide + 0.5 * (course % 2)
        side = np.minimum(along - np.floor(along), 1 - (along - np.floor(along))) * wide
        stones = rng.normal(size=(61, 67))[(course % 61).astype(int), (np.floor(along) % 67).astype(int)]
        gap = (np.minimum(joint, side) < 0.022) * ground.fine
        grey = rng.uniform(115, 150) + 12 * stones * ground.fine - 55 * gap + 3 * noise(rng, size, 1)
        return grey[..., None] + np.array([rng.uniform(4, 22), 2.0, -8.0])
    tone = np.array([150.0, 118.0, 84.0]) * rng.uniform(0.8, 1.15)
    rough = 12 * noise(rng, size, 2) * ground.fine + 11 * noise(rng, size, 7)
    ruts = -12 * np.exp(-(((np.abs(ground.across) - 0.45) / 0.14) ** 2))
    return tone + (rough + ruts)[..., None]


def around(ground: Plane, rng: np.random.Generator) -> Pixels:
    """Sky and verges [H, W, 3]."""
    size = ground.across.shape[0], ground.across.shape[1]
    sky = np.linspace(0, 1, size[0])[:, None, None] * np.array([40.0, 30.0, 10.0]) + np.array([140.0, 175.0, 215.0])
    sky = sky + 8 * noise(rng, size, 20)[..., None]
    grass = np.array([78.0, 112.0, 52.0]) * rng.uniform(0.75, 1.15) + (9 * noise(rng, size, 2))[..., None]
    grass = grass + (10 * noise(rng, size, 9))[..., None] * np.array([1.0, 0.8, 0.5])
    return np.where(ground.ground[..., None], grass, sky)


def damage(ground: Plane, rng: np.random.Generator) -> Mask:
    """A crack: a walk over the road, of a few straight pieces."""
    at = np.array([rng.uniform(-0.7, 0.7), rng.uniform(1.05, 1.6)])
    heading, inside = rng.uniform(-2.6, 2.6), np.zeros(ground.across.shape, dtype=bool)
    for _ in range(int(rng.integers(5, 9))):
        step = rng.uniform(0.1, 0.25) * np.array([np.sin(heading), abs(np.cos(heading)) + 0.15])
        place = np.stack([ground.across - at[0], ground.away - at[1]], axis=-1)
        along = np.clip((place @ step) / (step @ step), 0, 1)
        inside |= np.linalg.norm(place - along[..., None] * step, axis=-1) < rng.uniform(0.017, 0.028)
        at, heading = at + step, heading + rng.uniform(-0.9, 0.9)
    return inside


def hole(ground: Plane, rng: np.random.Generator) -> tuple[Mask, Pixels]:
    """A pothole, and how deep it is from 0 at its rim."""
    x, z = rng.uniform(-0.75, 0.75), rng.uniform(1.1, 2.2)
    wide, long = rng.uniform(0.1, 0.22), rng.uniform(0.12, 0.26) * z / 1.5
    angle = np.arctan2((ground.away - z) / long, (ground.across - x) / wide)
    rim = 1 + 0.15 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.1 * np.sin(5 * angle + rng.uniform(0, 6))
    depth = 1 - np.hypot((ground.across - x) / wide, (ground.away - z) / long) / rim
    return depth > 0, np.clip(depth, 0, 1)


def lines(ground: Plane, rng: np.random.Generator) -> Mask:
    """A dashed line in the middle, lines at the sides, or both."""
    period, from_ = rng.uniform(0.7, 1.2), rng.uniform(0, 1)
    dashes = (np.abs(ground.across) < 0.035) & ((ground.away / period + from_) % 1 < 0.55)
    sides = np.abs(np.abs(ground.across) - 0.88) < 0.03
    return np.asarray([dashes, sides, dashes | sides][int(rng.integers(3))])


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture [H, W, 3] and the class of each pixel [H, W]."""
    rng = np.random.default_rng(seed)
    ground = plane(rng, size)
    road = ground.ground & (np.abs(ground.across) < 1)
    near, far = (int(kind) for kind in rng.choice([ASPHALT, PAVED, UNPAVED], 2, replace=False))
    border = rng.uniform(1.5, 3.0) if rng.random() < 0.35 else np.inf
    classes = np.where(road, np.where(ground.away < border, near, far), BACKGROUND).astype(np.uint8)
    rgb = around(ground, rng)
    for kind in (near, far):
        rgb = np.where((classes == kind)[..., None], surface(kind, ground, rng), rgb)
    hard = (classes == ASPHALT) | (classes == PAVED)
    if rng.random() < 0.75:
        inside = lines(ground, rng) & (classes == ASPHALT)
        rgb = np.where(inside[..., None], 205 + 8 * noise(rng, size, 2)[..., None], rgb)
        classes[inside] = MARKING
    if rng.random() < 0.35:
        middle, long = rng.uniform(1.25, 2.2), rng.uniform(0.09, 0.16)
        inside = road & hard & (np.abs(ground.away - middle) < long * middle)
        stripes = (np.floor(ground.across / 0.16 + 20) % 2 == 0)[..., None]
        rgb = np.where(inside[..., None], np.where(stripes, [208.0, 172.0, 48.0], [48.0, 46.0, 44.0]), rgb)
        classes[inside] = BUMP
    for _ in range(int(rng.integers(0, 3))):
        where, depth = hole(ground, rng)
        inside = where & road & (classes != BUMP)
        shade = 0.72 - 0.32 * depth + 0.04 * noise(rng, size, 2)
        rgb = np.where(inside[..., None], rgb * shade[..., None] - 6, rgb)
        classes[inside] = POTHOLE
    for _ in range(int(rng.integers(0, 3))):
        inside = damage(ground, rng) & road & np.isin(classes, (ASPHALT, MARKING))
        rgb = np.where(inside[..., None], rgb * 0.25 + 5, rgb)
        classes[inside] = CRACK
    light = rng.uniform(0.8, 1.15) * (1 + 0.06 * noise(rng, size, 40))
    rgb = cv2.GaussianBlur(rgb * light[..., None], (0, 0), 0.5) + rng.normal(0, 2.5, rgb.shape)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8), classes


def write(folder: Path, seeds: range, size: tuple[int, int] = SIZE) -> None:
    """Pictures as ``images/N.png`` with their classes as ``classes/N.png``, and the names of the classes."""
    for name in ("images", "classes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        rgb, classes = scene(seed, size)
        cv2.imwrite(str(folder / "images" / f"{seed}.png"), rgb[..., ::-1])
        cv2.imwrite(str(folder / "classes" / f"{seed}.png"), classes)
    (folder / "labels.json").write_text(json.dumps(CLASSES))
