"""Canvases with handwritten digits of scikit-learn: one digit each to learn from, all ten to look for the 9 among.

No digit that is learned from is tested with.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scenes import Floats, Truth
from sklearn.datasets import load_digits

SIZE, LARGE = 80, 160
LABELS = [str(number) for number in range(10)]
PARTS = {"train": (0, 1100), "val": (1100, 1350), "test": (1350, 1797)}
LOOKED_FOR = "9"


def _ink(image: Floats, sides: tuple[int, int]) -> Floats:
    """A digit of 8x8 in 0 to 16, as ink from 0 to 1 in [rows, columns]."""
    return np.clip(cv2.resize(image / 16.0, sides[::-1], interpolation=cv2.INTER_CUBIC) * 1.3, 0, 1)


def paper(rng: np.random.Generator, size: int) -> Floats:
    """[size, size, 3]: clouds of a colour, and noise."""
    clouds = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), 6)
    colour = rng.uniform(60, 195, 3)
    return colour + 14 * (clouds / clouds.std())[..., None] + rng.normal(0, 10, (size, size, 3))


class Canvas:
    """Paper on which digits are written."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.image, self.boxes = rng, paper(rng, size), list[tuple[str, list[int]]]()

    def write(self, label: str, digit: Floats, corner: tuple[int, int], side: int) -> None:
        """One digit, in a colour of its own, within a square of a side from a corner (row, column)."""
        ink = np.zeros(self.image.shape[:2])
        (row, column), shape = corner, (side, round(side * self.rng.uniform(0.8, 1.0)))
        ink[row : row + shape[0], column : column + shape[1]] = _ink(digit, shape)
        bright = self.image[row : row + side, column : column + side].mean()
        colour = bright + (90 if bright < 128 else -90) + self.rng.uniform(-25, 25, 3)
        self.image = (1 - ink[..., None]) * self.image + ink[..., None] * colour
        rows, columns = (np.flatnonzero((ink > 0.3).any(axis=axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        self.boxes.append((label, [int(value) for value in box]))

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [size, size, 3]."""
        return np.clip(np.rint(self.image), 0, 255).astype(np.uint8)


def write(root: Path, counts: dict[str, int], seed: int = 0) -> None:
    """``root/train/0/0.png`` and so on; ``root/ten/0.png`` with all ten digits, as many as ``counts["ten"]`` says.

    Args:
        root: A folder that does not exist.
        counts: Pictures of each class in each part; for ``ten`` in all.
        seed: Of everything but the digits.
    """
    images, targets = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    truth = Truth(LABELS)
    for part, (first, last) in PARTS.items():
        rng = np.random.default_rng([seed, len(part)])
        for number in range(10):
            mine = images[first:last][targets[first:last] == number]
            (root / part / LABELS[number]).mkdir(parents=True)
            for place in range(counts[part]):
                canvas, side = Canvas(rng, SIZE), int(rng.integers(16, 31))
                corner = (int(rng.integers(0, SIZE - side)), int(rng.integers(0, SIZE - side)))
                canvas.write(LABELS[number], mine[place % len(mine)], corner, side)
                name = f"{part}/{LABELS[number]}/{place}.png"
                Image.fromarray(canvas.pixels()).save(root / name)
                truth.add(name, canvas.image.shape, canvas.boxes)
    truth.write(root / "truth.json")
    scattered = Truth(LABELS)
    _write_scattered(root, counts["ten"], scattered, np.random.default_rng([seed, 99]))
    scattered.write(root / "ten.json")


def _write_scattered(root: Path, count: int, truth: Truth, rng: np.random.Generator) -> None:
    """Larger canvases with one of each digit, as large as those that are learned, in ten of sixteen cells."""
    images, targets = load_digits(return_X_y=True)
    first, last = PARTS["test"]
    images, targets = images.reshape(-1, 8, 8)[first:last], targets[first:last]
    (root / "ten").mkdir()
    cell = LARGE // 4
    for place in range(count):
        canvas = Canvas(rng, LARGE)
        for number, at in enumerate(rng.permutation(16)[:10]):
            mine = images[targets == number]
            side = int(rng.integers(16, 31))
            shift = rng.integers(0, cell - side + 1, 2)
            corner = (int(at // 4 * cell + shift[0]), int(at % 4 * cell + shift[1]))
            canvas.write(LABELS[number], mine[rng.integers(len(mine))], corner, side)
        Image.fromarray(canvas.pixels()).save(root / "ten" / f"{place}.png")
        truth.add(f"ten/{place}.png", canvas.image.shape, canvas.boxes)
