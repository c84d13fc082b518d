"""What the faithfulness metrics share: one map of a batch, the order of its pixels, what stands for hidden ones.

Every one of them changes the image as the map says and asks the network again. The score is that of what the map
explains, in the unit that the metric's paper follows; a target without it, such as a unit of a layer, is followed in
its own.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine.perturbed_scores import chunk_size, chunks
from cnnviz.engine.seeding import generator_for
from cnnviz.errors import CnnvizError
from cnnviz.metrics.contract import ExplainedBatch, Map, ModelMetric, Scores, T
from cnnviz.models.blur import blurred

REPLACED_BY = {
    "zero": "zero of the normalised image",
    "blur": "the blurred image",
    "mean": "the image's mean colour",
}
"""What stands for hidden pixels, in words."""

_BLUR_SIDE, _BLUR_SIGMA = 11, 5.0
_OWN_BLUR = 1 / 16
# Values closer than this share of themselves are equal: interpolation leaves plateaus with the last bits of float32.
_EQUAL = 1e-6


@dataclass(frozen=True, eq=False)
class OneMap:
    """A map of a batch, with its image.

    Attributes:
        batch: The batch.
        image, place: Which image of it, and which of its maps.
        pixels: [C, H, W], normalised.
        values: The map [H, W] on them, in its own unit.
    """

    batch: ExplainedBatch
    image: int
    place: int
    pixels: Tensor
    values: Map

    def unit(self, wanted: str) -> str:
        """The wanted unit of what is explained, or, where it has none such, its own."""
        target = self.batch.subject(self.image, self.place)[1]
        return (target.in_unit(wanted) or target).unit

    def scores(self, count: int, make: Callable[[range], Tensor], unit: str) -> NDArray[np.float64]:
        """Scores [count] of changed copies of the image, made and run in chunks.

        Args:
            count: How many copies.
            make: The copies [B, C, H, W] at some positions.
            unit: As :meth:`unit` gives it.
        """
        size = chunk_size(self.batch.run)
        parts = [
            self.batch.scores(self.image, self.place, make(part), unit).cpu().double().numpy()
            for part in chunks(count, size)
        ]
        return np.concatenate(parts)

    def of_any_map(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, or gave for another method's map of the same image and target.

        Args:
            key: Names what is made: the metric and its options.
            make: Does not look at the values.
        """
        return self.batch.run.remember((key, self.image, self.place), make)

    def generator(self, seed: int) -> torch.Generator:
        """A source of randomness, by the image and the seed: the same for every map of the image."""
        return generator_for(self.pixels, seed)


class OfEachMap(ModelMetric):
    """A metric that looks at one map after the other."""

    figures: tuple[str, ...] = ()
    """What it gives; all None of a map that is not finite."""

    @abstractmethod
    def of_map(self, map_: OneMap) -> Scores:
        """The figures of a map."""

    def score(self, batch: ExplainedBatch) -> list[list[Scores]]:
        """For each image, for each of its maps, its figures; they depend on that image only."""
        return [
            [self._scored(batch, image, place) for place in range(len(own))] for image, own in enumerate(batch.maps)
        ]

    def _scored(self, batch: ExplainedBatch, image: int, place: int) -> Scores:
        if not np.isfinite(batch.maps[image][place]).all():
            return dict.fromkeys(self.figures)
        with torch.no_grad():
            pixels = batch.run.pixels[image].detach().float()
            return self.of_map(OneMap(batch, image, place, pixels, batch.on_input(image, place)))


def pixel_order(values: NDArray[np.floating], generator: torch.Generator) -> Tensor:
    """Rank [H, W] of each pixel: 0 for the largest value. Equal values are in random order.

    A plateau of an upsampled map is equal but for rounding: values count as equal within a millionth of themselves.
    """
    shaken, last = torch.rand((2, values.size), generator=generator, dtype=torch.float64).numpy()
    flat = values.ravel().astype(np.float64)
    order = np.lexsort((last, -(flat + _EQUAL * np.abs(flat) * shaken)))
    ranks = np.empty(values.size, dtype=np.int64)
    ranks[order] = np.arange(values.size)
    return torch.from_numpy(ranks.reshape(values.shape))


def replacement(pixels: Tensor, kind: str) -> Tensor:
    """What stands for the hidden pixels of an image [C, H, W].

    Args:
        pixels: Normalised.
        kind: ``zero`` (the mean colour of the training images); ``mean``, the image's own mean colour; ``blur``, under
            the kernel of RISE's reference implementation: a Gaussian of 5 pixels, which is folded back into 11 x 11
            pixels at its ends, with zeros around the image.
    """
    if kind == "zero":
        return torch.zeros_like(pixels)
    if kind == "mean":
        return pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels)
    kernel = _folded_gaussian().to(pixels)
    half = _BLUR_SIDE // 2
    down = F.conv2d(pixels[:, None], kernel.reshape(1, 1, -1, 1), padding=(half, 0))
    return F.conv2d(down, kernel.reshape(1, 1, 1, -1), padding=(0, half))[:, 0]


def _folded_gaussian() -> Tensor:
    """[11]: a Gaussian that is cut off at four standard deviations and mirrored at the ends until it fits."""
    reach = math.ceil(4 * _BLUR_SIGMA)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / _BLUR_SIGMA) ** 2)
    period = np.mod(offsets + _BLUR_SIDE // 2, 2 * _BLUR_SIDE)
    places = np.where(period < _BLUR_SIDE, period, 2 * _BLUR_SIDE - 1 - period)
    return torch.from_numpy(np.bincount(places, weights / weights.sum(), _BLUR_SIDE))


def own_blur(values: Map) -> Map:
    """A map [H, W] under a Gaussian of a sixteenth of its shorter side: what it says without its detail."""
    smooth = blurred(torch.from_numpy(np.ascontiguousarray(values))[None, None], min(values.shape) * _OWN_BLUR)
    return np.asarray(smooth[0, 0].numpy(), dtype=np.float32)


def listed(text: str, name: str, low: float, high: float) -> list[float]:
    """The numbers of ``10+20+30``, each above ``low`` and below ``high``.

    Raises:
        CnnvizError: It is no such list.
    """
    try:
        numbers = [float(part) for part in text.split("+")]
    except ValueError:
        numbers = []
    if not numbers or not all(low < number < high for number in numbers):
        example = "+".join(f"{low + share * (high - low):g}" for share in (0.1, 0.5))
        raise CnnvizError(
            f"{name}={text!r}: expected numbers above {low:g} and below {high:g}, joined by +.",
            f"For example {example}",
        )
    return numbers


def rounded(values: NDArray[np.float64]) -> list[float]:
    """Scores as a record has them."""
    return [round(float(value), 6) for value in values]
