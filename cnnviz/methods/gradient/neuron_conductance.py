"""Neuron conductance: integrated gradients of the image that flow through one unit of a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.baselines import baseline_figures, path_start
from cnnviz.methods.gradient.gradients import quadrature
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.gradients import NeuronConductanceOptions

_ANY = -1


def neuron_conductance(run: ForwardPass, target: Target, params: NeuronConductanceOptions) -> Heatmap:
    """Conductance of a unit, by pixels.

        R_i = (x_i - x'_i) * integral from 0 to 1 of  sum over y of dz/dy(x_a) * dy/dx_i(x_a) da
        x_a = x' + a (x - x')

    Dhamdhere, Sundararajan & Yan, "How Important Is a Neuron?", ICLR 2019, equation 1, with y the neurons of a unit:
    all positions of its map, or the one that ``row`` and ``column`` name. The integral is a Gauss-Legendre sum, as that
    of integrated gradients. Sums over all units of a layer are integrated gradients, where all paths from the image to
    the score pass the layer, so the values of all units together sum to z(x) - z(x').

    Args:
        run: A forward pass that starts at the image and looks at a layer.
        target: Score z [N] of the logits.
        params: ``unit`` (-1: of each image the one with the largest gradient times activation, summed over positions),
            ``row``, ``column``, ``steps``, ``baseline`` as for integrated gradients, ``seed``.

    Returns:
        Heatmap with values [N, C, H, W] and maps [N, H, W] (sum over channels), signed, in units of the score; scores
        ``unit``, ``conductance`` (the sum of the values: the unit's own conductance, equation 2), ``score_difference``
        z(x) - z(x').

    Raises:
        CnnvizError: The layer has no such unit or position; a row without a column.
    """
    pixels = run.pixels.detach().float()
    score = target(run.output)
    start = path_start(pixels, params.baseline, params.seed, run.session.preprocess)
    neurons, units = _neurons(run, score, params)
    total = torch.zeros_like(pixels)
    for node, weight in zip(*quadrature("gauss", params.steps), strict=True):
        there = run.session.forward(start + node * (pixels - start))
        towards = there.gradients(target(there.output), (1,))[0].detach()
        through = (there.activations[1].float() * towards * neurons).flatten(1).sum(1)
        total += weight * there.gradients(through, (0,))[0]
    values = (pixels - start) * total
    figures = {
        "unit": units,
        "conductance": rt.wide(values).sum((1, 2, 3)).float(),
        "score_difference": score.detach().float() - target(run.session.output_of(start)).detach().float(),
        **baseline_figures(params.baseline, pixels, run.session.preprocess),
        "steps": params.steps,
    }
    return Heatmap(values, values.sum(1), facts={"reduction": "sum over channels"}, scores=figures)


def _neurons(run: ForwardPass, score: Tensor, params: NeuronConductanceOptions) -> tuple[Tensor, Tensor]:
    """1 at the neurons that are explained [N, C, h, w], 0 elsewhere; and the unit of each image [N]."""
    activation = run.activations[1].detach().float()
    count, channels, height, width = activation.shape
    name = run.session.layers[0].name
    if params.unit >= channels:
        raise CnnvizError(
            f"Unit {params.unit} does not exist: layer {name} has {channels}.", f"Use 0 to {channels - 1}."
        )
    if (params.row == _ANY) != (params.column == _ANY):
        raise CnnvizError("A neuron has a row and a column; one was given.", "Give --row and --column, or neither.")
    if params.row >= height or params.column >= width:
        raise CnnvizError(
            f"Row {params.row}, column {params.column}: layer {name} has {height} rows and {width} columns.",
            "Count from 0.",
        )
    where = torch.zeros_like(activation)
    if params.row == _ANY:
        where[:] = 1
    else:
        where[:, :, params.row, params.column] = 1
    if params.unit == _ANY:
        units = (activation * run.gradients(score, (1,))[0] * where).sum((2, 3)).argmax(1)
    else:
        units = torch.full((count,), params.unit, device=activation.device)
    own = torch.nn.functional.one_hot(units, channels).to(where)
    return where * own[:, :, None, None], units
