"""Shapley values by their definition, and LIME's regression by its normal equations, in float64."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tests.oracles.gradcam import Array, class_score

Game = Callable[[frozenset[int]], float]


def game(network: nn.Module, image: Tensor, fill: Tensor, segments: Array, class_index: int) -> Game:
    """Score of one image of which only some superpixels are visible."""
    exact = copy.deepcopy(network).double().eval()
    known: dict[frozenset[int], float] = {}

    def score(visible: frozenset[int]) -> float:
        if visible not in known:
            made = fill.double().clone()
            for y, x in np.ndindex(*segments.shape):
                if int(segments[y, x]) in visible:
                    made[:, y, x] = image[:, y, x].double()
            with torch.no_grad():
                known[visible] = float(class_score(exact(made[None]), class_index))
        return known[visible]

    return score


def shapley(score: Game, count: int) -> list[float]:
    """The mean gain of each player over all orders in which they come."""
    found = []
    for player in range(count):
        others = [k for k in range(count) if k != player]
        value = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for chosen in itertools.combinations(others, size):
                value += weight * (score(frozenset((*chosen, player))) - score(frozenset(chosen)))
        found.append(value)
    return found


def orders(ways: Array) -> list[list[int]]:
    """The order in which players come, of ways [n, d - 1, d]: who is there after the first, the second ..."""
    found = []
    for way in ways:
        there: set[int] = set()
        order = []
        for row in [*way, [True] * way.shape[1]]:
            [new] = {k for k, visible in enumerate(row) if visible} - there
            there.add(new)
            order.append(new)
        found.append(order)
    return found


def gains(score: Game, order: list[int]) -> list[float]:
    """What each player adds as it comes."""
    found = [0.0] * len(order)
    for place, player in enumerate(order):
        found[player] = score(frozenset(order[: place + 1])) - score(frozenset(order[:place]))
    return found


def lime(score: Game, design: list[list[bool]], width: float, ridge: float) -> list[float]:
    """Coefficients of the weighted ridge regression; the intercept is not penalised."""
    count = len(design[0])
    left, right = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
    for row in [*design, [True] * count]:
        visible = frozenset(k for k in range(count) if row[k])
        cosine = sum(row) / (math.sqrt(sum(row)) * math.sqrt(count)) if any(row) else 0.0
        weight = math.exp(-((1 - cosine) ** 2) / width**2)
        z = np.array([float(v) for v in row] + [1.0])
        left += weight * np.outer(z, z)
        right += weight * z * score(visible)
    left[:count, :count] += ridge * np.eye(count)
    return [float(v) for v in np.linalg.solve(left, right)[:count]]
