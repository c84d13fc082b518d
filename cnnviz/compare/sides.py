"""The two sides of a comparison: finished runs, or the settings of runs that are made for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.finished_runs import run_folder_of
from cnnviz.io.sources import is_url
from cnnviz.registry import lookup
from cnnviz.registry.comparisons import CompareOptions
from cnnviz.settings import ModelSpec, RunSettings, parse_input_size, parse_numbers

A, B = "a", "b"
_METHOD = "gradcam"
_ANY_NETWORK = ("DEFAULT", "none")
_USUAL = ("pred",)
_MOST_USED = ("method_b", "model_b", "checkpoint_b")


@dataclass(frozen=True)
class Side:
    """One of both: the folder of its run, and what makes it where it has not been made.

    Attributes:
        folder: Where its run lies, or will.
        settings: Those of the run to make; None of one that has ended.
    """

    folder: str
    settings: RunSettings | None = None


def sides_of(settings: RunSettings, params: CompareOptions) -> tuple[Side, Side]:
    """A and B, as the command line names them.

    Raises:
        CnnvizError: They are one, or it cannot be told what they are.
    """
    found = [run_folder_of(text) for text in settings.inputs]
    finished = [folder for folder in found if folder is not None]
    _check(settings, params, finished)
    earlier = None if params.against is None else Side(_against(params.against))
    if finished:
        both = [*([] if earlier is None else [earlier]), *map(Side, finished)]
        if os.path.realpath(settings.output.out) in [os.path.realpath(each.folder) for each in both]:
            raise CnnvizError(f"-o {settings.output.out} is a run that is compared.", "Name another folder with -o.")
        return both[0], both[1]
    first = earlier or Side(_below(settings, A), _run_of(settings, params, A))
    return first, Side(_below(settings, B), _run_of(settings, params, B))


def _check(settings: RunSettings, params: CompareOptions, finished: Sequence[str]) -> None:
    if settings.output.out == "-":
        raise CnnvizError("compare writes several files: -o - is for maps.", "Give -o a folder.")
    if is_url(settings.output.out):
        raise CnnvizError("compare writes to a folder of this machine.", "Give -o a local folder, and copy it.")
    if "-" in settings.inputs:
        raise CnnvizError("compare reads its inputs twice; standard input can be read once.", "Use a list file.")
    own = {name: value for name, value in params.to_dict().items() if name.endswith("_b")}
    asked = [name for name, value in own.items() if value]
    if finished and len(finished) < len(settings.inputs):
        raise CnnvizError(
            f"INPUT {shown(finished[0])} is a finished run, and others are images.",
            "Name two finished runs; or the images, and the run with --against.",
        )
    wanted = 2 if params.against is None else 1
    if finished and len(finished) != wanted:
        many = "one finished run" if len(finished) == 1 else f"{len(finished)} finished runs"
        raise CnnvizError(f"compare got {many} and needs two.", "cnnviz compare RUN_A RUN_B")
    if asked and (finished or params.against is not None):
        raise CnnvizError(
            f"{_listed(asked)}: both sides are named already.", "Leave it out, or compare images without a run."
        )
    if not asked and not finished and params.against is None:
        raise CnnvizError(
            "compare needs a second side.",
            f"Give {_listed(_MOST_USED)} or another option that ends in -b, or --against RUN, or two finished runs.",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _against(path: str) -> str:
    folder = run_folder_of(path)
    if folder is None:
        raise CnnvizError(
            f"--against {shown(path)}: this is no finished run.", "Give the output folder of a run, or its report.json."
        )
    return folder


def _below(settings: RunSettings, side: str) -> str:
    return os.path.join(settings.output.out, side)


def _run_of(settings: RunSettings, params: CompareOptions, side: str) -> RunSettings:
    """The settings of the run of a side. Its exact maps are kept: they are what is compared."""
    other = side == B
    text = (params.method_b if other else None) or params.method
    name, _, given = (text or _METHOD).partition(":")
    spec = lookup.find_method(name.strip())
    flag = "--method-b" if other and params.method_b else "--method"
    own = spec.read_params(given, f"{flag} {text}").to_dict()
    layers = params.layer_b if other and params.layer_b else settings.target.layers
    target = replace(settings.target, method=spec.name, params=own, layers=layers, method_named=text is not None)
    save = tuple(dict.fromkeys((*settings.draw.save, "raw")))
    return replace(
        settings,
        command=spec.command,
        model=_model_of(settings.model, params) if other else settings.model,
        target=target,
        draw=replace(settings.draw, save=save),
        output=replace(settings.output, out=_below(settings, side)),
    )


def _model_of(model: ModelSpec, params: CompareOptions) -> ModelSpec:
    """The network of B: what of it is not named is that of A, but for weights, which fit one architecture.

    Raises:
        CnnvizError: Numbers that are none, or not as many as there must be.
    """
    if params.model_b is not None:
        weights = model.weights if model.weights in _ANY_NETWORK else _ANY_NETWORK[0]
        model = replace(model, model=params.model_b, weights=weights, checkpoint=None)
    if params.weights_b is not None:
        model = replace(model, weights=params.weights_b, checkpoint=None)
    if params.checkpoint_b is not None:
        model = replace(model, checkpoint=params.checkpoint_b)
    size, mean, std = params.input_size_b, params.mean_b, params.std_b
    own: dict[str, Any] = {
        "labels": params.labels_b,
        "num_classes": params.num_classes_b,
        "input_size": None if size is None else parse_input_size(size, "--input-size-b"),
        "mean": None if mean is None else parse_numbers(mean, "--mean-b", (1, 3)),
        "std": None if std is None else parse_numbers(std, "--std-b", (1, 3)),
        "channel_order": params.channel_order_b,
        "resize": params.resize_b,
        "view": params.view_b,
    }
    return replace(model, **{name: value for name, value in own.items() if value is not None})


def explaining(settings: RunSettings, params: CompareOptions, before: Side, report: object) -> RunSettings:
    """The settings of the run of B, with what is explained of each image.

    Args:
        settings: Those of the run.
        params: Of the comparison.
        before: A, which has ended.
        report: Its report.

    Returns:
        Where nothing was asked for, it explains what A predicts (or what A explains, where that is something else).
    """
    assert isinstance(report, dict)
    target, options = settings.target, report.get("options", {})
    if target.classes != _USUAL or target.targets or params.explained == "each":
        return settings
    theirs = tuple(options.get("class") or ())
    if before.settings is None and (theirs != _USUAL or options.get("target")):
        return replace(settings, target=replace(target, classes=theirs, targets=tuple(options.get("target") or ())))
    if report["model"].get("task") != "classify":
        return settings
    return replace(settings, target=replace(target, classes=(f"run:{before.folder}",)))


def in_words(settings: RunSettings, params: CompareOptions, sides: tuple[Side, Side]) -> str:
    """What is explained."""
    asked = [*(f"--class {text}" for text in settings.target.classes), *settings.target.targets]
    if sides[1].settings is None:
        return "what each run explains"
    if settings.target.classes != _USUAL or settings.target.targets:
        return f"in both: {', '.join(asked)}"
    return "in each what it predicts" if params.explained == "each" else "in both what A predicts"


def of_b(error: CnnvizError, params: CompareOptions) -> CnnvizError:
    """What is said of ``--mean``, said of ``--mean-b`` where that is what B has."""
    given = [name.removesuffix("_b") for name, value in params.to_dict().items() if name.endswith("_b") and value]
    flags = "|".join(name.replace("_", "-") for name in given)
    if not flags:
        return error

    def said(text: str) -> str:
        return re.sub(rf"(?<![\w-])--({flags})(?![\w-])", r"--\1-b", text)

    return CnnvizError(said(error.message), said(error.hint), exit_code=error.exit_code)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What B has other than A where model, weights and method are no name for it: preprocessing, options of the method.

    Args:
        a, b: Reports.

    Returns:
        Each in words, such as ``mean 0.485,0.456,0.406 (A: 0.5,0.5,0.5)``.
    """
    own, other = _circumstances(a), _circumstances(b)
    return [
        f"{name.replace('_', ' ')} {_in_short(other[name])} (A: {_in_short(own[name])})"
        for name in own
        if name in other and own[name] != other[name]
    ]


def _circumstances(report: Mapping[str, Any]) -> dict[str, Any]:
    model, options = report["model"], report.get("options", {})
    found = {"input_size": model.get("input_size"), **model.get("preprocess", {})}
    method = options.get("method")
    if method in (spec.name for spec in lookup.all_methods()):
        names = [param.attribute for param in lookup.find_method(method).params]
        found |= {f"{method} {name}": options[name] for name in names if name in options}
    return found


def _in_short(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_in_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
