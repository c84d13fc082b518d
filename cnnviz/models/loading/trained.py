"""A network that ``cnnviz train`` made, in one safetensors file: weights, and in its metadata what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading import zoo
from cnnviz.models.loading.checkpoint import Checkpoint
from cnnviz.models.loading.checkpoint_fit import load_checkpoint
from cnnviz.models.onnx_files.read import SUFFIX, read_onnx
from cnnviz.models.preprocess import Preprocess
from cnnviz.models.surgery import HEADS, CutNetwork, Plan, rebuilt

KEY = "cnnviz.network"
_FORMAT = 1


def to_bytes(network: CutNetwork) -> bytes:
    """The file of a network: its tensors on the host, its plan as JSON under :data:`KEY` of the metadata."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    # One key: safetensors writes several in an order that changes from file to file.
    return save(tensors, {KEY: json.dumps({"format": _FORMAT, **asdict(network.plan)})})


def is_trained(checkpoint: Checkpoint) -> bool:
    """Whether a file says by itself what network it is of."""
    return KEY in checkpoint.metadata


def from_checkpoint(checkpoint: Checkpoint) -> tuple[CutNetwork, str, tuple[str, ...]]:
    """The network of a file, where its architecture comes from (``bundled``, ``torchvision``, ``timm``), and notes.

    Raises:
        CnnvizError: The metadata are of a newer version, or do not describe these weights.
    """
    plan = _plan(checkpoint)
    if plan.arch.lower().endswith(SUFFIX):
        file = read_onnx(plan.arch, plan.preprocess.input_size)
        return (found := rebuilt(plan, lambda: file.module, 0)), "onnx", load_checkpoint(checkpoint, found)
    recipe = zoo.find(plan.arch, plan.weights, plan.preprocess.input_size[0])
    network = rebuilt(plan, lambda: _frozen(recipe.build(None, frozenset())), 0)
    return network, recipe.source, load_checkpoint(checkpoint, network)


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def _plan(checkpoint: Checkpoint) -> Plan:
    try:
        said: Mapping[str, Any] = json.loads(checkpoint.metadata[KEY])
        if said["format"] != _FORMAT:
            raise CnnvizError(
                f"{checkpoint.path} was written in format {said['format']}, this version reads format {_FORMAT}.",
                "Read it with the version of cnnviz that wrote it.",
            )
        fields = {name: said[name] for name in ("arch", "weights", "cut", "head", "units")}
        if fields["head"] not in HEADS:
            raise ValueError(f"head {fields['head']!r}")
        shown: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in said["preprocess"].items()}
        return Plan(**fields, classes=tuple(said["classes"]), preprocess=Preprocess(**shown))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CnnvizError(
            f"the metadata of {checkpoint.path} do not describe a network: {type(error).__name__} {error}",
            "Copy the file again, or train again.",
        ) from error
