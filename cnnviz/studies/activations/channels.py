"""What the channels of a layer do: over one image, and over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnviz.schema.studies import activations as schema

SORTS = ("index", "mean", "max")
ENOUGH_IMAGES = 20
"""From this many images on, a channel that none of them moves is called dead."""
# A unit whose values differ by less than this share of the layer's largest has nothing to say.
_STILL = 1e-6

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChannelFigures:
    """Figures [C] of the channels of one activation [C, h, w].

    Attributes:
        mean, largest, smallest: Over positions.
        idle: Share of positions that are not above zero.
        peak: (row, col) of the largest value [C, 2], the first of equals.
    """

    mean: Floats
    largest: Floats
    smallest: Floats
    idle: Floats
    peak: NDArray[np.int64]

    @property
    def sparsity(self) -> float:
        """Share of all values that are not above zero."""
        return float(self.idle.mean())


def channel_figures(activation: NDArray[np.float32]) -> ChannelFigures:
    """Figures of the channels of [C, h, w]."""
    channels, _, width = activation.shape
    flat = activation.reshape(channels, -1)
    peak = flat.argmax(1)
    return ChannelFigures(
        flat.mean(1, dtype=np.float64),
        flat.max(1).astype(np.float64),
        flat.min(1).astype(np.float64),
        (flat <= 0).mean(1, dtype=np.float64),
        np.stack([peak // width, peak % width], 1).astype(np.int64),
    )


def order(figures: ChannelFigures, how: str) -> NDArray[np.int64]:
    """Channels by index, or by falling mean or maximum; the lower index first among equals."""
    if how == "index":
        return np.arange(len(figures.mean), dtype=np.int64)
    values = figures.largest if how == "max" else figures.mean
    return np.argsort(-values, kind="stable").astype(np.int64)


class ChannelTally:
    """Figures of the channels of a layer over many images; grows with the channels only."""

    def __init__(self, channels: int) -> None:
        self.images = 0
        self._mean, self._idle = np.zeros(channels), np.zeros(channels)
        self._largest, self._smallest = np.full(channels, -np.inf), np.full(channels, np.inf)
        self._fired = np.zeros(channels, dtype=np.int64)
        self._strongest: list[str | None] = [None] * channels

    def add(self, figures: ChannelFigures, name: str) -> None:
        """One more image."""
        self.images += 1
        self._mean += figures.mean
        self._idle += figures.idle
        self._fired += figures.largest > 0
        for channel in np.flatnonzero(figures.largest > self._largest).tolist():
            self._strongest[channel] = name
        self._largest = np.maximum(self._largest, figures.largest)
        self._smallest = np.minimum(self._smallest, figures.smallest)

    def silent(self) -> list[int]:
        """Channels that had the same value at every position of every image: behind a ReLU, those that never fired."""
        if not self.images:
            return []
        reach = max(float(np.abs(self._largest).max()), float(np.abs(self._smallest).max()))
        return np.flatnonzero(self._largest - self._smallest <= _STILL * reach).tolist()

    def dead(self) -> list[int] | None:
        """The silent channels, once so many images moved none of them that they are called dead; None before that."""
        return self.silent() if self.images >= ENOUGH_IMAGES else None

    def sparsity(self) -> float | None:
        """Share of all values that were not above zero."""
        return float(self._idle.mean() / self.images) if self.images else None

    def units(self) -> list[schema.ChannelFigures]:
        """A row a channel; ``fired`` is the share of images in which it was above zero somewhere."""
        dead, count = self.dead(), max(1, self.images)
        return [
            {
                "unit": channel,
                "mean": float(self._mean[channel] / count),
                "min": float(self._smallest[channel]),
                "max": float(self._largest[channel]),
                "fired": float(self._fired[channel] / count),
                "sparsity": float(self._idle[channel] / count),
                "dead": None if dead is None else channel in dead,
                "strongest": self._strongest[channel],
            }
            for channel in range(len(self._mean) if self.images else 0)
        ]
