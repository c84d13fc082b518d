"""What a policy says: the network, the images, and what must hold of where it looks. Nothing here imports torch."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.io.policy_file import read_policy
from cnnviz.registry.checks import CHANGES, CheckSpec
from cnnviz.registry.comparisons import AuditOptions
from cnnviz.registry.lookup import all_checks
from cnnviz.registry.params import Options

VERSION = 1
SCOPES, LEVELS, ONLY = ("all", "class", "group"), ("error", "warning"), ("correct", "all", "wrong")
TRUTH_LABELS = ("class", "any", "box")
_KEYS = (
    "version model images labels groups truth truth_classes truth_labels method target only false_alarm min_images "
    "options checks"
).split()
_OF_CHECK = ("name", "kind", "level", "scope")
_FILES = ("groups", "truth")
_OF_TRUTH = ("background", "truth")


@dataclass(frozen=True)
class PolicyCheck:
    """One check of a policy.

    Attributes:
        spec: Its kind.
        name: As results call it, unique in the policy.
        level: ``error`` fails the run, ``warning`` is told.
        scope: What is judged together: ``all`` images, each ``class``, or each ``group``; the worst decides.
        params: Its options.
        line: Where it stands in the file, from 1.
    """

    spec: CheckSpec
    name: str
    level: str
    scope: str
    params: Options
    line: int


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
        lines: Where its keys stand in the file, from 1; those of the model as ``model.KEY``.
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
    written, lines, keys = read_policy(path)
    here = os.path.dirname(path)
    _check_keys(written, _KEYS, f"policy {path}")
    data = {key: value for key, value in written.items() if value is not None}
    if data.get("version") != VERSION or data["version"] is True:
        raise CnnvizError(f"policy {path}: version {shown(str(data.get('version')))}.", f"Write version: {VERSION}")
    for key in ("labels", *_FILES, "truth_classes", "target"):
        _check_text(data.get(key, ""), key, path)
    model = data.get("model", {})
    model = _options({"name": model} if isinstance(model, str) else model, "model", path)
    images = _texts(data.get("images"), "images", path)
    if not images:
        raise CnnvizError(f"policy {path}: no images.", "For example images: data/val")
    labels = data.get("labels", "none")
    checks = _checks(data.get("checks"), lines, path)
    if not checks:
        raise CnnvizError(f"policy {path}: no checks.", "For example - {kind: inside, min_energy: 0.5}")
    policy = Policy(
        path=path,
        model={_model_key(key): _beside(value, key, here) for key, value in model.items()},
        images=tuple(_joined(here, image) for image in images),
        labels=None if labels in ("none", None) else labels if labels == "folder" else _joined(here, str(labels)),
        groups=_file(data, "groups", here),
        truth=_file(data, "truth", here),
        truth_classes=_truth_classes(data.get("truth_classes"), here),
        truth_labels=_word(data.get("truth_labels", "class"), TRUTH_LABELS, "truth_labels", path),  # type: ignore[arg-type]
        methods=_texts(data.get("method", "gradcam"), "method", path) or ("gradcam",),
        target=str(data.get("target", "label" if labels not in ("none", None) else "pred")),
        only=_word(data.get("only", "correct" if labels not in ("none", None) else "all"), ONLY, "only", path),
        false_alarm=_number(data.get("false_alarm", 0.01), 0, 1, "false_alarm", path),
        min_images=int(_number(data.get("min_images", 10), 1, 1e9, "min_images", path)),
        options={
            key: _beside(value, key, here) for key, value in _options(data.get("options", {}), "options", path).items()
        },
        checks=checks,
        lines=keys,
    )
    _check_whole(policy)
    return policy


def _options(value: Any, key: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        example = "model: {name: resnet18}" if key == "model" else "options: {view: whole}"
        raise CnnvizError(f"policy {path}: {key}: expected options with values.", f"For example {example}")
    return value


def _check_text(value: Any, key: str, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        hint = "Write it in quotes: YAML reads on, off, yes and no as true and false, 2024-01-01 as a date."
        raise CnnvizError(f"policy {path}: {key}: expected a text, got {shown(str(value))}.", hint)


def _check_whole(policy: Policy) -> None:
    """Refuse what the parts of a policy cannot give each other."""
    for check in policy.checks:
        where = f"policy {policy.path}, line {check.line}: {check.name}"
        if getattr(check.params, "min_pointing", None) is not None and check.params.tolerance != policy.tolerance:  # type: ignore[attr-defined]
            raise CnnvizError(f"{where} has another tolerance than the check before.", "Give both the same.")
        if check.spec.needs == "truth" and policy.truth is None:
            raise CnnvizError(f"{where} needs to know where objects are.", "Give truth: boxes.json")
        region = getattr(check.params, "region", getattr(check.params, "replace", ""))
        if region in _OF_TRUTH and not policy.truth:
            other = "replace" if hasattr(check.params, "replace") else "region"
            hint = f"Give truth: boxes.json; or, without, a rectangle: {other}: [0, 0.9, 1, 1] is the lowest tenth."
            raise CnnvizError(f"{where} needs to know what is {region}.", hint)
        if (check.spec.needs == "labels" or check.scope == "class") and policy.labels is None:
            what = "" if check.spec.needs == "labels" else " is judged by class, which"
            raise CnnvizError(f"{where}{what} needs labels.", "Give labels: folder, or a table.")
        if check.scope == "group" and policy.groups is None:
            raise CnnvizError(f"{where} is judged by group.", "Give groups: groups.csv")
    if policy.target == "label" and policy.labels is None:
        raise CnnvizError(
            f"policy {policy.path}: target: label without labels.", "Give labels: folder, or target: pred"
        )
    if policy.only != "all" and policy.labels is None:
        raise CnnvizError(f"policy {policy.path}: only: {policy.only} without labels.", "Give labels: folder")


def _checks(rows: Any, lines: Sequence[int], path: str) -> tuple[PolicyCheck, ...]:
    if rows is None:
        return ()
    if not isinstance(rows, list):
        raise CnnvizError(f"policy {path}: checks are a list.", "For example - {kind: inside, min_energy: 0.5}")
    known = {spec.name: spec for spec in all_checks()}
    found: list[PolicyCheck] = []
    for place, row in enumerate(rows):
        line = lines[place] if place < len(lines) else 0
        where = f"policy {path}, line {line}"
        if not isinstance(row, dict):
            raise CnnvizError(f"{where}: a check is a mapping.", "For example - {kind: inside, min_energy: 0.5}")
        kind = str(row.get("kind", ""))
        if kind not in known:
            hint = nearest(kind, known) or f"Checks: {', '.join(known)}."
            raise CnnvizError(f"{where}: there is no check of kind {shown(kind)}.", hint)
        spec = known[kind]
        row = {"on" if key is True else key: value for key, value in row.items()}  # as YAML 1.1 reads a bare on
        _check_keys(row, [*_OF_CHECK, *(param.name for param in spec.params)], f"{where}, {kind}")
        given = {key: _as_text(value) for key, value in row.items() if key not in _OF_CHECK}
        try:
            params = _params(spec, given)
        except CnnvizError as error:
            raise CnnvizError(f"{where}, {kind}: {error.message}", error.hint) from None
        name = _unique(str(row.get("name", kind)), [each.name for each in found])
        level = _word(row.get("level", spec.level), LEVELS, "level", path)
        scope = _word(row.get("scope", "all"), SCOPES, "scope", path)
        found.append(PolicyCheck(spec, name, level, scope, params, line))
    return tuple(found)


def _params(spec: CheckSpec, given: Mapping[str, Any]) -> Options:
    """The options of a check; ``null`` takes a limit away, and one must be left."""
    limits = [param.name for param in spec.params if param.name.startswith(("min_", "max_"))]
    gone = [name for name in limits if len(limits) > 1 and name in given and given[name] is None]
    params = spec.resolve_params({key: value for key, value in given.items() if key not in gone})
    params = replace(params, **dict.fromkeys(gone))  # type: ignore[type-var]
    if limits and all(getattr(params, name) is None for name in limits):
        raise CnnvizError("it allows anything.", f"Give {' or '.join(limits)}.")
    if (region := getattr(params, "region", None)) is not None:
        _check_region(region, "region", _OF_TRUTH)
    if (region := getattr(params, "replace", None)) is not None:
        _check_region(region, "replace", _OF_TRUTH[:1])
    if (under := getattr(params, "under", None)) is not None:
        for name in under or [""]:
            if name not in CHANGES:
                hint = nearest(name, CHANGES) or f"For example under: [{', '.join(CHANGES)}]"
                raise CnnvizError(f"under: {shown(name)} is none of {', '.join(CHANGES)}.", hint)
    return params


def _check_region(text: str, key: str, words: Sequence[str]) -> None:
    if text in words:
        return
    try:
        x0, y0, x1, y1 = map(float, text.replace("/", ",").split(","))
        inside = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except ValueError:
        inside = False
    if not inside:
        said = (
            f"{key}: {shown(text)}: expected {' or '.join(words)}, or x0, y0, x1, y1 in fractions of width and height."
        )
        raise CnnvizError(said, nearest(text, words) or f"The lowest tenth is {key}: [0, 0.9, 1, 1]")


def _as_text(value: Any) -> Any:
    """A region as its text: ``[0, 0.85, 1, 1]`` is ``0,0.85,1,1``."""
    if isinstance(value, list) and value and all(isinstance(each, (int, float)) for each in value):
        return ",".join(map(str, value))
    return tuple(value) if isinstance(value, list) else value


def _unique(name: str, taken: Sequence[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def _check_keys(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise CnnvizError(
                f"{where}: there is no key {shown(str(key))}.", nearest(str(key), known) or ", ".join(known)
            )


def _word(value: Any, words: Sequence[str], key: str, path: str) -> str:
    text = {"worst_group": "group"}.get(str(value), str(value))
    if text not in words:
        hint = nearest(text, words) or f"Use {', '.join(words)}."
        raise CnnvizError(f"policy {path}: {key}: {shown(text)} is none of {', '.join(words)}.", hint)
    return text


def _number(value: Any, low: float, high: float, key: str, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise CnnvizError(f"policy {path}: {key}: {shown(str(value))}: expected a number from {low:g} to {high:g}.")
    return float(value)


def _texts(value: Any, key: str, path: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, str) for each in values):
        raise CnnvizError(f"policy {path}: {key}: expected text, or a list of texts.")
    return tuple(values)


def _joined(here: str, path: str) -> str:
    return path if "://" in path or os.path.isabs(path) else os.path.join(here, path)


def _file(data: Mapping[str, Any], key: str, here: str) -> str | None:
    return None if data.get(key) is None else _joined(here, str(data[key]))


def _truth_classes(value: Any, here: str) -> str | None:
    return None if value is None else "coco" if value == "coco" else _joined(here, str(value))


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
