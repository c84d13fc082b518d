"""Input gradients in float64, by central differences and by sums over explicit points: no autograd, no shared code."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


def score_function(network: nn.Module, class_index: int) -> Callable[[Array], float]:
    """The logit of a class as a function of one image [C, H, W]."""
    exact = copy.deepcopy(network).double().eval()

    def score(image: Array) -> float:
        with torch.no_grad():
            return float(exact(torch.from_numpy(image)[None])[0, class_index])

    return score


def gradient(network: nn.Module, image: torch.Tensor, class_index: int, step: float = 1e-6) -> Array:
    """dz/dx [C, H, W] by central differences (exact up to rounding where the network is piecewise linear)."""
    exact, found = copy.deepcopy(network).double().eval(), np.zeros(image.shape)
    places = list(np.ndindex(*image.shape))
    for start in range(0, len(places), 256):  # moved copies go through the network together
        some = places[start : start + 256]
        moved = np.repeat(image.double().numpy()[None], 2 * len(some), axis=0)
        for number, place in enumerate(some):
            moved[(2 * number, *place)] += step
            moved[(2 * number + 1, *place)] -= step
        with torch.no_grad():
            scores = exact(torch.from_numpy(moved))[:, class_index].numpy()
        for number, place in enumerate(some):
            found[place] = (scores[2 * number] - scores[2 * number + 1]) / (2 * step)
    return found


def statistics(samples: list[Array]) -> dict[str, Array]:
    """Mean, mean square and variance of gradients."""
    stacked = np.stack(samples)
    return {
        "mean": stacked.sum(0) / len(samples),
        "square": (stacked**2).sum(0) / len(samples),
        "variance": ((stacked - stacked.sum(0) / len(samples)) ** 2).sum(0) / len(samples),
    }


def integrated_by_crossings(network: nn.Module, image: torch.Tensor, start: torch.Tensor, class_index: int) -> Array:
    """Integrated gradients by very many midpoints of exact gradients (equation 1 of the paper, no quadrature rule)."""
    exact, points = copy.deepcopy(network).double().eval(), 4000
    path = (image - start).double()
    alphas = ((torch.arange(points) + 0.5) / points).double()
    line = (start.double()[None] + alphas[:, None, None, None] * path[None]).requires_grad_()
    exact(line)[:, class_index].sum().backward()
    assert line.grad is not None
    return (path * line.grad.mean(0)).numpy()


def neuron_conductance(
    cut: tuple[nn.Module, Callable[..., tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]],
    way: tuple[torch.Tensor, torch.Tensor],
    class_index: int,
    neuron: tuple[int, tuple[int, int] | None],
    steps: int,
) -> Array:
    """Dhamdhere et al. 2019, equation 1, over Gauss-Legendre points: a loop over the neurons of a unit.

    Args:
        cut: The network, and its formula cut at a layer.
        way: The image and the baseline [C, H, W].
        class_index: Whose logit is explained.
        neuron: Channel, and row and column; None for all positions of the channel, one after the other.
        steps: Points.
    """
    exact, split = copy.deepcopy(cut[0]).double().eval(), cut[1]
    image, start = (each.double() for each in way)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    found = np.zeros(tuple(image.shape))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = (start + node * (image - start))[None].requires_grad_()
        activations, head = split(exact, point)
        upper = activations.detach().requires_grad_()
        slope = torch.autograd.grad(head(upper)[0, class_index], upper)[0]
        unit, place = neuron
        rows, columns = activations.shape[2:]
        for row, column in [place] if place else np.ndindex(rows, columns):
            own = torch.autograd.grad(activations[0, unit, row, column], point, retain_graph=True)[0][0]
            found += weight * float(slope[0, unit, row, column]) * own.numpy()
    return found * (image - start).numpy()
