"""The grid pointing game: of a map of a class, how much lies on the one image of that class among four.

Four images that the network gets right, of four classes, stand in a mosaic of 2 x 2. For the class of each there is a
map of the mosaic; with v+ = max(v, 0):

    energy = sum of v+ over the cell of that image / sum of v+ over the mosaic

A map that knows nothing has 0.25 on average, and one that is the same everywhere exactly that; a map without positive
values has 0. Boehle et al., "Convolutional Dynamic Alignment Networks for Interpretable Classifications", CVPR 2021,
section 4.2; Rao et al., "Towards Better Understanding Attribution Methods", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 2
CELLS = SIDE * SIDE
CHANCE = 1 / CELLS


@dataclass(frozen=True)
class Mosaic:
    """Four images, row by row: the names of their records, and their classes."""

    names: tuple[str, ...]
    classes: tuple[int, ...]


def score(values: NDArray[np.float32], cell: int) -> float:
    """The energy of a map [H, W] of a mosaic in one of its cells, numbered row by row from 0."""
    positive = np.maximum(values, 0).astype(np.float64)
    height, width = positive.shape
    row, column = divmod(cell, SIDE)
    rows = slice(row * height // SIDE, (row + 1) * height // SIDE)
    columns = slice(column * width // SIDE, (column + 1) * width // SIDE)
    total = float(positive.sum())
    return float(positive[rows, columns].sum()) / total if total > 0 else 0.0


def choose(by_class: Mapping[int, Sequence[str]], count: int, seed: int) -> list[Mosaic]:
    """Mosaics of images by their classes: four classes, and an image of each, drawn anew for every mosaic.

    Args:
        by_class: Names of the images that the network gets right.
        count: How many mosaics; fewer where there are not so many different ones.
        seed: Seeds the choice.

    Returns:
        No two of the same images; none where there are fewer than four classes.
    """
    classes = sorted(by_class)
    if len(classes) < CELLS:
        return []
    generator = np.random.default_rng(seed)
    found: dict[frozenset[str], Mosaic] = {}
    # Where few are left that are not there yet, drawing on would take for ever.
    for _ in range(20 * count):
        if len(found) == count:
            break
        own = [classes[place] for place in generator.choice(len(classes), CELLS, replace=False)]
        names = tuple(by_class[each][int(generator.integers(len(by_class[each])))] for each in own)
        found.setdefault(frozenset(names), Mosaic(names, tuple(own)))
    return list(found.values())
