"""Gradients of the score with respect to the image, plain, averaged over noise, and integrated along a path.

With z the score, x the image [C, H, W] as the network sees it (normalised), and g = dz/dx:

    saliency              map = max over channels of |g|
    gradient x input      g * x
    SmoothGrad            mean of g at x + noise, or its square, or its variance
    integrated gradients  (x - x') * mean of g along the straight line from the baseline x' to x

All are taken of the whole network in float32 unless another precision is asked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.baselines import start_facts, start_figures, start_of, starts
from cnnviz.methods.heatmap import Heatmap, gap_share
from cnnviz.methods.nearby_images import gradients_at, noisy_copies
from cnnviz.registry.gradients import IntegratedGradientsOptions, SaliencyOptions, SmoothGradOptions
from cnnviz.registry.params import Options

REDUCTIONS = ("max", "sum", "l2")
STATISTICS = ("mean", "square", "variance")
QUADRATURES = ("gauss", "midpoint", "right")
_REDUCED = {"max": "max of |.| over channels", "sum": "sum of |.| over channels", "l2": "L2 norm over channels"}
_SUMMED = "sum over channels"


def saliency(run: ForwardPass, target: Target, params: SaliencyOptions) -> Heatmap:
    """Saliency: the gradient of the class score with respect to the image.

        M(i, j) = max over channels of |dz_c / dx(k, i, j)|

    Simonyan et al., "Deep Inside Convolutional Networks", ICLR workshop 2014, section 3.1. Peers sum the absolute
    values or take the maximum without them; ``reduction`` offers ``sum`` and ``l2``, and the record names what was
    done.

    Args:
        run: A forward pass that starts at the image.
        target: Score [N] of the logits.
        params: ``reduction``.

    Returns:
        Heatmap with values [N, C, H, W], the signed gradient in units of the score by unit of the network's input, and
        maps [N, H, W] >= 0.
    """
    gradient = run.gradients(target(run.output))[0]
    return unsigned(gradient, params.reduction)


def gradient_x_input(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Gradient times input: the first-order share of each value in the score.

        R = x * dz_c / dx,    M = sum over channels of R

    Shrikumar et al., "Not Just a Black Box", 2016. For a network of ReLUs without biases the map's sum is the score.
    The input is the normalised one, so the mean colour has no share.

    Args:
        run: A forward pass that starts at the image.
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, C, H, W] and maps [N, H, W], signed, in units of the score.
    """
    values = run.gradients(target(run.output))[0] * run.pixels.detach().float()
    return Heatmap(values, values.sum(1), facts={"reduction": _SUMMED})


def smoothgrad(run: ForwardPass, target: Target, params: SmoothGradOptions) -> Heatmap:
    """SmoothGrad: statistics of the gradient over noisy copies of the image.

        M = (1/n) sum_i g(x + e_i),    e_i ~ N(0, sigma^2),    sigma = noise * (max x - min x)

    Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017. ``statistic=square`` averages g^2
    (SmoothGrad-Squared, Hooker et al. 2019; also what the authors' code does unless told otherwise); ``variance`` is
    the variance over the samples, divided by n (VarGrad, Adebayo et al. 2018). With ``noise=0`` the mean is the plain
    gradient. The noise is drawn from the seed and the image's content: a batch gives what its images give alone.

    Args:
        run: A forward pass that starts at the image.
        target: Score [N] of the logits.
        params: ``samples`` n, ``noise``, ``statistic``, ``reduction``, ``seed``.

    Returns:
        Heatmap with values [N, C, H, W] (the mean is signed) and maps [N, H, W] >= 0.
    """
    pixels, statistic = run.pixels.detach().float(), params.statistic
    mean, spread = torch.zeros_like(pixels), torch.zeros_like(pixels)
    noisy = noisy_copies(pixels, params.noise, params.samples, params.seed)
    for count, (_, gradient) in enumerate(gradients_at(run, target, noisy), 1):
        # Welford's recurrence: no difference of large sums.
        value = gradient.square() if statistic == "square" else gradient
        change = value - mean
        mean = mean + change / count
        spread = spread + change * (value - mean)
    values = spread / params.samples if statistic == "variance" else mean
    found = unsigned(values, params.reduction)
    return replace(found, facts={**found.facts, "statistic": statistic})


