"""FullGrad: the image's share of the score and every bias's, added up at the pixels.

Srinivas & Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine.biases import tapped
from cnnviz.engine.session import Pass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap


def fullgrad(run: Pass, target: Target, params: Mapping[str, Any]) -> Heatmap:
    """FullGrad.

        S = psi(x dz/dx) + sum over layers l of psi(b_l dz/dy_l),
        psi(v) = sum over channels of upsample(rescale(|v|))

    where rescale takes all values of an image at one layer to [0, 1] by their minimum and maximum (section 4). The
    biases are those of convolutions and normalisations, and what other activations than ReLU add; those of linear
    layers have no place in the image and take part only in the check of completeness. (pytorch-grad-cam sums the
    products over channels before it takes their magnitudes, so that channels cancel, and leaves the image's own share
    unscaled.)

    Args:
        run: A forward pass that starts at the image.
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, H, W] >= 0, without a unit; scores ``completeness_gap`` = z - (sum of x dz/dx) - (sum of
        all b dz/dy) for each image, in units of the score, and fact ``bias_layers``: how many layers were summed.

    Raises:
        CnnvizError: The network cannot be traced, or computes self-attention.
    """
    passed = run.remember("biases", lambda: tapped(run, "FullGrad"))
    score = target(passed.logits)
    shares = passed.shares(score)
    size = (int(run.pixels.shape[2]), int(run.pixels.shape[3]))
    spatial = [share for share in shares if share.dim() == 4 and min(share.shape[2:]) > 1]
    values = torch.stack([_placed(share, size) for share in spatial]).sum(0)
    total = torch.stack([share.double().flatten(1).sum(1) for share in shares]).sum(0)
    gap = score.detach().double() - total
    return Heatmap(values, facts={"bias_layers": len(spatial) - 1}, scores={"completeness_gap": gap.float()})


def _placed(share: Tensor, size: tuple[int, int]) -> Tensor:
    """psi: [N, C, h, w] to [N, H, W]."""
    magnitude = share.abs()
    low, high = magnitude.amin((1, 2, 3), keepdim=True), magnitude.amax((1, 2, 3), keepdim=True)
    scaled = torch.where(high > low, (magnitude - low) / torch.where(high > low, high - low, 1.0), 0.0)
    # Interpolation is linear: the sum over channels may come first.
    summed = scaled.sum(1, keepdim=True)
    return F.interpolate(summed, size=size, mode="bilinear", align_corners=False)[:, 0]
