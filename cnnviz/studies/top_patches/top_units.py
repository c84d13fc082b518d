"""Where each unit of a layer fires most: in each image of a batch, and over all images of a folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[int, int]


def strongest(
    activations: Tensor, per_image: int = 1, overlaps: NDArray[np.bool_] | None = None
) -> tuple[Tensor, Tensor]:
    """The positions where each unit fires most in each image, strongest first.

    With ``per_image`` M > 1 by greedy non-maximum suppression: the strongest position is taken, all positions that
    overlap it are left out, and so on. Of equals the first position (by rows) is taken.

    Args:
        activations: [N, U, h, w], any device and precision.
        per_image: M, positions for each image and unit.
        overlaps: bool [h, w] of :func:`overlapping`; None leaves out a taken position alone.

    Returns:
        Values [N, U, M] float32 and positions ``row * w + col`` [N, U, M] int64, on the device; -inf and -1 where
        nothing was left.
    """
    flat = activations.detach().float().flatten(2)
    if per_image == 1:
        value, place = flat.max(dim=2, keepdim=True)
        return value, place
    height, width = activations.shape[2:]
    table = torch.zeros((height, width), dtype=torch.bool) if overlaps is None else torch.from_numpy(overlaps.copy())
    table[0, 0] = True
    table = table.to(flat.device)
    rows, cols = (torch.arange(size, device=flat.device) for size in (height, width))
    left, values, places = flat.clone(), [], []
    for _ in range(per_image):
        value, place = left.max(dim=2)
        gone = value == -torch.inf
        values.append(value)
        places.append(place.masked_fill(gone, -1))
        down = (rows - (place // width)[..., None]).abs()
        across = (cols - (place % width)[..., None]).abs()
        near = table[down[..., :, None], across[..., None, :]]
        left.masked_fill_(near.flatten(2), -torch.inf)
    return torch.stack(values, dim=2), torch.stack(places, dim=2)


def overlapping(size: Pair, stride: Pair, shape: Pair, most: float) -> NDArray[np.bool_]:
    """Which distances bring two receptive fields of one layer too close.

        IoU(i, j) = o / (2 A - o),   o = max(0, H - i * s_y) * max(0, W - j * s_x),   A = H * W

    Args:
        size: Height H and width W of the receptive field in pixels, not clipped at the image's border.
        stride: (s_y, s_x), pixels from one unit to the next.
        shape: (h, w) of the layer.
        most: The largest IoU that is allowed.

    Returns:
        bool [h, w]: whether fields i rows and j columns apart have an IoU above ``most``; (0, 0) always.
    """
    down = np.maximum(0, size[0] - np.arange(shape[0], dtype=np.float64) * stride[0])
    across = np.maximum(0, size[1] - np.arange(shape[1], dtype=np.float64) * stride[1])
    shared = down[:, None] * across
    too_close: NDArray[np.bool_] = shared / (2.0 * size[0] * size[1] - shared) > most
    too_close[0, 0] = True
    return too_close


class TopUnits:
    """The strongest patches of every unit over all images that were folded in; its size does not grow with them.

    Fold the images in input order: of equal activations the image that came first, and in it the lowest position,
    stands first. The outcome equals sorting all candidates of all images, whatever the batches were.

    Args:
        units: U, number of units.
        keep: K, patches for each unit.

    Attributes:
        values: float32 [U, K], falling in each row; -inf where there are fewer than K.
        images: int64 [U, K], the numbers given to :meth:`fold`; -1 where there are fewer.
        positions: int64 [U, K], likewise.
        fired: int64 [U], images in which the unit's largest activation was above 0.
        count: Images folded in.
        sums: float64 [2, U], sums over these images of each unit's largest activation, at least 0, and of its square.
    """

    def __init__(self, units: int, keep: int) -> None:
        self.values: NDArray[np.float32] = np.full((units, keep), -np.inf, dtype=np.float32)
        self.images: NDArray[np.int64] = np.full((units, keep), -1, dtype=np.int64)
        self.positions: NDArray[np.int64] = np.full((units, keep), -1, dtype=np.int64)
        self.fired: NDArray[np.int64] = np.zeros(units, dtype=np.int64)
        self.count = 0
        self.sums: NDArray[np.float64] = np.zeros((2, units))

    def fold(self, image: int, values: NDArray[np.float32], positions: NDArray[Any]) -> None:
        """Take the candidates of one image into account.

        Args:
            image: Its number.
            values: [U, M], finite or -inf, falling in each row, as :func:`strongest` gives them.
            positions: [U, M].
        """
        self.fired += values[:, 0] > 0
        self.count += 1
        largest = np.maximum(values[:, 0], 0.0).astype(np.float64)
        self.sums += largest, largest**2
        rows = np.flatnonzero(values[:, 0] > self.values[:, -1])
        if not rows.size:
            return
        keep, several = self.values.shape[1], values.shape[1]
        every = np.concatenate([self.values[rows], values[rows]], axis=1)
        # Stable: what was kept stands before its equals of this image.
        order = np.argsort(-every, axis=1, kind="stable")[:, :keep]
        numbers = np.concatenate([self.images[rows], np.full((len(rows), several), image, dtype=np.int64)], axis=1)
        places = np.concatenate([self.positions[rows], positions[rows].astype(np.int64)], axis=1)
        self.values[rows] = np.take_along_axis(every, order, axis=1)
        self.images[rows] = np.take_along_axis(numbers, order, axis=1)
        self.positions[rows] = np.take_along_axis(places, order, axis=1)
        self.images[rows] = np.where(self.values[rows] == -np.inf, -1, self.images[rows])

    def join(self, values: NDArray[np.float32], images: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Take the strongest patches [U, K] of other images into account, whose numbers may lie between those here."""
        keep = self.values.shape[1]
        every = np.concatenate([self.values, values], axis=1)
        numbers = np.concatenate([self.images, images], axis=1)
        places = np.concatenate([self.positions, positions], axis=1)
        order = np.lexsort((places, numbers, -every))[:, :keep]
        self.values = np.take_along_axis(every, order, axis=1)
        self.images = np.take_along_axis(numbers, order, axis=1)
        self.positions = np.take_along_axis(places, order, axis=1)

    def strength(self) -> NDArray[np.float64]:
        """[U], mean of the K strongest activations, each at least 0."""
        found: NDArray[np.float64] = np.maximum(self.values, 0.0).astype(np.float64).mean(axis=1)
        return found

    def selectivity(self) -> NDArray[np.float64]:
        """[U], how far the images that a unit prefers stand out from all: with m_i its largest activation in image i,

            (strength - mean_i m_i) / sqrt(mean_i m_i^2 - (mean_i m_i)^2),   m_i >= 0

        0 for a unit that fires alike everywhere, or nowhere.
        """
        mean, squares = self.sums / max(self.count, 1)
        variance = squares - mean**2
        # What is left of a variance by rounding is none.
        varies = variance > 1e-10 * np.maximum(squares, 1e-300)
        above = np.maximum(self.strength() - mean, 0.0)
        found: NDArray[np.float64] = np.where(varies, above / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
        return found
