"""Activation maximisation: gradient ascent on images (Erhan et al. 2009; Simonyan et al. 2014; Yosinski et al.)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.stopping import go_on
from cnnviz.errors import CnnvizError
from cnnviz.synthesis.augmentation import Augmentation, Views, l2, total_variation
from cnnviz.synthesis.canvas import Canvas, Fourier, Pixels
from cnnviz.synthesis.objectives import likeness
from cnnviz.synthesis.reader import GradientReader, Normalisation, Reading

PARAMETRISATIONS = ("fourier", "pixel")
OPTIMISERS = ("adam", "gradient")
BLUR_EVERY = 4
"""Steps from one blur to the next, as in Yosinski et al."""


@dataclass(frozen=True)
class AscentOptions:
    """How images are made.

    Attributes:
        steps: Gradient steps.
        parametrisation: ``fourier`` or ``pixel``.
        optimiser: ``adam``, or ``gradient``: the gradient over its root mean square, image by image.
        rate: Step; None for what suits the parametrisation.
        l2: Weight of the decay towards grey.
        tv: Weight of the total variation.
        blur: Standard deviation, in pixels, of the Gaussian that every fourth step blurs with; 0 for none.
        shaking: The views.
        diversity: Weight of the likeness of the images of a batch.
    """

    steps: int = 64
    parametrisation: str = "fourier"
    optimiser: str = "adam"
    rate: float | None = None
    l2: float = 0.0
    tv: float = 0.0
    blur: float = 0.0
    shaking: Augmentation = field(default_factory=Augmentation)
    diversity: float = 0.0


@dataclass(frozen=True, eq=False)
class AscentResult:
    """What an ascent came to.

    Attributes:
        images: uint8 [N, C, h, w] on the host.
        scores: The objective at every step, of the view of that step [steps, N], without penalties.
    """

    images: Tensor
    scores: Tensor


Goal = Callable[[Reading, Callable[[Tensor], Tensor]], Tensor]
"""What is maximised [N], of a reading; a mask of the images becomes one of this step's views by the function beside it:
an :class:`~cnnviz.synthesis.objectives.Objective`, or another."""
Watch = Callable[[int, Callable[[], Tensor], Callable[[], Tensor]], None]
"""Called after each step with its number, a function for the scores [N], and one for the images (uint8, on the host):
what is not asked for costs nothing, and makes no accelerator wait."""


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes images for one network.

    Attributes:
        reader: Reads the network.
        normalise: Pixels in 0–1 as it takes them.
        size: Channels, height and width of its input.
        options: How.
        diversity_layer: Place among the reader's layers of the one whose likeness counts.
    """

    reader: GradientReader
    normalise: Normalisation
    size: tuple[int, int, int]
    options: AscentOptions
    diversity_layer: int = -1

    def make(
        self, objective: Goal, seeds: Sequence[int], start: Tensor | None = None, watch: Watch | None = None
    ) -> AscentResult:
        """Climb from noise, or from images, all at once.

        Args:
            objective: What to maximise.
            seeds: One an image: its noise and its views.
            start: [N, C, h, w] in 0–1; None for noise.
            watch: Told about every step.

        Raises:
            CnnvizError: The network's values are not finite.
        """
        options, device = self.options, self.reader.device
        views = Views(self.size[1:], options.shaking, [seed + 1 for seed in seeds], options.steps, device)
        canvas = self._canvas(views, seeds, start)
        rate = canvas.rate if options.rate is None else options.rate
        adam = torch.optim.Adam([canvas.leaf], lr=rate) if options.optimiser == "adam" else None
        scores = torch.zeros(options.steps, len(seeds), device=device)

        def pictures() -> Tensor:
            with torch.no_grad():
                return as_levels(views.centre(canvas.image())).cpu()

        with rt.scope():
            for step in range(options.steps):
                go_on()
                scores[step], gradient = self._gradient(canvas, views, objective, step)
                if adam is not None:
                    canvas.leaf.grad = gradient.neg_()
                    adam.step()
                else:
                    _normalised_step(canvas.leaf, gradient, rate)
                canvas.settle()
                if options.blur > 0 and step % BLUR_EVERY == BLUR_EVERY - 1 and step + 1 < options.steps:
                    canvas.blur(options.blur)
                if watch is not None:
                    watch(step, lambda step=step: scores[step].cpu(), pictures)  # type: ignore[misc]
            found = scores.cpu()
            if not bool(torch.isfinite(found).all()):
                raise CnnvizError("The score became infinite or NaN.", "Use a smaller --rate, or --precision fp32.")
            return AscentResult(pictures(), found)

    def _canvas(self, views: Views, seeds: Sequence[int], start: Tensor | None) -> Canvas:
        fourier = self.options.parametrisation == "fourier"
        if start is not None:
            wide = views.widen(start.to(self.reader.device, torch.float32))
            return Fourier.of_images(wide) if fourier else Pixels(wide)
        channels, height, width = self.size
        size = (channels, height + 2 * views.margin, width + 2 * views.margin)
        return (Fourier if fourier else Pixels).of_noise(size, seeds, self.reader.device)

    def _gradient(self, canvas: Canvas, views: Views, objective: Goal, step: int) -> tuple[Tensor, Tensor]:
        """Scores [N] of this step's views, and d(sum of scores - penalties)/d(leaf)."""
        options = self.options
        image = canvas.image()
        pixels = self.normalise(views(image, step))
        reading = self.reader.read(pixels.detach())
        scores = objective(reading, lambda mask: views.moved(mask, step))
        total = scores.sum()
        if options.diversity > 0 and len(scores) > 1:
            total = total - options.diversity * len(scores) * likeness(reading.layers[self.diversity_layer])
        outputs, gradients = [pixels], [reading.gradient(total)]
        if options.l2 > 0 or options.tv > 0:
            penalty = options.l2 * l2(image) if options.l2 > 0 else 0.0
            if options.tv > 0:
                penalty = penalty + options.tv * total_variation(image)
            assert isinstance(penalty, Tensor)
            outputs.append(penalty)
            gradients.append(-torch.ones_like(penalty))
        return scores.detach(), torch.autograd.grad(outputs, canvas.leaf, gradients)[0]


def _normalised_step(leaf: Tensor, gradient: Tensor, rate: float) -> None:
    size = gradient.flatten(1).square().mean(dim=1).sqrt().clamp_min(1e-30)
    with torch.no_grad():
        leaf.add_(gradient * (rate / size).reshape(-1, *[1] * (gradient.dim() - 1)))


def as_levels(images: Tensor) -> Tensor:
    """Images in 0–1 as uint8, rounded."""
    return images.detach().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)


def as_picture(levels: Tensor) -> NDArray[np.uint8]:
    """uint8 [C, h, w] on the host, of one or three channels, as [h, w, 3]."""
    return np.ascontiguousarray(levels.expand(3, -1, -1).permute(1, 2, 0).numpy())


def seed_of(seed: int, what: int | bytes) -> int:
    """A seed that differs from image to image: of the run's seed and the image's number, or its pixels."""
    return zlib.crc32(b"%d:" % seed + (what if isinstance(what, bytes) else b"%d" % what))
