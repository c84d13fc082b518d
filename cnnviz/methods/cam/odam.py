"""ODAM: gradient times feature map at every position, for one box of a detector.

Zhao & Chan, "ODAM: Gradient-based Instance-Specific Visual Explanations for Object Detection", ICLR 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine.box_targets import BoxTarget
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.weighted_activations import class_map, gradients_of
from cnnviz.models.graph.layers import stages
from cnnviz.registry.cam import ODAMOptions

# Where a Gaussian is cut off, in standard deviations.
_REACH = 3.0
# The share of the layer below which what a box reads is worth a word.
_FEW = 0.1


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

    values = class_map(run, target, weigh).values.clamp_min(0)
    notes = _notes(run, gradients_of(run, target)[0]) if isinstance(target, BoxTarget) else ()
    return Heatmap(values, facts={"smoothed": params.sigma}, notes=notes)


def _notes(run: ForwardPass, gradients: Tensor) -> tuple[str, ...]:
    """That what is explained reads few cells of the layer, where it does: the map can mark no others."""
    height, width = gradients.shape[2:]
    lives = (gradients != 0).any(1)
    rows, columns = (_extent(lives.any(axis)) for axis in (2, 1))
    if not 0 < rows * columns <= _FEW * height * width:
        return ()
    session = run.session
    layer = session.layers[0].name if len(session.layers) == 1 else "its layer"
    earlier = session.graph is not None and len(stages(session.graph, session.name)) > 1
    hint = "--layer -2, in Python layer=-2" if earlier else "--layer NAME; cnnviz layers lists them"
    return (
        f"the score of a box reads few cells of {layer}, those around its own ({rows} x {columns} of "
        f"{height} x {width} on a trial), and ODAM can mark no others; an earlier layer shows more of what it "
        f"rests on: {hint}",
    )


def _extent(there: Tensor) -> int:
    """From the first to the last that is there [N, length], the most of the images."""
    places = torch.arange(there.shape[1], device=there.device)
    first = torch.where(there, places, there.shape[1]).amin(1)
    last = torch.where(there, places, -1).amax(1)
    return max(0, int((last - first).max()) + 1)


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
