"""Class activation maps whose weights come from changed inputs or changed activations, not from gradients.

With A_k the channels of the target layer, U bilinear upsampling to the image, H_k = U(A_k) scaled to [0, 1] by its own
minimum and maximum, f the score, x the image and 0 the baseline (in the network's input: the mean colour):

    Score-CAM     s_k = f(x * H_k) - f(0)
    SS-CAM        s_k = mean over n noises of  f(x * (H_k + noise)) - f(0)     (or of f((x + noise) * H_k) - f(0))
    IS-CAM        s_k = mean over i = 1..n of  f((i/n) x * H_k) - f(0)
                  w = softmax over channels of s
    Ablation-CAM  w_k = (y - y_k) / y,  y_k the score when channel k of the layer is zero

    L = ReLU(sum_k w_k A_k) at the layer's resolution.

f(0) is the same for all channels and cancels in the softmax, so it is not computed. A channel that is constant over the
image has no H_k: its weight is 0, and the softmax is over the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.perturbed_scores import Changes, scores
from cnnviz.engine.seeding import generators_for
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.cam import AblationCAMOptions, ISCAMOptions, ScoreCAMOptions, SSCAMOptions
from cnnviz.registry.params import Options

# A channel that varies by less than this share of its largest value is constant.
_CONSTANT = 1e-6
# (image, mask [H, W], sample) -> the changed image [C, H, W]
_Hide = Callable[[int, Tensor, int], Tensor]


def scorecam(run: ForwardPass, target: Target, params: ScoreCAMOptions) -> Heatmap:
    """Score-CAM.

    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR workshop 2020,
    equations 5 to 8 and algorithm 1. Each channel is upsampled first and scaled afterwards (torchcam scales before).

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``channels``: at most so many, those with the largest standard deviation over positions; 0 for all.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the activations; score ``masks``: how many masked images count
        for each image (constant channels have none).
    """
    pixels = run.pixels.detach().float()
    return _score_weighted(run, target, params.channels, 1, lambda i, mask, sample: pixels[i] * mask, params)


def sscam(run: ForwardPass, target: Target, params: SSCAMOptions) -> Heatmap:
    """SS-CAM: Score-CAM with the scores averaged over noise.

    Wang et al., "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", 2020, with its two kinds of
    smoothing: noise added to the scaled masks (``smooth=mask``), or to the image (``smooth=input``). All channels see
    the same draws, so that they differ by what they show and not by chance; the draws come from the seed and the
    image's content.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``samples`` n, ``noise``: standard deviation, of the masks' range of 1 or in the network's input;
            ``smooth``; ``channels`` as for Score-CAM; ``seed``.

    Returns:
        Heatmap with values [N, h, w] >= 0; score ``masks``.
    """
    pixels, noise = run.pixels.detach().float(), params.noise
    on_mask = params.smooth == "mask"
    channels = 1 if on_mask else pixels.shape[1]
    shape = (params.samples, channels, *pixels.shape[2:])
    sources = generators_for(pixels, params.seed)
    # Moved once: each mask of each channel sees the same.
    draws = [rt.moved(torch.randn(shape, generator=source) * noise, pixels.device) for source in sources]

    def hide(image: int, mask: Tensor, sample: int) -> Tensor:
        drawn = draws[image][sample]
        return pixels[image] * (mask + drawn) if on_mask else (pixels[image] + drawn) * mask

    return _score_weighted(run, target, params.channels, params.samples, hide, params)


def iscam(run: ForwardPass, target: Target, params: ISCAMOptions) -> Heatmap:
    """IS-CAM: Score-CAM with the scores integrated from the baseline to the masked image.

    Naidu et al., "IS-CAM: Integrated Score-CAM for axiomatic-based explanations", 2020: the mean over the points i/n,
    i = 1..n, of the way from the baseline to x * H_k. (torchcam sums the factors i/n up as it goes, which leaves the
    way after its first steps and ends at (n + 1)/2 times the image.)

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``steps`` n; ``channels`` as for Score-CAM.

    Returns:
        Heatmap with values [N, h, w] >= 0; score ``masks``.
    """
    pixels, steps = run.pixels.detach().float(), params.steps

    def hide(image: int, mask: Tensor, sample: int) -> Tensor:
        return pixels[image] * ((sample + 1) / steps * mask)

    return _score_weighted(run, target, params.channels, steps, hide, params)


def ablationcam(run: ForwardPass, target: Target, params: AblationCAMOptions) -> Heatmap:
    """Ablation-CAM.

        w_k = (y - y_k) / y,    L = ReLU(sum_k w_k A_k)

    Desai & Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization", WACV 2020, equations 3 and 4. y_k is the score when all of channel k is zero; only the head runs
    again. As the paper defines it, a negative y turns the sign of all weights over: the map then shows what speaks
    against the class. The record says so (``negative_score``); a probability is never negative. Where y is exactly
    zero the weights are undefined and the map is zero.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``channels`` as for Score-CAM; the others weigh nothing.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the activations; scores ``head_passes``: how often the head
        ran for each image, and ``negative_score``.
    """
    activations = run.activations[0].detach()
    alive = (activations != 0).any(3).any(2)  # a channel that is zero already changes nothing
    chosen = _chosen(activations.float(), params.channels, alive)

    def ablate(image: int, positions: range) -> Tensor:
        copies = activations[image].expand(len(positions), -1, -1, -1).clone()
        copies[torch.arange(len(positions)), chosen[image, positions.start : positions.stop]] = 0
        return copies

    count = chosen.shape[1]
    ablated = scores(run, target, Changes(count, ablate, of_layer=True, key=("ablated", count)))
    clean = target(run.output).detach().float()[:, None]
    weights = torch.where(alive.gather(1, chosen) & (clean != 0), (clean - ablated) / clean, 0.0)
    figures = {"head_passes": alive.sum(1).clamp_max(count), "negative_score": clean[:, 0] < 0}
    untraced = f"the network {run.session.untraced}: all of it runs for each channel"
    notes = () if run.session.graph is not None else (untraced,)
    return Heatmap(_weighed(activations.float(), chosen, weights), scores=figures, notes=notes)


def _score_weighted(run: ForwardPass, target: Target, most: int, samples: int, hide: _Hide, key: Options) -> Heatmap:
    """The driver of Score-CAM and its relatives: masks from channels, scores of masked images, softmax.

    ``most``: how many channels, 0 for all; ``key``: what the scores depend on beside the images.
    """
    activations = run.activations[0].detach().float()
    varies = _varies(activations)
    chosen = _chosen(activations, most, varies)
    count = chosen.shape[1]

    def masked(image: int, positions: range) -> Tensor:
        # Position p is sample p // count of channel p % count.
        channels = chosen[image, [p % count for p in positions]]
        masks = normalized_masks(activations[image, channels], run.pixels.shape[2:])
        return torch.stack([hide(image, mask, p // count) for mask, p in zip(masks, positions, strict=True)])

    each = scores(run, target, Changes(count * samples, masked, key=("masked", key)))
    mean = rt.wide(each.reshape(len(each), samples, count)).mean(1)
    weights = _softmax(mean, varies.gather(1, chosen)).float()
    figures = {"masks": varies.sum(1).clamp_max(count) * samples}
    return Heatmap(_weighed(activations, chosen, weights), scores=figures)


def normalized_masks(channels: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Channels [B, h, w] upsampled to [B, H, W], then each scaled to [0, 1]; zero where constant."""
    masks = F.interpolate(channels[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    return torch.where(high > low, (masks - low) / (high - low), 0.0)


def _varies(activations: Tensor) -> Tensor:
    """[N, C]: whether a channel is anything but constant over its positions."""
    flat = activations.flatten(2)
    high, low = flat.amax(2), flat.amin(2)
    return (high - low) > _CONSTANT * torch.maximum(high.abs(), low.abs())


def _chosen(activations: Tensor, most: int, useful: Tensor) -> Tensor:
    """Indices [N, n] of the channels that are run: all useful ones, or those of them that vary most over positions.

    Images with fewer useful channels than others of their batch run some that are not; these weigh nothing.
    """
    spread = rt.wide(activations.flatten(2)).std(2, correction=0).masked_fill(~useful, -1)
    count = max(1, int(useful.sum(1).max()))
    order = torch.argsort(spread, dim=1, descending=True, stable=True)
    return order[:, : min(most or count, count)].sort(1).values


def _softmax(increase: Tensor, valid: Tensor) -> Tensor:
    """Softmax [N, n] over the valid channels; all zero where none is."""
    found = torch.softmax(increase.masked_fill(~valid, -torch.inf), 1)
    return torch.where(valid, found, 0.0)


def _weighed(activations: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """ReLU(sum_k w_k A_k) [N, h, w] with weights [N, n] of the chosen channels."""
    every = torch.zeros(activations.shape[:2], device=activations.device).scatter(1, chosen, weights)
    return (every[:, None] @ activations.flatten(2)).reshape(-1, *activations.shape[2:]).clamp_min(0)
