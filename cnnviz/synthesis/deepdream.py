"""DeepDream: what a layer sees in an image, made stronger at every scale (Mordvintsev, Olah & Tyka 2015)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError
from cnnviz.synthesis.augmentation import mirrored
from cnnviz.synthesis.objectives import leaky_square
from cnnviz.synthesis.reader import GradientReader, Normalisation

Energy = Callable[[Tensor], Tensor]
"""A layer's values [1, C, h, w] to what each position adds to the objective [1, C or 1, h, w]."""


@dataclass(frozen=True)
class DreamOptions:
    """How an image is dreamed on.

    Attributes:
        octaves: Sizes at which it is, the smallest first.
        octave_scale: Ratio of one size to the next.
        steps: Gradient steps at each size.
        step_size: Mean change of a pixel a step, in 0–1.
        jitter: Largest shift of the image under the network's grid, in pixels.
        tile: Largest side, in pixels, of what goes through the network at once, without its surroundings.
        overlap: Pixels around a tile that go through the network with it, so that its edges see what is there.
    """

    octaves: int = 4
    octave_scale: float = 1.4
    steps: int = 10
    step_size: float = 1.5 / 255
    jitter: int = 32
    tile: int = 512
    overlap: int = 64


@dataclass(frozen=True, eq=False)
class Dreamed:
    """What came of it.

    Attributes:
        image: [1, C, H, W] in 0–1, of the input's own size.
        scores: For each octave the mean of the objective over the layer's values, step by step.
        sizes: Height and width of each octave.
    """

    image: Tensor
    scores: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, int], ...]


def guided_by(features: Tensor) -> Energy:
    """The objective of a guide image: every position is drawn to the guide's position that it resembles most.

    At each position x the guide's feature y with the largest dot product x.y is looked up, and x.y is what it adds: the
    gradient at the layer is y, as in Google's notebook. They are matched after a ReLU; the gradient enters before it.

    Args:
        features: The guide's values at the layer [1, C, h, w], before a ReLU.
    """
    guide = features.detach().relu().flatten(2)[0]

    def energy(values: Tensor) -> Tensor:
        own = values.detach().relu().flatten(2)[0]
        best = guide[:, (own.T @ guide).argmax(dim=1)]
        return values * best.reshape(values.shape)

    return energy


def dream(
    image: Tensor,
    reader: GradientReader,
    normalise: Normalisation,
    options: DreamOptions,
    seed: int,
    energy: Energy = leaky_square,
    watch: Callable[[int, int, float], None] | None = None,
) -> Dreamed:
    """Climb at several sizes; the detail that one size found is carried over to the next.

    Args:
        image: [1, C, H, W] in 0–1.
        reader: Reads one layer.
        normalise: Pixels in 0–1 as the network takes them.
        options: How.
        seed: Of the jitter and the tiles.
        energy: What each position adds to the objective; by default its square, DeepDream's.
        watch: Told octave, step and the mean objective after each step.

    Raises:
        CnnvizError: The network's values are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    base = image.detach().to(reader.device, torch.float32)
    sizes = octave_sizes((image.shape[2], image.shape[3]), options)
    detail = base.new_zeros((*base.shape[:2], *sizes[0]))
    scores: list[tuple[float, ...]] = []
    with rt.scope():
        for octave, size in enumerate(sizes):
            ground = resized(base, size)
            current = (ground + resized(detail, size)).clamp(0.0, 1.0)
            climbed: list[float] = []
            for step in range(options.steps):
                gradient, score = gradient_of(current, reader, normalise, options, generator, energy)
                climbed.append(score)
                if not score == score or score in (float("inf"), float("-inf")):
                    raise CnnvizError("The score became infinite or NaN.", "Use --precision fp32.")
                scale = options.step_size / gradient.abs().mean().clamp_min(1e-30)
                current = (current + gradient * scale).clamp_(0.0, 1.0)
                if watch is not None:
                    watch(octave, step, score)
            detail = current - ground
            scores.append(tuple(climbed))
    return Dreamed(current, tuple(scores), tuple(sizes))


def octave_sizes(size: tuple[int, int], options: DreamOptions, smallest: int = 32) -> list[tuple[int, int]]:
    """Heights and widths of the octaves, ascending. Those with a side below ``smallest`` are left out."""
    found = []
    for power in range(options.octaves - 1, 0, -1):
        factor = options.octave_scale**power
        height, width = round(size[0] / factor), round(size[1] / factor)
        if min(height, width) >= smallest:
            found.append((height, width))
    return [*found, size]


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with a low-pass before shrinking."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def gradient_of(
    image: Tensor,
    reader: GradientReader,
    normalise: Normalisation,
    options: DreamOptions,
    generator: torch.Generator,
    energy: Energy = leaky_square,
) -> tuple[Tensor, float]:
    """d(sum of the objective)/d(image) and the mean of the objective over the layer.

    The image is shifted under the network's grid by up to ``jitter`` pixels and continued by its mirror image, so that
    nothing wraps and the network's own padding lies outside. What is larger than a tile goes through in tiles, each
    with its surroundings, of which only the gradient inside the tile is kept. Tiles lie on the layer's grid, moved at
    random from step to step: their edges never stay in one place. Where the surroundings are wider than the layer's
    receptive field the gradient is that of the whole image.
    """
    jitter = options.jitter
    above, left = torch.randint(0, jitter + 1, (2,), generator=generator).tolist()
    wide = mirrored(image, (left, jitter - left, above, jitter - above))
    height, width = wide.shape[2:]
    gradient = torch.zeros_like(wide)
    total, count = torch.zeros((), device=wide.device), 0
    strides = [max(1, round(stride)) for stride in reader.layers[0].stride]
    moved = [int(torch.randint(0, max(1, options.tile // s), (1,), generator=generator)) * s for s in strides]
    rows = list(spans(height, options.tile, options.overlap, strides[0], moved[0]))
    columns = list(spans(width, options.tile, options.overlap, strides[1], moved[1]))
    for (top, bottom, y0, y1), (first, last, x0, x1) in itertools.product(rows, columns):
        reading = reader.read(normalise(wide[:, :, y0:y1, x0:x1]))
        added = energy(reading.layers[0])
        part = reading.gradient(added.sum())
        gradient[:, :, top:bottom, first:last] = part[:, :, top - y0 : bottom - y0, first - x0 : last - x0]
        total, count = total + added.detach().sum(), count + reading.layers[0].numel()
    inner = gradient[:, :, above : above + image.shape[2], left : left + image.shape[3]]
    return normalise.back(inner), float(total) / max(count, 1)


def spans(length: int, tile: int, overlap: int, stride: int, moved: int) -> Iterator[tuple[int, int, int, int]]:
    """Tiles of a side: start and stop of what is kept, then of what goes through the network.

    All lie on multiples of ``stride``; the first is shortened by ``moved``.
    """
    if length <= tile:
        yield 0, length, 0, length
        return
    size = max(stride, tile // stride * stride)
    around = -(-overlap // stride) * stride
    start, stop = 0, size - moved % size
    while start < length:
        yield start, min(stop, length), max(0, start - around), min(length, stop + around)
        start, stop = stop, stop + size
