"""The command line of a run, as a person would type it again: for its page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec
from cnnviz.settings import (
    LONG_NAMES,
    DrawSettings,
    ModelSpec,
    OutputSettings,
    RunSettings,
    RuntimeSettings,
    TargetSettings,
)

MOST_INPUTS = 4
"""Inputs that are written out; a shell's ``*.jpg`` may have been thousands."""
# How often the run was begun, and where results are looked up, say nothing about what is in it; where it lies stands on
# its page alone, where somebody copies the command.
_UNTOLD = frozenset(("out", "resume", "overwrite", "cache"))
_POLICY = "policy"
_REPEATED = frozenset(("layer", "class", "target", "metric", "skip-check"))


def command_line(settings: RunSettings, most: int | None = MOST_INPUTS, *, out: bool = False) -> str:
    """``cnnviz gradcam photos/ --model resnet50 --class top:3``: the options that are not at their defaults, quoted.

    Options from a configuration file stand among them; ``--resume``, ``--overwrite`` and ``--cache`` do not.

    Args:
        settings: What was asked for.
        most: Inputs that are written out; None for all.
        out: Whether ``--out`` stands there too, where it is not the usual folder.
    """
    policy = settings.target.params.get(_POLICY) if _takes_policy(lookup.find_entry(settings.target.method)) else None
    words = ["cnnviz", settings.command, *([] if policy is None else [str(policy)]), *settings.inputs[:most]]
    line = shlex.join(words)
    if most is not None and len(settings.inputs) > most:
        line += f" … ({len(settings.inputs) - most} more)"
    options = [word for name, value in _chosen(settings) for word in typed(name, value)]
    if out and (folder := _folder(settings)) not in ("", "-", f"cnnviz-out/{settings.command}"):
        options += typed("out", folder)
    return f"{line} {shlex.join(options)}" if options else line


def _folder(settings: RunSettings) -> str:
    """The output folder as it was typed: that of a share lies in it."""
    folder = settings.output.out
    return folder if settings.shard is None else folder.rpartition("/")[0] or folder


def _takes_policy(spec: CommandSpec) -> bool:
    """Whether a policy stands before the images, and not behind a flag."""
    return spec.takes() == "policy"


def _chosen(settings: RunSettings) -> Iterator[tuple[str, Any]]:
    """Long names of options and their values, each once."""
    told: dict[str, Any] = {}
    spec = lookup.find_entry(settings.target.method)
    variants = lookup.commands().get(settings.command, (spec,))
    if spec.name != lookup.default_variant(variants).name or settings.target.method_named:
        told["variant"] = spec.name
    for param in spec.params:
        value = settings.target.params.get(param.name, param.default)
        stands_before = param.name == _POLICY and _takes_policy(spec)
        if _plain(value) != _plain(param.default) and not stands_before:
            told[param.name] = value
    usual = TargetSettings(classes=spec.usual_classes(settings.target.truth))
    draw = DrawSettings(save=spec.default_save)
    defaults: tuple[Any, ...] = (ModelSpec(), usual, RuntimeSettings(), draw, OutputSettings())
    parts = (settings.model, settings.target, settings.runtime, settings.draw, settings.output)
    untold = _UNTOLD | {"method", "method_named", "params"} | ({"model"} if spec.model_option else set())
    for part, default in zip(parts, defaults, strict=True):
        for name in (each.name for each in fields(default)):
            value = getattr(part, name)
            if name not in untold and value != getattr(default, name):
                told.setdefault(LONG_NAMES.get(name, name), value)
    if settings.limit is not None:
        told["limit"] = settings.limit
    if settings.shard is not None:
        told["shard"] = settings.shard
    if settings.null:
        told["null"] = True
    return iter(told.items())


def _plain(value: Any) -> Any:
    """A value as it compares: a list is what the same tuple is, and so is a side to a square of it."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value


def typed(name: str, value: Any) -> list[str]:
    """The words of an option with a value: ``["--class", "top:3"]``, ``["--no-baselines"]``.

    Args:
        name: Long name, as in a report's ``options``.
        value: Its value; lists as a command takes them, several times or joined by commas.
    """
    flag = name.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, (list, tuple)):
        each = [_text(item) for item in value]
        numbers = all(isinstance(item, (int, float)) for item in value)
        if flag in _REPEATED or not (numbers or flag == "save"):
            return [word for item in each for word in (f"--{flag}", item)]
        return [f"--{flag}", ",".join(each) or "none"]
    return [f"--{flag}", _text(value)]


def _text(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
