"""Maps that know nothing of the network, for a whole batch: they stand in the place of a method's maps.

    with_baseline("edges", batch)          # the same batch, explained by its edges

A map that is not better than these, or than its own blurred copy, says no more than they do. What scatters single
pixels, as ``random`` does, makes patterns on which networks fail, whichever pixels these are: by deletion such an order
can look better than any map of cells. ``random_cells`` is random where the map could be, in its own cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cnnviz.engine.seeding import generator_for
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError, nearest
from cnnviz.metrics.baseline_maps import BASELINES
from cnnviz.metrics.contract import ExplainedBatch, Map
from cnnviz.metrics.faithfulness import own_blur


def _random(pixels: Tensor, seed: int) -> Map:
    """Uniform numbers from 0 to 1, by the image and the seed."""
    drawn = torch.rand(pixels.shape[1:], generator=generator_for(pixels, seed))
    return np.asarray(drawn.numpy(), dtype=np.float32)


def _centre_gaussian(pixels: Tensor, seed: int) -> Map:
    """exp(-(u^2 + v^2) / 2) with u and v from the middle in quarters of width and height."""
    height, width = pixels.shape[1:]
    return BASELINES["centre_gaussian"]((width, height), "")


def _edges(pixels: Tensor, seed: int) -> Map:
    """sqrt(sum over channels of (dx/du)^2 + (dx/dv)^2), by central differences of the normalised image."""
    along = [np.gradient(pixels.cpu().double().numpy(), axis=axis) for axis in (1, 2)]
    return np.asarray(np.sqrt(sum((each**2).sum(0) for each in along)), dtype=np.float32)


OF_IMAGES: Mapping[str, Callable[[Tensor, int], Map]] = {
    "random": _random,
    "centre_gaussian": _centre_gaussian,
    "edges": _edges,
}
"""By name: a function of an image [C, H, W], normalised, and the seed."""


def _random_cells(batch: ExplainedBatch, image: int, place: int, seed: int) -> Map:
    """Uniform numbers from 0 to 1 in the map's own cells, by the image and the seed."""
    source = generator_for(batch.run.pixels[image], seed)
    return np.asarray(torch.rand(batch.maps[image][place].shape, generator=source).numpy(), dtype=np.float32)


def _blurred(batch: ExplainedBatch, image: int, place: int, seed: int) -> Map:
    """The map under a Gaussian of a sixteenth of the shorter side of the network's input."""
    return own_blur(batch.on_input(image, place))


OF_MAPS: Mapping[str, Callable[[ExplainedBatch, int, int, int], Map]] = {
    "random_cells": _random_cells,
    "blurred": _blurred,
}
"""By name: a function of a batch, which image, which of its maps, and the seed."""

NAMES: tuple[str, ...] = (*OF_IMAGES, *OF_MAPS)
"""Every baseline of a batch."""


def baseline_batch(name: str, batch: ExplainedBatch, seed: int = 0) -> list[list[Map]]:
    """The maps of a baseline in the place of those of a batch, at the size of the network's input or in their cells.

    Args:
        name: One of :data:`NAMES`.
        batch: Its images, and for those of :data:`OF_MAPS` its maps.
        seed: Of what is random.

    Raises:
        CnnvizError: There is no such baseline.
    """
    if name in OF_MAPS:
        of_map = OF_MAPS[name]
        return [[of_map(batch, i, k, seed) for k in range(len(own))] for i, own in enumerate(batch.maps)]
    if name not in OF_IMAGES:
        raise CnnvizError(f"Unknown baseline {name!r}.", nearest(name, NAMES) or f"Available: {', '.join(NAMES)}.")
    pixels = batch.run.pixels.detach().float()
    of_image = [OF_IMAGES[name](image, seed) for image in pixels]
    return [[map_] * len(own) for map_, own in zip(of_image, batch.maps, strict=True)]


def with_baseline(name: str, batch: ExplainedBatch, seed: int = 0) -> ExplainedBatch:
    """The batch as if the baseline were the method: metrics ask the same of it, other passes included."""

    def explain(run: ForwardPass) -> list[list[Map]]:
        maps = batch.explain(run) if name in OF_MAPS else batch.maps
        return baseline_batch(name, replace(batch, run=run, maps=maps), seed)

    return replace(batch, maps=baseline_batch(name, batch, seed), explain=explain)
