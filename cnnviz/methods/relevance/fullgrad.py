"""FullGrad: the image's share of the score and every bias's, added up at the pixels.

Srinivas & Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap, gap_share
from cnnviz.methods.relevance.bias_terms import BiasTerms, places_of
from cnnviz.methods.relevance.propagation import readable
from cnnviz.models.graph.trace import Graph
from cnnviz.registry.params import Options


def fullgrad(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """FullGrad.

        S = psi(x dz/dx) + sum over layers l of psi(b_l dz/dy_l),
        psi(v) = sum over channels of upsample(rescale(|v|))

    where rescale takes all values of an image at one layer to [0, 1] by their minimum and maximum (section 4). The
    biases are those of convolutions and normalisations, and what other activations than ReLU, products of two signals
    and the normalisations of single images add; what has no place in the image (the last linear layer) takes part only
    in the check of completeness. (pytorch-grad-cam
    1.5.7 rescales each channel by its own minimum and maximum, and knows the biases of Conv2d and BatchNorm2d only.)

    Args:
        run: A forward pass that starts at the image.
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, H, W] >= 0, without a unit; scores ``completeness_gap`` = z - (sum of x dz/dx) - (sum of
        all b dz/dy) for each image, in units of the score, and ``gap_share``, its share of the score; fact
        ``bias_layers``: how many layers were summed.

    Raises:
        CnnvizError: The network cannot be traced, or computes self-attention.
    """
    _, split = readable(run.session, "FullGrad")
    assert isinstance(split.readable, fx.GraphModule)
    known = run.session.remember("biases", partial(BiasTerms, split.readable, split.order))
    score = target(run.output)
    found = _Pieces(run, known)
    run.passing_gradients(score, found.add)
    size = (int(run.pixels.shape[2]), int(run.pixels.shape[3]))
    values = torch.stack([_upsampled(summed, size) for summed in found.maps.values()]).sum(0)
    gap = rt.wide(score.detach()) - found.total
    # The image's own share is in the sum, and is no bias.
    scores = {"completeness_gap": gap.float(), "gap_share": gap_share(gap, score)}
    return Heatmap(values, facts={"bias_layers": found.layers - 1}, scores=scores)


def cut_nodes(graph: Graph) -> list[fx.Node]:
    """Where the session is cut: at the image, and wherever a constant is added on the way."""
    return [graph.input, *places_of(graph)]


class _Pieces:
    """What has been added up of a backward pass.

    Attributes:
        total: The shares of each image [N].
        maps: For each size (h, w) the sum of the maps of that size [N, h, w]: interpolation is linear, and may follow.
        layers: How many shares have places in the image.
    """

    def __init__(self, run: ForwardPass, known: BiasTerms) -> None:
        self.total = rt.wide(torch.zeros(len(run.pixels), device=run.pixels.device))
        self.maps: dict[tuple[int, ...], Tensor] = {}
        self.layers = 0
        self._run, self._known = run, known

    @torch.no_grad()
    def add(self, at: int, gradient: Tensor) -> None:
        """Takes the gradient of one of the pass's activations."""
        found = self._known.constant(at, self._run.activations)
        if found is None:
            return
        constant, channels_last = found
        share = constant.float() * gradient.float()
        total, summed = _image_by_image(share.permute(0, 3, 1, 2) if channels_last and share.dim() == 4 else share)
        self.total += total
        if summed is not None:
            self.layers += 1
            size = tuple(summed.shape[1:])
            self.maps[size] = self.maps[size] + summed if size in self.maps else summed


def _image_by_image(share: Tensor) -> tuple[Tensor, Tensor | None]:
    """The sum of a share [N], and, if it has places in the image, sum over channels of rescale(|share|): [N, h, w].

    The share is used up: a fresh tensor of this size would cost as much as the arithmetic.
    """
    if share.dim() != 4 or min(share.shape[2:]) < 2:
        return rt.wide(share).flatten(1).sum(1), None
    total = rt.wide(share.sum((2, 3))).sum(1)
    magnitude = share.abs_()
    low, high = magnitude.amin((1, 2, 3), keepdim=True)[:, 0], magnitude.amax((1, 2, 3), keepdim=True)[:, 0]
    flat = high <= low
    summed = (magnitude.sum(1) - share.shape[1] * low) / torch.where(flat, 1.0, high - low)
    return total, torch.where(flat, 0.0, summed.clamp_min(0.0))


def _upsampled(summed: Tensor, size: tuple[int, int]) -> Tensor:
    if summed.shape[1:] == size:
        return summed
    return F.interpolate(summed[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
