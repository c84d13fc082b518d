"""ODAM: gradient times feature map at every position, for one box of a detector.

Zhao & Chan, "ODAM: Gradient-based Instance-Specific Visual Explanations for Object Detection", ICLR 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.weighted_activations import class_map
from cnnviz.registry.cam import ODAMOptions

# Where a Gaussian is cut off, in standard deviations.
_REACH = 3.0


def odam(run: ForwardPass, target: Target, params: ODAMOptions) -> Heatmap:
    """ODAM.

        H = ReLU(sum_k Phi(dY / dA_k) * A_k)

    Y is a number of one detection: the score of the candidate that became the box, before suppression, or where one of
    its edges lies. A gradient that lives in a few cells of the layer is not averaged over all of it as Grad-CAM does,
    so that boxes of one class have maps of their own; Phi smooths it locally.

    The paper has the formula and says of Phi that it smooths locally; the authors' code for a one-stage detector leaves
    it out (Phi the identity, with which the map is HiResCAM's, rectified). Taken here: a Gaussian with a deviation of
    ``sigma`` cells of the layer, of sum 1, cut off at three deviations and not renormalised at the border; half a cell
    by default, because a whole one costs peaks at coarse layers (``benchmarks/README.md``). The authors' code explains
    the class probability; here it is its log-odds unless ``--score`` says otherwise.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the output.
        params: ``sigma``; 0 leaves the gradient as it is.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score.
    """

    def weigh(activations: Tensor, gradients: Tensor) -> Tensor:
        return (smoothed(gradients, params.sigma) * activations).sum(1)

    return Heatmap(class_map(run, target, weigh).values.clamp_min(0), facts={"smoothed": params.sigma})


def smoothed(values: Tensor, deviation: float) -> Tensor:
    """[N, C, h, w] convolved with a Gaussian of this standard deviation in cells, zero beyond the border."""
    reach = int(_REACH * deviation + 0.5)
    if not reach:
        return values
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-((steps / deviation) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(values)
    n, channels, height, width = values.shape
    flat = values.reshape(n * channels, 1, height, width)
    flat = F.conv2d(flat, kernel[None, None, :, None], padding=(reach, 0))
    return F.conv2d(flat, kernel[None, None, None, :], padding=(0, reach)).reshape(values.shape)
