"""Adversarial images that are as near as can be in the L2 norm: DeepFool, and Carlini and Wagner's attack.

Images are in 0–1 before normalisation, [N, C, H, W]. Every image of a batch is attacked as if it were alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnviz.attacks.linf import AttackResult, Back, Goal, Network, nothing_found, snap

_GROWTH, _LARGEST = 1.25, 30
_HALVINGS = 5


@dataclass(frozen=True)
class DeepFool:
    """How DeepFool goes.

    Attributes:
        steps: At most so many.
        candidates: The classes that are looked at: the most probable ones beside the class to leave.
        overshoot: The perturbation is this share longer, to get across the boundary.
        tolerance: See :meth:`Goal.met`.
    """

    steps: int = 50
    candidates: int = 9
    overshoot: float = 0.02
    tolerance: float = 0.0


def deepfool(network: Network, clean: Tensor, goal: Goal, how: DeepFool = DeepFool()) -> AttackResult:
    """The nearest decision boundary, by linearising the network again and again.

        f_k = z_k - z_y,  w_k = df_k/dx,  l = argmin_k |f_k| / |w_k|_2,  r <- r + |f_l| / |w_l|^2 w_l

    until x + (1 + overshoot) r, clipped to 0–1, is another class (Moosavi-Dezfooli et al., "DeepFool: a Simple and
    Accurate Method to Fool Deep Neural Networks", CVPR 2016, with the network linearised where the authors' code
    does, at the overshot image). For an affine network one step gives the exact distance. A targeted goal t, which the
    paper has not, is reached by stepping to the boundary between t and the class that is strongest at that moment.

    Args:
        network: What is attacked.
        clean: [N, C, H, W] in 0–1.
        goal: What is wanted of each image.
        how: Steps, classes, overshoot.
    """
    found = nothing_found(clean)
    total = torch.zeros_like(clean)
    rivals: Tensor | None = None
    rows = torch.arange(len(clean))
    for step in range(how.steps + 1):
        shown = (clean[rows] + (1 + how.overshoot) * total[rows]).clamp(0, 1)
        logits, back = network(shown)
        said, mine = logits.detach(), goal.of(rows.to(goal.classes.device))
        if rivals is None and not goal.targeted:
            rivals = _rivals(said, mine, how.candidates)
        met = mine.met(said, how.tolerance).cpu()
        found.images[rows], found.met[rows], found.steps[rows] = shown, met, step
        if step == how.steps or bool(met.all()):
            break
        looked = _strongest_other(said, mine) if rivals is None else rivals[rows.to(rivals.device)]
        added = _to_boundary(logits, back, mine, looked, how.tolerance)[~met]
        rows = rows[~met]
        total[rows] = (clean[rows] + total[rows] + added.to(total.dtype)).clamp(0, 1) - clean[rows]
    return found


def _rivals(logits: Tensor, goal: Goal, count: int) -> Tensor:
    """[N, k] the most probable classes beside the one to leave."""
    index = goal.classes.to(logits.device)[:, None]
    others = logits.scatter(1, index, float("-inf"))
    return others.sort(dim=1, descending=True, stable=True).indices[:, : min(count, logits.shape[1] - 1)]


def _strongest_other(logits: Tensor, goal: Goal) -> Tensor:
    return _rivals(logits, goal, 1)


def _to_boundary(logits: Tensor, back: Back, goal: Goal, looked: Tensor, tolerance: float) -> Tensor:
    """The shortest way to the nearest of the linearised boundaries (and ``tolerance`` beyond it), [N, C, H, W]."""
    own = logits.gather(1, goal.classes.to(logits.device)[:, None]).squeeze(1)
    beyond = tolerance * logits.detach().abs().amax(dim=1)
    least: Tensor | None = None
    way: Tensor | None = None
    for place in range(looked.shape[1]):
        other = logits.gather(1, looked[:, place : place + 1]).squeeze(1)
        # Growing means coming nearer, to the rival or to the target.
        score = own - other if goal.targeted else other - own
        slope = back(score)
        square = slope.flatten(1).square().sum(dim=1)
        gap = (score.detach().abs() + beyond).to(slope.dtype)
        distance = torch.where(square > 0, gap / square.clamp_min(1e-30).sqrt(), float("inf"))
        step = (gap / square.clamp_min(1e-30) * (square > 0))[:, None, None, None] * slope
        if least is None or way is None:
            least, way = distance, step
        else:
            way = torch.where((distance < least)[:, None, None, None], step, way)
            least = torch.minimum(distance, least)
    assert way is not None
    return way


@dataclass(frozen=True)
class CarliniWagner:
    """How Carlini and Wagner's attack goes.

    Attributes:
        steps: Of Adam for each weight.
        searches: Weights c that are tried for each image: ten times as large until one works, then bisected.
        step_size: Of Adam; falls to zero over the steps, so that the last ones settle.
        weight: The first c.
        tolerance: See :meth:`Goal.met`; what the paper calls confidence.
    """

    steps: int = 100
    searches: int = 5
    step_size: float = 0.01
    weight: float = 1.0
    tolerance: float = 0.0


def carlini_wagner(network: Network, clean: Tensor, goal: Goal, how: CarliniWagner = CarliniWagner()) -> AttackResult:
    """The smallest perturbation by descent, the box kept by a change of variables.

        minimise |x - x_0|^2 + c max(confidence - excess(x), 0),   x = (tanh(w) + 1) / 2

    by Adam over w, with the smallest c that works found by bisection (Carlini & Wagner, "Towards Evaluating the
    Robustness of Neural Networks", S&P 2017, its L2 attack with the loss f_6). The nearest image that met the goal on
    the way is returned.

    Args:
        network: What is attacked.
        clean: [N, C, H, W] in 0–1.
        goal: What is wanted of each image.
        how: Steps, searches.
    """
    found, count = nothing_found(clean), len(clean)
    nearest = torch.full((count,), float("inf"), dtype=torch.float64)
    logits, _ = network(clean)
    already = goal.met(logits.detach(), how.tolerance).cpu()
    found.met[already], nearest[already] = True, 0.0
    low, high = torch.zeros(count, dtype=torch.float64), torch.full((count,), float("inf"), dtype=torch.float64)
    weight = torch.full((count,), how.weight, dtype=torch.float64)
    for _ in range(how.searches):
        rows = (~already).nonzero().squeeze(1)
        if not len(rows):
            break
        works = _descend(network, clean, goal, (found, nearest), (rows, weight, how))
        high = torch.where(works, torch.minimum(high, weight), high)
        low = torch.where(works, low, torch.maximum(low, weight))
        weight = torch.where(high.isinf(), 10 * weight, (low + high) / 2)
    return found


def _descend(
    network: Network,
    clean: Tensor,
    goal: Goal,
    kept: tuple[AttackResult, Tensor],
    asked: tuple[Tensor, Tensor, CarliniWagner],
) -> Tensor:
    """One descent of the images ``rows`` with their weights; whether each met its goal on the way, [N]."""
    (found, nearest), (rows, weights, how) = kept, asked
    some, mine = clean[rows], goal.of(rows.to(goal.classes.device))
    weight = weights[rows].to(some)
    # The authors' factor: the hyperbolic tangent never reaches the box.
    variable = torch.atanh((2 * some - 1) * 0.999999)
    first, second = torch.zeros_like(variable), torch.zeros_like(variable)
    works = torch.zeros(len(clean), dtype=torch.bool)
    for step in range(1, how.steps + 2):
        image = (torch.tanh(variable) + 1) / 2
        logits, back = network(image)
        said = logits.detach()
        distance = (image - some).flatten(1).square().sum(dim=1).cpu().double()
        met = mine.met(said, how.tolerance).cpu()
        better = met & (distance < nearest[rows])
        found.images[rows[better]], nearest[rows[better]] = image[better], distance[better]
        found.met[rows[met]], works[rows[met]] = True, True
        if step > how.steps:
            break
        found.steps[rows] += 1
        needed = how.tolerance * said.abs().amax(dim=1) - mine.excess(logits)
        slope = back((needed.clamp_min(0) * weight).to(logits.dtype)).to(some)
        gradient = (2 * (image - some) + slope) * (1 - (2 * image - 1).square()) / 2
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        rate = how.step_size * (1 - (step - 1) / how.steps) * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        variable = variable - rate * first / (second.sqrt() + 1e-8)
    return works


def rounded(network: Network, clean: Tensor, found: AttackResult, goal: Goal, tolerance: float = 0.0) -> AttackResult:
    """The nearest image of 8 bits along a perturbation that the network is still fooled by.

    Plain rounding undoes a perturbation of less than half a level. Here it is stretched by the smallest factor t at
    which round(x_0 + t (x - x_0)) meets the goal: first t = 1, 1.25, 1.25^2, ..., then by bisection. What is changed
    by rounding are thus its largest values, the cheapest per unit of progress.

    Args:
        network: What the rounded images are judged by.
        clean: [N, C, H, W] in 0–1, of 8 bits.
        found: What an attack without rounding came to.
        goal: What is wanted of each image.
        tolerance: See :meth:`Goal.met`.
    """
    moved = found.images - clean
    images = snap(found.images, clean, 1.0)
    result = AttackResult(images, torch.zeros_like(found.met), found.steps.clone())
    factor, before = torch.ones(len(clean), dtype=torch.float64), torch.zeros(len(clean), dtype=torch.float64)

    def judge(rows: Tensor, factors: Tensor) -> Tensor:
        some = clean[rows]
        stretched = (some + factors.to(some)[:, None, None, None] * moved[rows]).clamp(0, 1)
        tried = snap(stretched, some, 1.0)
        logits, _ = network(tried)
        met = goal.of(rows.to(goal.classes.device)).met(logits.detach(), tolerance).cpu()
        result.images[rows[met]] = tried[met]
        result.met[rows[met]] = True
        return met

    rows = torch.arange(len(clean))
    for _ in range(_LARGEST):
        met = judge(rows, factor[rows])
        rows = rows[~met]
        if not len(rows):
            break
        before[rows] = factor[rows]
        factor[rows] *= _GROWTH
    rows = (result.met & (factor > 1)).nonzero().squeeze(1)
    for _ in range(_HALVINGS if len(rows) else 0):
        middle = (before[rows] + factor[rows]) / 2
        met = judge(rows, middle)
        factor[rows] = torch.where(met, middle, factor[rows])
        before[rows] = torch.where(met, before[rows], middle)
    return result


def norms(images: Tensor, clean: Tensor, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """(largest change [N], L2 norm of the change [N]) in units of 0–1, float64 on the host.

    ``levels``: both are images of so many steps, whose differences are exact then.
    """
    if levels is None:
        moved = (images - clean).flatten(1).cpu().double()
    else:
        moved = ((images * levels).round() - (clean * levels).round()).flatten(1).cpu().double() / levels
    return moved.abs().amax(dim=1), moved.square().sum(dim=1).sqrt()
