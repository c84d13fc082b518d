"""What can be known to be wrong before PyTorch is imported and a network is loaded: said at once, not after seconds."""

from __future__ import annotations

import os

from cnnviz.errors import CnnvizError
from cnnviz.io.label_tables import is_index, is_label_table
from cnnviz.io.sources import find_images, is_url
from cnnviz.io.store import LOCK, Store
from cnnviz.io.walk import check_protocols
from cnnviz.registry import lookup
from cnnviz.registry.metrics import MetricSpec
from cnnviz.registry.specs import CommandSpec, Options
from cnnviz.run.earlier import EarlierRun
from cnnviz.settings import ModelSpec, RunSettings

# The default network knows ImageNet's classes.
_DEFAULT_CLASSES = 1000


def check(settings: RunSettings, spec: CommandSpec) -> None:
    """Look at the inputs, the files that options name, class indices, and the packages that the request needs.

    Args:
        settings: What was asked for.
        spec: The entry that runs.

    Raises:
        CnnvizError: An input, a file or a package is missing, or a class index is beyond the network's classes.
    """
    params = spec.resolve_params(settings.target.params)
    for package in spec.packages:
        package.check(spec.command, params)
    if is_url(settings.output.out):
        check_protocols(settings.output.out)
    if settings.inputs and "-" not in settings.inputs:
        # Raises where an INPUT is missing; whether any file is an image shows only when it is decoded.
        next(find_images(settings.inputs), None)
    _check_files(spec, params)
    for text in settings.target.metrics:
        _check_truth(lookup.read_metric(text).spec, settings.target.truth)
    spec.check_view(settings.model.view, params)
    _check_file("--exclude", settings.exclude)
    for name in ("checkpoint", "labels"):
        _check_file(f"--{name}", getattr(settings.model, name))
    _check_file("--truth", settings.target.truth)
    if settings.target.truth_classes != "coco":
        _check_file("--truth-classes", settings.target.truth_classes)
    _check_classes(settings)
    _check_only(settings)
    if not is_url(settings.output.out):
        _check_folder(settings, spec)


def _check_folder(settings: RunSettings, spec: CommandSpec) -> None:
    """Refuse the folder of another run. The run looks again, when it holds the folder."""
    output = settings.output
    if output.out == "-" or output.resume or output.overwrite or not os.path.isdir(output.out):
        return
    if not os.path.exists(os.path.join(output.out, LOCK)):  # whoever writes there is told of with its lock
        EarlierRun(Store(output.out)).check_plain("resume" not in spec.unavailable_options())


def _check_truth(spec: MetricSpec, truth: str | None) -> None:
    if spec.truth in ("boxes", "masks") and truth is None:
        raise CnnvizError(f"--metric {spec.name} needs to know where objects are: {spec.truth}.", "Give --truth PATH.")


def _check_files(spec: CommandSpec, params: Options) -> None:
    for param in spec.params:
        if param.type == "file":
            _check_file(f"--{param.name.replace('_', '-')}", getattr(params, param.attribute))


def _check_file(flag: str, path: str | None) -> None:
    if path is None or is_url(path) or os.path.exists(path):
        return
    folder = os.path.dirname(path)
    missing = f" The folder {folder} does not exist either." if folder and not os.path.isdir(folder) else ""
    raise CnnvizError(f"{flag} {path}: there is no such file.{missing}", "Check the path.")


def _check_only(settings: RunSettings) -> None:
    """``--only``, and mosaics of images that the network gets right, need to know what the images show."""
    target = settings.target
    said = [*target.classes, *(text.strip().removeprefix("class:") for text in target.targets)]
    known = target.truth is not None or any("folder" in text.split(",") or is_label_table(text) for text in said)
    known = known or any(is_label_table(text) for text in settings.inputs)
    asked = [] if target.only is None else [f"--only {target.only}"]
    asked += [f"--metric {text}" for text in target.metrics if lookup.read_metric(text).spec.measures == "mosaics"]
    asked += ["--mosaics"] if target.params.get("mosaics") else []
    if asked and not known:
        raise CnnvizError(
            f"{asked[0]}: nothing says what the images show.",
            "Give --class folder, --class FILE.csv, --truth PATH, or a CSV list with labels as INPUT.",
        )


def _check_classes(settings: RunSettings) -> None:
    model = settings.model
    count = model.num_classes
    if count is None and model == ModelSpec(seed=model.seed):
        count = _DEFAULT_CLASSES
    if count is None or model.labels is not None:
        return  # the labels may themselves be numbers
    for text in settings.target.classes:
        parts = [part.strip() for part in text.split(",")]
        if not all(map(is_index, parts)):
            continue
        if beyond := [part for part in parts if int(part) >= count]:
            raise CnnvizError(
                f"--class {beyond[0]}: the network has {count} classes, 0 to {count - 1}.",
                "Give an index in that range, or the label of a class.",
            )
