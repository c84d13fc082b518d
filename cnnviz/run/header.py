"""What the report says of a run before its first image."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import cnnviz
from cnnviz.engine.compiled_parts import compiled_parts
from cnnviz.engine.session import Session
from cnnviz.io.digests import file_sha256
from cnnviz.models.loading.digests import source_sha256
from cnnviz.models.loading.load import LoadedModel
from cnnviz.records import RunHeader
from cnnviz.schema.header import PrecisionChoice
from cnnviz.settings import RunSettings


def run_header(
    settings: RunSettings, loaded: LoadedModel, model: Mapping[str, Any], environment: Mapping[str, Any]
) -> RunHeader:
    """The header of a run.

    Args:
        settings: What was asked for.
        loaded: The network.
        model: What only the prepared network knows: digests, layers, notes, checks.
        environment: As :func:`environment_of`; ``choice`` of the precision, where it was left to us.
    """
    import timm
    import torchvision

    spec = loaded.preprocess
    made = RunHeader(
        cnnviz=cnnviz.__version__,
        command=settings.command,
        options=settings.options(),
        model={
            "name": loaded.name,
            "source": loaded.source,
            "weights": loaded.weights,
            "weights_sha256": model["weights_sha256"],
            "source_sha256": source_sha256(loaded.module, settings.model.model),
            "labels_sha256": model["labels_sha256"],
            "parameters": loaded.parameters,
            "num_classes": loaded.num_classes,
            "task": model["task"],
            "input_size": list(spec.input_size),
            "layers": model["layers"],
            "preprocess": {
                "resize": list(spec.resize) if isinstance(spec.resize, tuple) else spec.resize,
                "view": spec.view,
                "interpolation": spec.interpolation,
                "mean": list(spec.mean),
                "std": list(spec.std),
                "channel_order": spec.channel_order,
            },
            "notes": model["notes"],
            "checks": model["checks"],
        },
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
            "device": environment["device"],
            "precision": environment["precision"],
            "preparation": environment["preparation"],
            "compiled_kernels": environment["compiled_kernels"],
        },
        summary={"inputs": 0, "explained": 0, "failed": 0, "finished": False},
        extra={"option_files_sha256": settings.option_files(file_sha256), **_choice(environment)},
    )
    if model.get("boxes") is not None:
        made.model["boxes"] = model["boxes"]
    return made


def environment_of(session: Session, elsewhere: Sequence[str]) -> dict[str, Any]:
    """Device, precision and preparation of a network, and what compiled kernels computed of it when it was tried.

    Args:
        session: The network.
        elsewhere: What is read of something else than the scores, such as ``units``.
    """
    return {
        "device": str(session.runtime.device),
        "precision": precision_of(session, elsewhere),
        "preparation": session.preparation,
        "compiled_kernels": compiled_parts([session]),
    }


def _choice(environment: Mapping[str, Any]) -> dict[str, PrecisionChoice]:
    """What ``--precision auto`` chose; maps that differ from those in float32 may have decided otherwise since."""
    choice: PrecisionChoice | None = environment.get("choice")
    if choice is None:
        return {}
    if not environment["precision"].startswith(choice["chosen"]):
        why = f"its maps are others in {choice['chosen']}"
        choice = {**choice, "chosen": environment["precision"], "why": why}
    return {"precision_choice": choice}


def precision_of(session: Session, elsewhere: Sequence[str]) -> str:
    """The precision, and what is computed in another.

    Args:
        session: The network.
        elsewhere: What is read of something else than the scores, such as ``units``.
    """
    exact = ["above the layer"] * bool(session.runtime.head)
    if session.split is not None and session.split.gradient_dtype is not None:
        exact.append("activations above the layer" if session.layers else "activations")
    exact += [f"for {noun}" for noun in elsewhere]
    name = session.runtime.precision
    return name if name == "fp32" or not exact else f"{name} (float32 {' and '.join(exact)})"
