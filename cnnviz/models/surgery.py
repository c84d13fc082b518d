"""A network cut at a layer and given another head (Zhou et al., CVPR 2016, section 2).

The paper takes a classifier, removes its fully connected layers, and puts in their place a convolution, global average
pooling and one linear layer, whose weights then say how much each feature map counts for a class. Cut a stage earlier,
the maps are finer: twice the rows and columns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError, of_option
from cnnviz.models.graph.layers import resolve
from cnnviz.models.graph.trace import trace, up_to
from cnnviz.models.preprocess import Preprocess

Head = Literal["gap", "gmp", "fc"]
HEADS: tuple[Head, ...] = get_args(Head)


@dataclass(frozen=True)
class Plan:
    """What a network that was cut is made of: enough to make it again.

    Attributes:
        arch: The classifier that was cut, as ``--model`` names it.
        weights: The word of ``--weights`` that it was built with.
        cut: The layer that feeds the head, as ``cnnviz layers`` names it.
        head: ``gap`` and ``gmp``: convolution, ReLU, global average or maximum pooling, linear. ``fc``: two linear
            layers on all positions, with a ReLU between them; it has no class activation map.
        units: Channels of the convolution, or width of the first linear layer; 0 for neither.
        classes: Class names in the order of the outputs.
        preprocess: What the network is shown.
    """

    arch: str
    weights: str
    cut: str
    head: Head
    units: int
    classes: tuple[str, ...]
    preprocess: Preprocess


class CutNetwork(nn.Sequential):
    """A trunk and the head of a plan: ``trunk``, then ``conv``, ``relu``, ``pool``, ``flatten``, ``classifier``."""

    trunk: fx.GraphModule

    def __init__(self, plan: Plan, parts: OrderedDict[str, nn.Module]) -> None:
        super().__init__(parts)
        self.plan = plan


def cut_at(network: nn.Module, name: str, layer: str | None, preprocess: Preprocess) -> tuple[fx.GraphModule, str]:
    """The part of a classifier up to a layer, and the layer's name.

    Args:
        network: In evaluation mode. Its parts are shared.
        name: For messages.
        layer: As ``--layer`` takes it; None for the last convolutional stage.
        preprocess: Its input size is what the network is tried at.

    Raises:
        CnnvizError: No such layer (with near matches), one that gives no map of the image, or a transformer.
    """
    probe = torch.randn((1, *preprocess.input_size), generator=torch.Generator().manual_seed(0))
    graph = trace(network, probe, lambda output: output)
    if graph is None:
        raise CnnvizError(
            f"{name} cannot be traced at {preprocess.input_size[1]} x {preprocess.input_size[2]} pixels, so there is "
            "no layer to cut it at.",
            "Use a larger --input-size, or another --arch.",
        )
    try:
        found = resolve(graph, layer, name).name
    except CnnvizError as error:
        raise of_option(error, "--cut") from error
    return _trunk(network, name, found), found


def _trunk(network: nn.Module, name: str, cut: str) -> fx.GraphModule:
    try:
        return up_to(network, cut)
    except ValueError as error:
        raise CnnvizError(f"{name} cannot be cut at {cut!r}: {error}", "Cut it elsewhere: --cut LAYER") from error


def with_head(trunk: fx.GraphModule, plan: Plan, seed: int) -> CutNetwork:
    """A trunk with the head of a plan, whose weights are random: the convolution's as He et al. 2015, the linear
    layers' as PyTorch's own, by the seed.

    Raises:
        CnnvizError: The trunk does not take the plan's input size.
    """
    channels, height, width = map_shape(trunk, plan)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        parts = _PARTS[plan.head](channels, height * width, plan)
    return CutNetwork(plan, OrderedDict([("trunk", trunk), *parts]))


def map_shape(trunk: fx.GraphModule, plan: Plan) -> tuple[int, int, int]:
    """Channels, rows and columns of what the trunk hands to the head."""
    was = trunk.training
    try:
        with torch.no_grad():
            found = trunk.eval()(torch.zeros((1, *plan.preprocess.input_size)))
    except Exception as error:  # pooling over more cells than there are, and the like
        size = "x".join(map(str, plan.preprocess.input_size))
        raise CnnvizError(
            f"{plan.arch} does not take an input of {size}: {error}", "Use a larger --input-size."
        ) from error
    finally:
        trunk.train(was)
    _, channels, height, width = found.shape
    return int(channels), int(height), int(width)


def rebuilt(plan: Plan, build: Callable[[], nn.Module], seed: int) -> CutNetwork:
    """The network of a plan, with random weights.

    Args:
        plan: What it is made of.
        build: Makes the classifier ``plan.arch``.
        seed: Of the head's weights.
    """
    return with_head(_trunk(build().eval(), plan.arch, plan.cut), plan, seed)


_Parts = list[tuple[str, nn.Module]]


def _convolutional(channels: int, plan: Plan, pool: nn.Module) -> _Parts:
    parts: _Parts = []
    if plan.units:
        convolution = nn.Conv2d(channels, plan.units, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(cast(Tensor, convolution.bias))
        parts = [("conv", convolution), ("relu", nn.ReLU())]
    width = plan.units or channels
    ends: Any = [("pool", pool), ("flatten", nn.Flatten()), ("classifier", nn.Linear(width, len(plan.classes)))]
    return [*parts, *ends]


def _dense(channels: int, positions: int, plan: Plan) -> _Parts:
    width, parts = channels * positions, cast(_Parts, [("flatten", nn.Flatten())])
    if plan.units:
        parts += [("hidden", nn.Linear(width, plan.units)), ("relu", nn.ReLU())]
        width = plan.units
    return [*parts, ("classifier", nn.Linear(width, len(plan.classes)))]


_PARTS: dict[Head, Callable[[int, int, Plan], _Parts]] = {
    "gap": lambda channels, _, plan: _convolutional(channels, plan, nn.AdaptiveAvgPool2d(1)),
    "gmp": lambda channels, _, plan: _convolutional(channels, plan, nn.AdaptiveMaxPool2d(1)),
    "fc": _dense,
}
