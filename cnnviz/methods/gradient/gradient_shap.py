"""GradientSHAP: integrated gradients from many baselines at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.seeding import generator_for
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.baselines import start_facts, start_figures, start_of, starts
from cnnviz.methods.heatmap import Heatmap, gap_share
from cnnviz.methods.nearby_images import gradients_at, noisy_copies
from cnnviz.registry.gradients import GradientSHAPOptions

# Baselines that differ from draw to draw.
_DRAWN = ("random", "noise")


def gradient_shap(run: ForwardPass, target: Target, params: GradientSHAPOptions) -> Heatmap:
    """GradientSHAP, or expected gradients.

        R = mean over s of (x_s - x'_s) * g(x'_s + a_s (x_s - x'_s)),    M = sum over channels of R

    with x'_s a baseline drawn for each sample, x_s the image (with noise, where that is asked for) and a_s between 0
    and 1. Erion et al., "Improving performance of deep learning models with axiomatic attribution priors and expected
    gradients", Nature Machine Intelligence 2021; the gradient form of the SHAP values of Lundberg & Lee, NIPS 2017,
    which it equals where the score is linear. The a_s are stratified, one in each of ``samples`` equal parts of the
    way in random order (captum draws them independently, with a larger variance). Everything is drawn from the seed
    and the image's content: a batch gives what its images give alone.

    Args:
        run: A forward pass that starts at the image.
        target: Score z [N] of the logits.
        params: ``samples``, ``baseline`` (those of integrated gradients; ``random`` and ``noise`` differ from sample
            to sample), ``background``: photographs in its place, one after the other; ``noise``, ``seed``.

    Returns:
        Heatmap with values [N, C, H, W] and maps [N, H, W], signed, in units of the score; scores
        ``score_difference``: mean of z(x_s) - z(x'_s), ``completeness_gap``: that less the sum, ``gap_share``.
    """
    pixels, samples = run.pixels.detach().float(), params.samples
    places = torch.stack([_stratified(image, samples, params.seed) for image in pixels]).to(pixels)
    ways: deque[Tensor] = deque()
    differ = params.baseline in _DRAWN or params.background is not None
    ends, begins = _Mean(run, target, params.noise > 0), _Mean(run, target, differ)

    def points() -> Iterator[Tensor]:
        for sample, noisy in enumerate(noisy_copies(pixels, params.noise, samples, params.seed)):
            start = start_of(pixels, params, sample, run.session.preprocess)
            ways.append(noisy - start)
            ends.add(noisy)
            begins.add(start)
            yield start + places[:, sample, None, None, None] * ways[-1]

    values = torch.zeros_like(pixels)
    for _, gradient in gradients_at(run, target, points()):
        values += ways.popleft() * gradient / samples
    difference = ends.value - begins.value
    gap = difference - rt.wide(values).sum((1, 2, 3)).float()
    figures = {
        "completeness_gap": gap,
        "gap_share": gap_share(gap, difference),
        "score_difference": difference,
        **start_figures(params, pixels, run.session.preprocess),
        "samples": samples,
    }
    facts = {"reduction": "sum over channels", **start_facts(params, starts(params, samples))}
    return Heatmap(values, values.sum(1), facts=facts, scores=figures)


class _Mean:
    """The mean score of images; where they are all the same (not ``drawn``) they run once."""

    def __init__(self, run: ForwardPass, target: Target, drawn: bool) -> None:
        self._run, self._target, self._drawn = run, target, drawn
        self._count, self.value = 0, torch.zeros(len(run.pixels), device=run.pixels.device)

    def add(self, pixels: Tensor) -> None:
        """Take these into the mean."""
        if self._drawn or not self._count:
            self._count += 1
            score = self._target(self._run.session.output_of(pixels)).detach().float()
            self.value = self.value + (score - self.value) / self._count


def _stratified(image: Tensor, samples: int, seed: int) -> Tensor:
    """A number in each of ``samples`` equal parts of 0 to 1, in random order."""
    # A draw of its own: the baselines begin with the same seeds.
    generator = generator_for(image, seed + 1_000_003)
    within = torch.rand(samples, generator=generator)
    return ((torch.arange(samples) + within) / samples)[torch.randperm(samples, generator=generator)]
