"""What can be named as a model, and whether its weights are on this machine; nothing is fetched."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from cnnviz.errors import CnnvizError, nearest
from cnnviz.models.loading import bundled, zoo
from cnnviz.models.loading.libraries import timm, torchvision_models


@dataclass(frozen=True)
class ModelRow:
    """One set of weights of one network.

    Attributes:
        name: As ``--model`` takes it.
        source: ``bundled``, ``torchvision`` or ``timm``.
        weights: As ``--weights`` takes it; None where there are only random ones.
        default: Whether ``--weights DEFAULT`` means these.
        origin: Where they come from: a package, an address, a Hugging Face repository.
        file: Where they are on this machine, or None.
    """

    name: str
    source: str
    weights: str | None
    default: bool
    origin: str | None
    file: str | None

    def as_dict(self) -> dict[str, Any]:
        """As in ``cnnviz models --json``."""
        return {**asdict(self), "on_this_machine": self.file is not None}


def listed(pattern: str | None = None) -> list[ModelRow]:
    """The bundled network, torchvision's classifiers and segmentation networks, timm's models.

    Args:
        pattern: A part of the name or of the weights' name, or a pattern such as ``resnet*`` for the whole name
            (with or without ``timm/``), in any case; None for all.

    Raises:
        CnnvizError: Nothing matches.
    """
    rows = [*_bundled(), *_torchvision(), *_timm(pattern)]
    found = [row for row in rows if _matches(row.name, row.weights, pattern)]
    if not found:
        names = [bundled.NAME, *zoo.torchvision_names(), *(f"timm/{name}" for name in timm.list_models())]
        raise CnnvizError(
            f"no model matches {pattern!r}",
            nearest(str(pattern), names) or "give a part of a name, such as resnet, or a pattern: 'timm/*next*'",
        )
    return found


def _matches(name: str, weights: str | None, pattern: str | None) -> bool:
    if pattern is None:
        return True
    wanted = pattern.casefold()
    texts = [name.casefold(), name.casefold().removeprefix("timm/")]
    if any(c in wanted for c in "*?["):
        return any(fnmatch.fnmatchcase(text, wanted) for text in texts)
    return any(wanted in text for text in [*texts, (weights or "").casefold()])


def _bundled() -> Iterator[ModelRow]:
    file = bundled.weights_file()
    here = None if file is None else str(file)
    yield ModelRow(bundled.NAME, "bundled", "IMAGENET1K", True, f"package {bundled.PACKAGE}", here)


def _torchvision() -> Iterator[ModelRow]:
    for name in zoo.torchvision_names():
        members: dict[str, Any] = dict(torchvision_models.get_model_weights(name).__members__)
        default = members["DEFAULT"].name
        for member, entry in members.items():
            # Weights without categories are features for another head.
            if member != "DEFAULT" and entry.meta.get("categories"):
                here = _existing(zoo.hub_file(entry.url))
                yield ModelRow(name, "torchvision", entry.name, entry.name == default, entry.url, here)


def _timm(pattern: str | None) -> Iterator[ModelRow]:
    with_weights: dict[str, list[str]] = {}
    for full in timm.list_pretrained():
        architecture, _, tag = full.partition(".")
        with_weights.setdefault(architecture, []).append(tag)
    for architecture in timm.list_models():
        tags = with_weights.get(architecture, [])
        if not tags and _matches(f"timm/{architecture}", None, pattern):
            yield ModelRow(f"timm/{architecture}", "timm", None, False, None, None)
        for tag in tags:
            if _matches(f"timm/{architecture}", tag, pattern):
                yield _timm_row(architecture, tag)


def _timm_row(architecture: str, tag: str) -> ModelRow:
    config = cast(Any, timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture))
    default = cast(Any, timm.get_pretrained_cfg(architecture))
    if config.hf_hub_id:
        origin = f"https://huggingface.co/{config.hf_hub_id}"
        file = zoo.hub_cached(config.hf_hub_id, config.hf_hub_filename)
    else:
        origin = config.url
        file = _existing(zoo.hub_file(origin)) if origin else None
    first = (default.tag or "") == tag
    return ModelRow(f"timm/{architecture}", "timm", tag or None, first, origin or None, file)


def _existing(file: Path) -> str | None:
    return str(file) if file.exists() else None
