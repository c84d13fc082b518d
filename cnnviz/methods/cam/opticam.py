"""Opti-CAM: weights of feature maps that are climbed to, until the image seen through their sum scores highest."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap, upsample
from cnnviz.methods.nearby_images import gradients_at
from cnnviz.registry.cam import OptiCAMOptions

# Adam's own constants (Kingma & Ba 2015).
_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8


def opticam(run: ForwardPass, target: Target, params: OptiCAMOptions) -> Heatmap:
    """Opti-CAM.

        S(u) = sum_k softmax(u)_k A_k,    u* = argmax over u of  z(x * n(up(S(u))))

    with A_k the channels of a layer, up bilinear interpolation to the image's size, n(S) = (S - min S) / (max S -
    min S), x the image as the network gets it and z the score. Zhang, Torres, Sicre, Avrithis & Ayache, "Opti-CAM:
    Optimizing saliency maps for interpretability", CVIU 2024. The search is Adam's, from u = 0; of
    all u on its way, the first and the last among them, the one with the highest score is kept, so that the score is
    never below that of the mean of all channels.

    Every image has its own u. n(S) does not change when S is scaled or shifted, so the gradient at a channel that is
    constant is zero; u is kept in float64, because in float32 the rounding of that zero would be a full step of Adam.

    Args:
        run: A forward pass that starts at the image and looks at a layer, activations [N, K, h, w].
        target: Score z [N] of the logits.
        params: ``iterations`` and ``rate`` of Adam.

    Returns:
        Heatmap with values S(u*) [N, h, w], in units of the activations; maps [N, H, W] are up(S(u*)) less its
        minimum, which is the mask but for a factor; scores ``floor`` [N], that minimum, ``masked_score`` [N], z of the
        image seen through n(up(S(u*))), and ``masked_score_before``, that of u = 0; array ``weights`` [N, K], the
        softmax of u*.
    """
    pixels = run.pixels.detach().float()
    activations = rt.exact(run.activations[1].detach())
    u = activations.new_zeros(activations.shape[:2])
    adam = _Adam(u, params.rate)
    best, before = u, torch.empty(0)
    highest = torch.full((len(u),), -torch.inf, device=pixels.device)
    for iteration in range(params.iterations + 1):
        leaf = u.detach().requires_grad_()
        with torch.enable_grad():
            mask = _mask(_summed(activations, leaf.softmax(1)), pixels.shape[2:])
        seen: Iterator[Tensor] = iter([pixels * mask.detach().to(pixels)[:, None]])
        score, slope = next(gradients_at(run, target, seen))
        if iteration == 0:
            before = score
        better = score > highest
        highest, best = torch.where(better, score, highest), torch.where(better.to(u.device)[:, None], u, best)
        if iteration < params.iterations:
            towards = rt.exact((slope * pixels).sum(1))
            u = adam.step(u, torch.autograd.grad(mask, leaf, towards)[0])
    weights = best.softmax(1)
    values = _summed(activations, weights).to(pixels)
    maps = upsample(values, (int(pixels.shape[2]), int(pixels.shape[3])))
    floor = maps.amin((1, 2))
    return Heatmap(
        values,
        maps - floor[:, None, None],
        scores={"floor": floor, "masked_score": highest, "masked_score_before": before},
        arrays={"weights": weights.to(pixels)},
    )


def _summed(activations: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k A_k [N, h, w]."""
    return (weights[:, None] @ activations.flatten(2)).reshape(-1, *activations.shape[2:])


def _mask(summed: Tensor, size: tuple[int, ...]) -> Tensor:
    """[N, h, w] -> [N, H, W] in [0, 1]; zero where it is the same everywhere."""
    large = F.interpolate(summed[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    some = high > low
    # Divided by 1 where it is flat: the gradient of 0 / 0 is none, also where it is not chosen.
    return (large - low) / torch.where(some, high - low, torch.ones_like(high))


class _Adam:
    """Steps up a gradient, value by value: no image of a batch takes part in the steps of another."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like)
        self._rate, self._steps = rate, 0

    def step(self, at: Tensor, gradient: Tensor) -> Tensor:
        """Where the next step leads from ``at``."""
        self._steps += 1
        self._mean = _FIRST * self._mean + (1 - _FIRST) * gradient
        self._square = _SECOND * self._square + (1 - _SECOND) * gradient.square()
        mean = self._mean / (1 - _FIRST**self._steps)
        square = self._square / (1 - _SECOND**self._steps)
        return at + self._rate * mean / (square.sqrt() + _SMALL)
