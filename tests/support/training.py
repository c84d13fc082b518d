"""A folder of classes that a small network learns in seconds, and trainings of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnviz import pipeline
from cnnviz.settings import ModelSpec
from tests.support.runs import Quiet, ran

COLOURS: Mapping[str, tuple[int, int, int]] = {"amber": (230, 160, 30), "jade": (30, 160, 90), "plum": (120, 50, 130)}
SMALL: dict[str, Any] = {"arch": "shufflenet_v2_x0_5", "cut": "stage2", "units": 8, "epochs": 2}


def write_classes(root: Path, each: int = 5, labels: Sequence[str] = tuple(COLOURS)) -> Path:
    """Noise with a square of the class's colour somewhere: ``root/amber/0.png``, …"""
    rng = np.random.default_rng(0)
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 256, (44, 52, 3)).astype(np.uint8)
            y, x = rng.integers(0, 20, 2)
            pixels[y : y + 22, x : x + 22] = COLOURS[label]
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


def small(size: int = 32, seed: int = 0, **more: Any) -> ModelSpec:
    """The network of :data:`SMALL`, from random weights."""
    return ModelSpec(model=more.pop("model", SMALL["arch"]), weights="none", input_size=(size, size), seed=seed, **more)


def trained(
    folder: Path, out: Path, model: ModelSpec | None = None, **parts: Any
) -> tuple[dict[str, Any], pipeline.RunResult, Quiet]:
    """A training: its report, its result, what was told.

    Args:
        parts: Options of training; and ``batch_size``, ``precision``, ``resume``, ``reporter`` and the like.
    """
    own = {name: parts.pop(name) for name in list(parts) if name in _OWN}
    spec = model or small(seed=parts.get("seed", 0))
    given = {"workers": 1, "device": "cpu", **parts}
    return ran("train", [folder], out, model=spec, params={**SMALL, "arch": spec.model, **own}, **given)


def epochs(out: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _own_options() -> frozenset[str]:
    from cnnviz.registry import lookup

    return frozenset(param.name for param in lookup.find_entry("train").params)


_OWN = _own_options()
