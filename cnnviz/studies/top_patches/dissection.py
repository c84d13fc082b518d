"""Network dissection: which concept a unit's strongest activations cover.

Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual Representations", CVPR 2017: T_k is the
value that unit k exceeds at a share of 0.005 of all positions of all images; its map, bilinearly enlarged, is
thresholded to M_k, and

    IoU(k, c) = sum over images |M_k and L_c| / sum over images |M_k or L_c|

with L_c where concept c is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.errors import CnnvizError

SHARE = 0.005
DETECTS = 0.04
"""IoU from which the paper calls a unit a detector of a concept."""
_PER_OCTAVE_BITS = 5
_LOWEST, _OCTAVES = -20, 40
_BINS = (_OCTAVES << _PER_OCTAVE_BITS) + 1


def codes(activations: Tensor) -> Tensor:
    """The bin of each activation, int16 of the same shape: 0 for those at most 2^-20, then 32 bins an octave.

    The bins are those of the first five bits of a float's fraction, each at most 3.2 % wide.
    """
    bits = activations.detach().float().contiguous().view(torch.int32) >> (23 - _PER_OCTAVE_BITS)
    lowest = (127 + _LOWEST) << _PER_OCTAVE_BITS
    # Negative numbers have the sign bit, and so negative codes.
    return (bits - lowest + 1).clamp(0, _BINS - 1).to(torch.int16)


class Quantiles:
    """A histogram of the activations of every unit: [U, 1281] counts, however many images there are.

    The threshold is exact up to the width of a bin, 3.2 %.
    """

    def __init__(self, units: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((units, _BINS), dtype=np.int64)

    def fold(self, binned: NDArray[np.int16]) -> None:
        """Count the codes [U, P] of one image."""
        np.add.at(self.counts, (np.arange(len(binned))[:, None], binned), 1)

    def thresholds(self, share: float = SHARE) -> NDArray[np.float32]:
        """The value [U] that a share of the activations exceeds; at least 0."""
        above = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # at or above the bin
        wanted = share * above[:, :1]
        place = np.maximum((above > wanted).sum(axis=1) - 1, 0)
        rows = np.arange(len(above))
        here = np.maximum(self.counts[rows, place], 1)
        # Within the bin as if its values were spread evenly.
        part = np.clip((above[rows, place] - wanted[:, 0]) / here, 0.0, 1.0)
        low, high = _edge(place), _edge(place + 1)
        return np.where(place == 0, 0.0, low + part * (high - low)).astype(np.float32)


def _edge(place: NDArray[Any]) -> NDArray[np.float64]:
    """Lower edges of bins."""
    octave, step = np.divmod(place - 1, 1 << _PER_OCTAVE_BITS)
    edges: NDArray[np.float64] = np.ldexp(1.0 + step / (1 << _PER_OCTAVE_BITS), octave + _LOWEST)
    return edges


def covered(
    activations: Tensor, thresholds: Tensor, regions: Mapping[int, Tensor], size: tuple[int, int]
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]], dict[int, int]]:
    """Areas of one image, in cells of the map that activations are enlarged to.

    Args:
        activations: [U, h, w].
        thresholds: [U].
        regions: bool [H, W] by concept.
        size: (H, W) to which activations are enlarged, bilinearly.

    Returns:
        |M| [U]; |M and L| [U] by concept; |L| by concept.
    """
    large = F.interpolate(activations.detach().float()[None], size, mode="bilinear", align_corners=False)[0]
    found = (large > thresholds.to(large.device)[:, None, None]).flatten(1)
    shared, areas = {}, {}
    for concept, region in regions.items():
        flat = region.to(large.device).flatten()
        shared[concept] = (found & flat).sum(dim=1).cpu().numpy()
        areas[concept] = int(flat.sum())
    return found.sum(dim=1).cpu().numpy(), shared, areas


class Overlaps:
    """Sums of areas over images: [U], [U, C] and [C], however many images there are."""

    def __init__(self, units: int, concepts: int) -> None:
        self.units: NDArray[np.int64] = np.zeros(units, dtype=np.int64)
        self.shared: NDArray[np.int64] = np.zeros((units, concepts), dtype=np.int64)
        self.concepts: NDArray[np.int64] = np.zeros(concepts, dtype=np.int64)
        self.images = 0

    def fold(self, units: NDArray[np.int64], shared: Mapping[int, NDArray[np.int64]], areas: Mapping[int, int]) -> None:
        """Add one image, as :func:`covered` gives it."""
        self.images += 1
        self.units += units
        for concept, area in areas.items():
            self.shared[:, concept] += shared[concept]
            self.concepts[concept] += area

    def iou(self) -> NDArray[np.float64]:
        """[U, C]; 0 where neither is anywhere.

        Raises:
            CnnvizError: No image was added.
        """
        if not self.images:
            raise CnnvizError(
                "No image is among those that the concepts were marked in.", "Their file names must be the same."
            )
        either = self.units[:, None] + self.concepts[None] - self.shared
        iou: NDArray[np.float64] = self.shared / np.maximum(either, 1)
        return iou
