"""What a policy says: the network, the images, and what must hold of where it looks. Nothing here imports torch."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cnnviz.audit.policy_checks import OF_TRUTH, PolicyCheck, read_checks
from cnnviz.audit.policy_values import Written
from cnnviz.errors import CnnvizError, shown
from cnnviz.io.policy_file import read_policy
from cnnviz.registry.comparisons import AuditOptions
from cnnviz.registry.lookup import methods_in

VERSION = 1
ONLY = ("correct", "all", "wrong")
TRUTH_LABELS = ("class", "any", "box")
_KEYS = (
    "version model images labels groups truth truth_classes truth_labels method target only false_alarm min_images "
    "options checks"
).split()
# With an example of each.
_TEXTS = {
    "labels": "folder", "groups": "groups.csv", "truth": "boxes.json", "truth_classes": "coco", "target": "pred"
}  # fmt: skip
_MAPPINGS = {"model": "{name: resnet18}", "options": "{view: whole}"}


@dataclass(frozen=True)
class Policy:
    """A policy, with paths that were relative to its file made relative to where the program runs.

    Attributes:
        path: Its file.
        model: Model options by their long names.
        images: What is looked at.
        labels: ``folder``, a table, or None: what is known of the images.
        groups: A table of paths and groups, or None.
        methods: Methods, as ``--method`` of other commands names them.
        target: ``label``, ``pred``, or a spec of ``--target``.
        only: Which predictions are judged: ``correct``, ``all`` or ``wrong``.
        truth_labels: ``class``: the truth of an image is where its class is; ``any``: all that is marked; ``box``: of
            a map of a detector's box, the box that is marked there.
        false_alarm: Share of policies that hold, in which any statement is called violated.
        min_images: Images that a group must have to pass.
        options: Further options of the command by their long names.
        checks: In order.
        lines: Where its keys stand in the file, from 1; those within another as ``model.KEY``,
            those of the checks as ``checks.NUMBER.KEY``, from 0.
    """

    path: str
    model: Mapping[str, Any]
    images: tuple[str, ...]
    labels: str | None
    groups: str | None
    truth: str | None
    truth_classes: str | None
    truth_labels: Literal["class", "any", "box"]
    methods: tuple[str, ...]
    target: str
    only: str
    false_alarm: float
    min_images: int
    options: Mapping[str, Any]
    checks: tuple[PolicyCheck, ...]
    lines: Mapping[str, int]

    @property
    def folder(self) -> str:
        """Where its file lies."""
        return os.path.dirname(self.path)

    def where(self, *keys: str) -> str:
        """The file, and the line of the first of these keys that it has, as an error begins."""
        line = next((self.lines[key] for key in keys if key in self.lines), None)
        return f"policy {self.path}" + ("" if line is None else f", line {line}")

    @property
    def tolerance(self) -> float | None:
        """That of the checks that ask where a map is largest, which have one; None where none asks."""
        asks = (check.params for check in self.checks if getattr(check.params, "min_pointing", None) is not None)
        return next((float(params.tolerance) for params in asks), None)  # type: ignore[attr-defined]


def load_policy(path: str) -> Policy:
    """The policy in a file.

    Raises:
        CnnvizError: It cannot be read, has a key or a word that is not known (with near matches), or lacks something.
    """
    values, lines = read_policy(path)
    written = Written(path, values, lines)
    here = os.path.dirname(path)
    written.check_keys(_KEYS)
    _check_version(written)
    texts = {key: written.text(key, example) for key, example in _TEXTS.items()}
    if isinstance(values.get("model"), str):
        written = replace(written, values={**values, "model": {"name": values["model"]}})
    model, options = (written.mapping(key, example) for key, example in _MAPPINGS.items())
    images = written.texts("images", "data/val")
    if not images:
        raise CnnvizError(f"{written.where('images')}: no images.", "For example images: data/val")
    labels = None if texts["labels"] == "none" else texts["labels"]
    policy = Policy(
        path=path,
        model={_model_key(key): _beside(value, key, here) for key, value in model.items()},
        images=tuple(_joined(here, image) for image in images),
        labels=labels if labels in (None, "folder") else _joined(here, labels),
        groups=_file(texts["groups"], here),
        truth=_file(texts["truth"], here),
        truth_classes="coco" if texts["truth_classes"] == "coco" else _file(texts["truth_classes"], here),
        truth_labels=written.word("truth_labels", TRUTH_LABELS, "class"),  # type: ignore[arg-type]
        methods=_methods(written),
        target=texts["target"] or ("pred" if labels is None else "label"),
        only=written.word("only", ONLY, "all" if labels is None else "correct"),
        false_alarm=written.number("false_alarm", 0, 1, 0.01),
        min_images=int(written.number("min_images", 1, 1e9, 10)),
        options={key: _beside(value, key, here) for key, value in options.items()},
        checks=read_checks(written),
        lines=lines,
    )
    _check_whole(policy, written)
    return policy


def _check_version(written: Written) -> None:
    version = written.values.get("version")
    if version is None:
        raise CnnvizError(f"{written.where('version')}: no version.", f"Write version: {VERSION}")
    if version != VERSION or version is True:
        raise written.refused("version", f"{shown(version)}: expected {VERSION}.", f"Write version: {VERSION}")


def _methods(written: Written) -> tuple[str, ...]:
    methods = written.texts("method", "gradcam") or ("gradcam",)
    try:
        methods_in(methods)
    except CnnvizError as error:
        raise written.refused("method", error.message[:1].lower() + error.message[1:], error.hint) from None
    return methods


def _check_whole(policy: Policy, written: Written) -> None:
    """Refuse what the parts of a policy cannot give each other."""
    for check in policy.checks:
        where = f"policy {policy.path}, line {check.line}: {check.name}"
        if getattr(check.params, "min_pointing", None) is not None and check.params.tolerance != policy.tolerance:  # type: ignore[attr-defined]
            raise CnnvizError(f"{where} has another tolerance than the check before.", "Give both the same.")
        if check.spec.needs == "truth" and policy.truth is None:
            raise CnnvizError(f"{where} needs to know where objects are.", "Give truth: boxes.json")
        region = getattr(check.params, "region", getattr(check.params, "replace", ""))
        if region in OF_TRUTH and not policy.truth:
            other = "replace" if hasattr(check.params, "replace") else "region"
            hint = f"Give truth: boxes.json; or, without, a rectangle: {other}: [0, 0.9, 1, 1] is the lowest tenth."
            raise CnnvizError(f"{where} needs to know what is {region}.", hint)
        if (check.spec.needs == "labels" or check.scope == "class") and policy.labels is None:
            what = "" if check.spec.needs == "labels" else " is judged by class, which"
            raise CnnvizError(f"{where}{what} needs labels.", "Give labels: folder, or a table.")
        if check.scope == "group" and policy.groups is None:
            raise CnnvizError(f"{where} is judged by group.", "Give groups: groups.csv")
    if policy.target == "label" and policy.labels is None:
        raise written.refused("target", "label without labels.", "Give labels: folder, or target: pred")
    if policy.only != "all" and policy.labels is None:
        raise written.refused("only", f"{policy.only} without labels.", "Give labels: folder")


def _joined(here: str, path: str) -> str:
    return path if "://" in path or os.path.isabs(path) else os.path.join(here, path)


def _file(path: str | None, here: str) -> str | None:
    return None if path is None else _joined(here, path)


def _model_key(key: str) -> str:
    return "model" if key == "name" else str(key).replace("-", "_")


def _beside(value: Any, key: str, here: str) -> Any:
    """Files that options name lie beside the policy; a factory in a file too."""
    if not isinstance(value, str):
        return value
    of_file = key in ("name", "model") and (".py:" in value or value.lower().endswith(".onnx"))
    return _joined(here, value) if of_file or key in ("checkpoint", "labels", "exclude") else value


def read_by(params: AuditOptions) -> list[str] | None:
    """What an audit depends on beside its options: files and folders of the policy, and where a baseline may expire
    the day. None where it accepts a baseline.
    """
    if params.accept is not None or params.policy is None:
        return None
    policy = load_policy(params.policy)
    labels = None if policy.labels == "folder" else policy.labels
    found = [labels, policy.groups, policy.truth, policy.truth_classes]
    folders = [str(name) for check in policy.checks if (name := getattr(check.params, "baseline", None)) is not None]
    found += [os.path.join(policy.folder, name) for name in folders]
    return [*filter(None, found), *([datetime.date.today().isoformat()] if folders else [])]


STARTER = """\
# What the model may look at, and what it may not. Run: cnnviz audit {name}
# Exit code 0: no check of level error is violated (what is NOT DECIDED, too, unless --strict); 1: one is violated;
# 2: nothing was run; 3: some images failed.
version: 1
model: {{name: efficientnet_lite0}}    # any option of the model: checkpoint: best.pth, labels: classes.txt, ...
images: data/val                     # relative to this file
labels: folder                       # the folder of an image is its class; or labels.csv; or none
# groups: groups.csv                 # path,group: hospitals, cameras, seasons
# truth: boxes.json                  # COCO JSON, a VOC folder, a folder of masks: where the objects are
method: gradcam                      # or a list: [gradcam, layercam]
only: correct                        # which predictions are judged: correct, all or wrong
false_alarm: 0.01                    # how often a policy that holds may be called violated
checks:
  - {{kind: accuracy, min: 0.8}}
  - {{kind: sane, max_similarity: 0.5}}
  - {{kind: stable, under: [shift, flip], min_similarity: 0.7}}
  - {{kind: avoid, region: [0.0, 0.9, 1.0, 1.0], max_energy: 0.2}}    # a caption or a watermark at the bottom
  # With truth:
  # - {{name: looks at the object, kind: inside, min_energy: 0.4, min_pointing: 0.7, scope: class}}
  # - {{kind: avoid, region: background, max_energy: 0.6}}
  # - {{kind: counterfactual, replace: background, with: shuffle, max_flips: 0.10}}
  # With a baseline (cnnviz audit {name} --accept "first release"):
  # - {{kind: drift, baseline: baseline, min_similarity: 0.9, max_changed_predictions: 0.02}}
"""
