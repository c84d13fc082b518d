"""Pictures that tests make, and how they read those that a run wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def photograph(seed: int, size: tuple[int, int] = (90, 70)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def photographs_in(folder: Path, count: int, classes: Sequence[str] = ()) -> Path:
    """So many photographs, 0.png and so on; in folders of these names in turn."""
    for index in range(count):
        place = folder / classes[index % len(classes)] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(index)).save(place / f"{index}.png")
    return folder


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
