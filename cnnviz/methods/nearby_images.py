"""Scores and gradients at other images than those of the pass: noisy copies, points on a path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.memory import in_halves
from cnnviz.engine.seeding import generators_for
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target


def gradients_at(run: ForwardPass, target: Target, points: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Score [N] and its gradient [N, C, H, W] (or that at the layer) at other images than those of the pass.

    Arguments are those of :func:`layers_at`.
    """
    return ((score, gradient) for score, _, gradient in layers_at(run, target, points))


def layers_at(run: ForwardPass, target: Target, points: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Score [N], activations of the (first) layer and their gradients at other images than those of the pass.

    Several points go through the network at once; when memory runs out, fewer.

    Args:
        run: The pass whose session and target are used.
        target: Score [N] of the logits [N, K] of the images of one point.
        points: Batches [N, C, H, W] like the pass's own.
    """
    size = max(1, rt.default_batch_size(run.session.device) // len(run.pixels))

    def at(chunk: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        there = run.session.forward(torch.cat(list(chunk)))
        scores = target.repeated(there.output, len(chunk))
        found = scores.detach().float(), there.activations[0].detach().float(), there.gradients(scores)[0]
        return list(zip(*(each.chunk(len(chunk)) for each in found), strict=True))

    while chunk := list(islice(points, size)):
        for found in in_halves(at, chunk, run.session.device):
            yield from found


def noisy_copies(pixels: Tensor, noise: float, samples: int, seed: int) -> Iterator[Tensor]:
    """The images with normal noise whose deviation is ``noise`` times each image's range, ``samples`` times."""
    sources = generators_for(pixels, seed)
    flat = pixels.flatten(1)
    sigma = (noise * (flat.amax(1) - flat.amin(1)))[:, None, None, None]
    for _ in range(samples):
        drawn = torch.stack([torch.randn(pixels.shape[1:], generator=source) for source in sources])
        yield pixels + sigma * rt.moved(drawn, pixels.device).to(pixels)
