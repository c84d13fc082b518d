"""ROAD: the score while pixels are removed, with nothing left to see of where they were.

Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. Removed pixels are
imputed: each is the weighted mean of its eight neighbours,

    x_i = sum_j w_ij x_j / sum_j w_ij,    w = 1/6 straight, 1/12 diagonal, neighbours outside of the image left out

of which those that are removed too are unknown, plus noise N(0, 0.01^2). The score, the probability of what the map
explains, is averaged over percentages of removed pixels, in both orders; the figure is the difference. (The paper
follows the accuracy over a data set; of a single map there is the probability.)
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.metrics.contract import ExplainedNetwork, Map, Scores
from cnnviz.metrics.faithfulness import OfEachMap, OneMap, listed, own_blur, pixel_order, rounded
from cnnviz.registry.faithfulness_metrics import RoadOptions

_TOLERANCE = 3e-4
_MOST_STEPS = 1000
_SMALLEST = 4
_TINY = 1e-30


class Road(OfEachMap):
    """Both orders of each map and their difference; with baselines those of its blurred copy."""

    figures = (
        "difference", "most_relevant_first", "least_relevant_first",
        "percentages", "most_relevant_first_curve", "least_relevant_first_curve", "unit",
    )  # fmt: skip

    def __init__(self, network: ExplainedNetwork, params: RoadOptions) -> None:
        self._params = params
        self._percentages = sorted(listed(params.percentages, "percentages", 0, 100))

    def of_map(self, map_: OneMap) -> Scores:
        """See :attr:`figures`; with baselines also ``blurred`` and ``over_blurred``, of the difference."""
        unit = map_.unit("probability")
        curves = self._curves(map_, map_.values, unit)
        most, least = curves.mean(1).tolist()
        found = {
            "difference": least - most,
            "most_relevant_first": most,
            "least_relevant_first": least,
            "percentages": self._percentages,
            "most_relevant_first_curve": rounded(curves[0]),
            "least_relevant_first_curve": rounded(curves[1]),
            "unit": unit,
        }
        if self._params.baselines:
            smooth = self._curves(map_, own_blur(map_.values), unit).mean(1)
            blurred = float(smooth[1] - smooth[0])
            found.update(blurred=blurred, over_blurred=least - most - blurred)
        return found

    def _curves(self, map_: OneMap, values: Map, unit: str) -> NDArray[np.float64]:
        """[2, percentages]: the scores with the best, and with the last pixels removed."""
        pixels = map_.pixels
        generator = map_.generator(self._params.seed)
        ranks = pixel_order(values, generator).to(pixels.device)
        noise = self._params.noise * torch.randn(pixels.shape, generator=generator).to(pixels)
        copies = []
        for percentage in self._percentages:
            gone = round(percentage / 100 * ranks.numel())
            missing = torch.stack([ranks < gone, ranks >= ranks.numel() - gone])
            filled = imputed(pixels.expand(2, *pixels.shape), missing)
            copies.append(torch.where(missing[:, None], filled + noise, pixels))
        every = torch.cat(copies)
        return map_.scores(len(every), lambda part: every[part.start : part.stop], unit).reshape(-1, 2).T


def imputed(pixels: Tensor, missing: Tensor) -> Tensor:
    """The missing pixels as weighted means of their neighbours.

    With D the sum of a pixel's weights and W the weights, (D - W) x = W known on the missing pixels: one symmetric
    system for all channels, positive definite where any pixel is known. It is solved on halves of halves of the image
    first, each solution the start of conjugate gradients on the next larger one: what is far away in a hole is found
    where it is near, and left over is what takes few steps. Values differ from the exact solution by about a hundredth
    of the image's spread, and that only deep in large holes.

    Args:
        pixels: Images [B, C, H, W]; what they have at missing pixels does not matter.
        missing: [B, H, W].

    Returns:
        [B, C, H, W]; known pixels as they are.
    """
    mask = missing[:, None].to(pixels)
    known = 1 - mask
    height, width = pixels.shape[2:]
    if min(height, width) <= _SMALLEST:
        start = (known * pixels).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp_min(1)
    else:
        edge = (0, width % 2, 0, height % 2)
        share = F.avg_pool2d(F.pad(known, edge), 2)
        # Of four pixels, one that is known is a quarter.
        means = F.avg_pool2d(F.pad(known * pixels, edge), 2) / share.clamp_min(0.25)
        half = imputed(means, share[:, 0] == 0)
        start = F.interpolate(half, scale_factor=2, mode="bilinear")[..., :height, :width]
    return _solved(torch.where(missing[:, None], start, pixels), mask)


def _solved(x: Tensor, mask: Tensor) -> Tensor:
    """Conjugate gradients from x [B, C, H, W], with D as preconditioner, for what the mask [B, 1, H, W] leaves open.

    Each image and channel goes on until its largest residual is small beside the spread of its values.
    """
    total = _neighbours(torch.ones_like(mask[:1]))
    residual = mask * (_neighbours(x) - total * x)
    limit = _TOLERANCE * (x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True)).clamp_min(1e-3)
    step, before = torch.zeros_like(x), torch.ones_like(limit)
    for _ in range(_MOST_STEPS):
        going = residual.abs().amax((2, 3), keepdim=True) > limit
        if not going.any():
            break
        scaled = residual / total
        power = (residual * scaled).sum((2, 3), keepdim=True)
        step = scaled + power / before * step
        turned = mask * (total * step - _neighbours(step))
        length = torch.where(going, power / (step * turned).sum((2, 3), keepdim=True).clamp_min(_TINY), 0.0)
        x = x + length * step
        residual = residual - length * turned
        before = power.clamp_min(_TINY)
    return x


def _neighbours(values: Tensor) -> Tensor:
    """sum_j w_ij v_j over the eight neighbours inside the image, of [B, C, H, W]."""
    rows = 2 * values
    rows[:, :, 1:] += values[:, :, :-1]
    rows[:, :, :-1] += values[:, :, 1:]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    # (1 2 1) x (1 2 1) has 4 in the middle, where no neighbour is.
    return (both - 4 * values) / 12
