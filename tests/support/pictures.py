"""Pictures that tests make, and how they read those that a run wrote."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def photograph(seed: int, size: tuple[int, int] = (90, 70)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
