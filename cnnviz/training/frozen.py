"""Which weights of a network that was cut are learned, and what its batch normalisation does meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnviz.errors import CnnvizError, nearest, of_option
from cnnviz.models.graph.layers import called_node
from cnnviz.models.graph.trace import ancestors, trace
from cnnviz.models.preprocess import Preprocess
from cnnviz.models.surgery import CutNetwork

ALL = "all"
"""The word for everything before the head."""


@dataclass(frozen=True, eq=False)
class Regime:
    """How a network is trained.

    Attributes:
        network: Its frozen weights have no gradients.
        still: Names of modules that stay in evaluation mode: no dropout, and statistics as they are.
    """

    network: CutNetwork
    still: frozenset[str]

    def train(self) -> None:
        """Training mode, but for what is frozen."""
        self.network.train()
        for name in self.still:
            self.network.get_submodule(name).eval()

    @property
    def trunk_is_still(self) -> bool:
        """Whether nothing before the head changes, so that a picture gives the same map in each epoch."""
        trunk = self.network.trunk
        learns = any(weight.requires_grad for weight in trunk.parameters())
        return not learns and all(f"trunk.{name}" in self.still for name, _ in trunk.named_modules() if name)

    def facts(self) -> dict[str, int]:
        """Numbers of weights and of batch normalisations, learned and frozen."""
        learned: list[int] = []
        frozen: list[int] = []
        for weight in self.network.parameters():
            (learned if weight.requires_grad else frozen).append(weight.numel())
        self.train()
        moving = [module.training for module in self.network.modules() if isinstance(module, _BatchNorm)]
        self.network.eval()
        return {
            "learned_parameters": sum(learned),
            "frozen_parameters": sum(frozen),
            "batch_norm_learned": sum(moving),
            "batch_norm_frozen": len(moving) - sum(moving),
        }


def modules_up_to(network: nn.Module, name: str, layer: str, preprocess: Preprocess) -> frozenset[str]:
    """Paths of the modules and weights that a layer is computed with, its own among them.

    Args:
        network: The classifier before it was cut, in evaluation mode.
        name: For messages.
        layer: As ``--layer`` takes it.
        preprocess: Its input size is what the network is tried at.

    Raises:
        CnnvizError: There is no such layer, with near matches.
    """
    probe = torch.randn((1, *preprocess.input_size), generator=torch.Generator().manual_seed(0))
    graph = trace(network, probe, lambda output: output)
    if graph is None:
        raise CnnvizError(f"{name} cannot be traced, so it is not known what lies before {layer!r}.", "--freeze all")
    try:
        node, _, _ = called_node(graph, layer, name)
    except CnnvizError as error:
        said = of_option(error, "--freeze")
        raise CnnvizError(said.message, nearest(layer, (ALL,)) or said.hint) from error
    return frozenset(str(each.target) for each in ancestors([node]) if each.op in ("call_module", "get_attr"))


def regime(network: CutNetwork, frozen: frozenset[str] | None, batch_norm: Literal["train", "frozen"]) -> Regime:
    """Freeze a part of the trunk.

    Args:
        network: Which; its weights' flags are set.
        frozen: Paths of what :func:`modules_up_to` finds; None for the whole trunk.
        batch_norm: Whether the batch normalisation of the rest of the trunk learns.
    """
    still: set[str] = set()
    for name, weight in network.trunk.named_parameters():
        weight.requires_grad_(frozen is not None and not _within(name, frozen))
    for name, module in network.trunk.named_modules():
        if name and (
            frozen is None or _within(name, frozen) or (batch_norm == "frozen" and isinstance(module, _BatchNorm))
        ):
            still.add(f"trunk.{name}")
    for name, part in network.named_children():
        if name != "trunk":
            part.requires_grad_(True)
    return Regime(network, frozenset(still))


def _within(name: str, paths: frozenset[str]) -> bool:
    """Whether something is one of these, or a part of one."""
    parts = name.split(".")
    return any(".".join(parts[:depth]) in paths for depth in range(1, len(parts) + 1))
