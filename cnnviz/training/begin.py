"""The network that a training begins with: loaded, cut, given its head, and frozen where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cnnviz.errors import CnnvizError
from cnnviz.models.loading import zoo
from cnnviz.models.loading.load import RANDOM, LoadedModel, load
from cnnviz.models.surgery import CutNetwork, Plan, cut_at, map_shape, with_head
from cnnviz.registry.training import TrainOptions
from cnnviz.settings import ModelSpec
from cnnviz.training.frozen import ALL, Regime, modules_up_to, regime


@dataclass(frozen=True, eq=False)
class Beginning:
    """What is trained.

    Attributes:
        loaded: The network with its new head, as a report describes one.
        regime: What of it is learned.
        shape: Channels, rows and columns of the map that feeds the head.
    """

    loaded: LoadedModel
    regime: Regime
    shape: tuple[int, int, int]

    @property
    def network(self) -> CutNetwork:
        return self.regime.network


def begin(spec: ModelSpec, params: TrainOptions, classes: Sequence[str]) -> Beginning:
    """Load a classifier and cut it.

    Weights that another training made are those of its trunk: the head is always new.

    Args:
        spec: Which, with which weights.
        params: Where it is cut, what is put there, what is frozen.
        classes: Names of the classes to tell apart.

    Raises:
        CnnvizError: No such network, weights or layer, with near matches.
    """
    # What no name stands for (a factory, a file) could not be made again from the checkpoint.
    zoo.find(spec.model, spec.weights, 3)
    loaded = load(spec)
    found = loaded.module
    if isinstance(found, CutNetwork):
        trunk, cut = found.trunk, _same_cut(found.plan, spec.model, params)
    else:
        trunk, cut = cut_at(found, spec.model, params.cut, loaded.preprocess)
    frozen = None if params.freeze in (None, ALL) else _up_to(loaded, spec.model, str(params.freeze))
    weights = found.plan.weights if isinstance(found, CutNetwork) else spec.weights
    plan = Plan(spec.model, weights, cut, params.head, params.units, tuple(classes), loaded.preprocess)
    network = with_head(trunk, plan, spec.seed).to(memory_format=torch.channels_last)
    freed = frozenset[str]() if params.freeze is None else frozen
    return Beginning(
        replace(
            loaded,
            module=network,
            labels=plan.classes,
            num_classes=len(classes),
            parameters=sum(weight.numel() for weight in network.parameters()),
            synsets=(),
            notes=tuple(note for note in loaded.notes if note != RANDOM),
            output=None,
        ),
        regime(network, freed, params.batch_norm),
        map_shape(trunk, plan),
    )


def _same_cut(plan: Plan, arch: str, params: TrainOptions) -> str:
    """Where a trunk that was cut before ends.

    Raises:
        CnnvizError: It is another network's, or was cut elsewhere.
    """
    if arch != plan.arch:
        raise CnnvizError(f"--checkpoint holds {plan.arch} that was cut, not {arch}.", f"Give --arch {plan.arch}")
    if params.cut not in (None, plan.cut):
        raise CnnvizError(
            f"--checkpoint holds {plan.arch} cut at {plan.cut}, which cannot be cut at {params.cut} again.",
            f"Leave --cut out, or give --cut {plan.cut}",
        )
    return plan.cut


def _up_to(loaded: LoadedModel, name: str, layer: str) -> frozenset[str]:
    """Paths in the trunk of what a layer is computed with."""
    cut_before = isinstance(loaded.module, CutNetwork)
    named = f"trunk.{layer}" if cut_before and not layer.lstrip("-").isdigit() else layer
    found = modules_up_to(loaded.module, name, named, loaded.preprocess)
    return frozenset(path.removeprefix("trunk.") for path in found) if cut_before else found