def integrated_gradients(run: ForwardPass, target: Target, params: IntegratedGradientsOptions) -> Heatmap:
    """Integrated gradients.

        R = (x - x') * integral from 0 to 1 of g(x' + a (x - x')) da

    Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017. Complete: the values sum to z(x) - z(x'),
    up to the error of the quadrature, which is recorded for each image. The paper sums at a = k/m (its equation 3:
    ``quadrature=right``); Gauss-Legendre nodes, the default here and in captum, and midpoints come nearer to the
    integral with as many steps.

    Args:
        run: A forward pass that starts at the image.
        target: Score [N] of the logits.
        params: ``steps`` m; ``baseline`` x': ``zero`` of the network's input, ``black``, ``gray``, the image's ``mean``
            colour or its ``blur`` (sigma a tenth of the shorter side), seeded ``noise`` (normal) or ``random``
            (uniform over the image's range in each channel), or a colour; ``background``: photographs in its place
            (expected gradients); ``quadrature``; ``trials``: how many baselines are averaged (of use for ``noise``
            and ``random``); ``seed``.

    Returns:
        Heatmap with values [N, C, H, W] and maps [N, H, W] (sum over channels), signed, in units of the score; scores
        ``completeness_gap`` = z(x) - z(x') - sum of R, and ``score_difference`` = z(x) - z(x'), for each image;
        ``gap_share``, the gap's share of the difference.
    """
    pixels = run.pixels.detach().float()
    score = target(run.output).detach().float()
    nodes, weights = quadrature(params.quadrature, params.steps)
    values, difference = torch.zeros_like(pixels), torch.zeros_like(score)
    count = starts(params, params.trials)
    for trial in range(count):
        start = start_of(pixels, params, trial, run.session.preprocess)
        line = (start + a * (pixels - start) for a in nodes)
        total = torch.zeros_like(pixels)
        for weight, (_, gradient) in zip(weights, gradients_at(run, target, line), strict=True):
            total += weight * gradient
        values += (pixels - start) * total / count
        there = target(run.session.output_of(start)).detach().float()
        difference += (score - there) / count
    gap = difference - rt.wide(values).sum((1, 2, 3)).float()
    figures = {
        "completeness_gap": gap,
        "gap_share": gap_share(gap, difference),
        "score_difference": difference,
        **start_figures(params, pixels, run.session.preprocess),
        "steps": params.steps,
    }
    facts = {"reduction": _SUMMED, "quadrature": params.quadrature, **start_facts(params, count)}
    return Heatmap(values, values.sum(1), facts=facts, scores=figures)


def reduce(values: Tensor, reduction: str) -> Tensor:
    """[N, C, H, W] to [N, H, W] >= 0 by one of :data:`REDUCTIONS`, each of the absolute values."""
    if reduction == "max":
        return values.abs().amax(1)
    return values.abs().sum(1) if reduction == "sum" else values.square().sum(1).sqrt()


def unsigned(values: Tensor, reduction: str) -> Heatmap:
    """The heatmap of signed values [N, C, H, W] whose map is a magnitude."""
    return Heatmap(values, reduce(values, reduction), facts={"reduction": _REDUCED[reduction]})


def quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]; the weights sum to 1."""
    if rule == "gauss":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return [float(0.5 + 0.5 * a) for a in nodes], [float(0.5 * w) for w in weights]
    shift = 0.5 if rule == "midpoint" else 0.0
    return [(k - shift) / steps for k in range(1, steps + 1)], [1.0 / steps] * steps
