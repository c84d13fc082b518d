"""Batches of explained images as metrics get them, of small networks and maps that a test chooses."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import ClassTarget, Target
from cnnviz.metrics.contract import ExplainedBatch, Map, ModelMetric
from cnnviz.registry import lookup

SIDE = 32


def small(seed: int = 1) -> nn.Module:
    """Three convolutions and four classes, whose scores are spread about as far as those of a trained network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ).eval()  # fmt: skip
        with torch.no_grad():
            scores = network(images(64, seed=9))
            network[-1].weight *= 2 / scores.std(0).mean()
            network[-1].bias -= network(images(64, seed=9)).mean(0)
    return network


def images(count: int, seed: int = 0) -> Tensor:
    """Smooth random images [count, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, 3, 6, 6), generator=generator)
    fine = torch.randn((count, 3, SIDE, SIDE), generator=generator)
    return nn.functional.interpolate(coarse, size=SIDE, mode="bilinear") + 0.2 * fine


def distinct_maps(count: int, seed: int = 0, side: int = SIDE) -> list[Map]:
    """Maps [side, side] without equal values, of both signs."""
    rng = np.random.default_rng(seed)
    values = rng.permutation(np.linspace(-0.5, 1, count * side * side)).reshape(count, side, side)
    return list(values.astype(np.float32))


@contextlib.contextmanager
def explained(
    module: nn.Module,
    pixels: Tensor,
    maps: Sequence[Sequence[Map]],
    classes: Sequence[int],
    explain: Callable[[ForwardPass], list[list[Map]]] | None = None,
) -> Iterator[ExplainedBatch]:
    """A batch with these maps of these classes, one class an image."""
    options = SessionOptions(Cut.at_image())  # networks without a map between can be cut there
    with open_session(module, "small", tuple(pixels.shape[1:]), rt.resolve("cpu"), options) as session:
        run = session.forward(pixels)

        def subject(image: int, place: int) -> tuple[ForwardPass, Target]:
            return run, ClassTarget(torch.tensor([classes[image]]))

        yield ExplainedBatch(run, maps, explain or (lambda other: [list(own) for own in maps]), subject)


def metric(name: str, **options: Any) -> ModelMetric:
    """A metric of the register, made for no network in particular."""
    spec = lookup.find_metric(name)
    network: Any = None
    made: ModelMetric = spec.load()(network, spec.request(options).params)
    return made


def measured(
    name: str, module: nn.Module, pixels: Tensor, maps: Sequence[Map], classes: Sequence[int], **options: Any
) -> list[dict[str, Any]]:
    """The figures of one map of each image."""
    with explained(module, pixels, [[each] for each in maps], classes) as batch:
        return [dict(row) for [row] in metric(name, **options).score(batch)]


def exact(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network in float64, of images [N, C, H, W] in any precision."""
    double = copy.deepcopy(network).double()
    return lambda pixels: double(pixels.double()).detach()
