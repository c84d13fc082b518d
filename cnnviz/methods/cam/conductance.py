"""Layer conductance: integrated gradients that flow through a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.baselines import baseline_figures, path_start
from cnnviz.methods.heatmap import Heatmap, gap_share
from cnnviz.methods.nearby_images import layers_at
from cnnviz.registry.cam import ConductanceOptions


def conductance(run: ForwardPass, target: Target, params: ConductanceOptions) -> Heatmap:
    """Layer conductance.

        L = sum over channels of  integral over a from 0 to 1 of  dz/dA(x_a) * dA(x_a)/da,    x_a = x' + a (x - x')

    Dhamdhere, Sundararajan & Yan, "How Important Is a Neuron?", ICLR 2019, equation 2, for every cell of a layer: its
    part in the change of the score between the baseline x' and the image x. With the ``steps`` + 1 points of the way
    it is computed as

        sum over steps of  (g_k + g_(k+1)) / 2 * (A_(k+1) - A_k)

    the trapezoidal rule along the way of the activations (captum up to 0.8 takes the gradient at one end of each step,
    whose error falls as 1/steps and not as its square). All paths from the image to the score pass the layer, or those
    that do not are missing: the completeness gap says how much.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score z [N] of the logits.
        params: ``steps``, ``baseline`` as for integrated gradients, ``seed``.

    Returns:
        Heatmap with values [N, h, w], signed, in units of the score; scores ``score_difference`` z(x) - z(x'),
        ``completeness_gap``: that less the sum of the map, ``gap_share``.
    """
    pixels = run.pixels.detach().float()
    start = path_start(pixels, params.baseline, params.seed, run.session.preprocess)
    line = (start + (k / params.steps) * (pixels - start) for k in range(params.steps + 1))
    total = torch.zeros_like(run.activations[0].detach().float())
    before: tuple[Tensor, Tensor] | None = None
    ends: list[Tensor] = []
    for score, activation, gradient in layers_at(run, target, line):
        if before is not None:
            total += (before[1] + gradient) / 2 * (activation - before[0])
        before = activation, gradient
        ends = [*ends[:1], score]
    difference = ends[-1] - ends[0]
    gap = difference - rt.wide(total).sum((1, 2, 3)).float()
    figures = {
        "completeness_gap": gap,
        "gap_share": gap_share(gap, difference),
        "score_difference": difference,
        **baseline_figures(params.baseline, pixels, run.session.preprocess),
        "steps": params.steps,
    }
    return Heatmap(total.sum(1), scores=figures)
