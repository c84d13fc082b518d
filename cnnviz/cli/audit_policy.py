"""``cnnviz audit``: what a policy asks, as options of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from glob import has_magic
from typing import Any, NamedTuple

from cnnviz.audit.policy import STARTER, Policy, load_policy
from cnnviz.cli.options import Option
from cnnviz.cli.values import from_config, long_name
from cnnviz.errors import CnnvizError, nearest
from cnnviz.io.policy_file import write_new

_NEW = "policy.yaml"
_BESIDE = "Paths of a policy are relative to its file."
# What a policy cannot ask for, and where it is asked for.
_OUTSIDE = {
    "init": "Type cnnviz audit --init POLICY.yaml",
    "policy": "It is the first argument of cnnviz audit.",
    "accept": "Type cnnviz audit POLICY.yaml --accept REASON",
    "until": "Type cnnviz audit POLICY.yaml --accept REASON --until DAY",
    "config": "Write its options here.",
    "inputs": "Write images: data/val",
}
# Options that are keys of the policy itself, or have another name there.
_OWN = ("model", "class_", "target_", "truth", "truth_classes", "method")


class Asked(NamedTuple):
    """What was said on the command line over what a policy says.

    Attributes:
        values: By field name of an option.
        places: Of options that the policy gives, the place and the key in its file.
        hints: Of some of these near matches that the network does not know of.
    """

    values: dict[str, Any]
    places: dict[str, str]
    hints: dict[str, str]


def with_policy(given: Mapping[str, Any], options: Mapping[str, Option]) -> Asked | str:
    """What was said, over what the policy says; or, where a policy was to be begun, that it was.

    Raises:
        CnnvizError: There is no policy, or it cannot be used.
    """
    inputs = [str(each) for each in given.get("inputs") or ()]
    if given.get("init"):
        path = inputs[0] if inputs else _NEW
        write_new(path, STARTER.format(name=path))
        return f"wrote {path}: say what must hold, then run: cnnviz audit {path}"
    named = given.get("policy") or (inputs.pop(0) if inputs else None)
    if named is None:
        raise CnnvizError("No policy was given.", "cnnviz audit POLICY.yaml; cnnviz audit --init writes one")
    policy = load_policy(str(named))
    _check_there(policy, {**given, **({"images": inputs} if inputs else {})})
    asked, places = _options(policy, options)
    asked |= _asked(policy)
    rest = {key: value for key, value in given.items() if key != "inputs"}
    found = {**asked, **rest, "inputs": inputs or list(policy.images), "policy": str(named)}
    if given.get("accept") or any(check.spec.keeps_maps for check in policy.checks):
        found["save"] = _with_raw(found.get("save"))
    if policy.truth_classes is not None and found.get("truth") is None:
        said = "they say what the labels of truth mean, which is not given."
        raise CnnvizError(f"{policy.where('truth_classes')}: truth_classes: {said}", "Give truth: boxes.json")
    places |= _own_places(policy)
    near = nearest(policy.target, ("label", "pred"))
    hints = {"target_": near} if near else {}
    return Asked(found, {key: place for key, place in places.items() if key not in rest}, hints)


def _own_places(policy: Policy) -> dict[str, str]:
    """Where the policy says by keys of its own what are options of the command."""
    keys = {"target_": "target", "class_": "labels", "truth": "truth", "truth_classes": "truth_classes"}
    return {name: f"{policy.where(key)}: {key}" for name, key in keys.items() if getattr(policy, key) is not None}


def _check_there(policy: Policy, given: Mapping[str, Any]) -> None:
    """Refuse a file that the policy names and that is not there, with the line that names it.

    Args:
        policy: What it says.
        given: What was said on the command line, which wins.

    Raises:
        CnnvizError: The first one.
    """
    # Not at the top: it brings NumPy and OpenCV, for which --help must not wait.
    from cnnviz.io.sources import is_url

    model = {f"model.{key}": policy.model.get(key) for key in ("checkpoint", "labels")}
    labels = None if policy.labels == "folder" else policy.labels
    classes = None if policy.truth_classes == "coco" else policy.truth_classes
    named: dict[str, Any] = {"labels": labels, "groups": policy.groups, "truth": policy.truth, "truth_classes": classes}
    for key, value in {"images": list(policy.images), **named, **model}.items():
        if key.removeprefix("model.") in given and key != "labels":
            continue
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, str) or is_url(path) or has_magic(path) or os.path.lexists(path):
                continue
            folder, base = os.path.split(path.rstrip("/"))
            there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else None
            words = {"labels": ["folder"], "truth_classes": ["coco"]}
            known = [*(there or ()), *words.get(key, [])]
            hint = nearest(base, known) or ("" if there is not None else f"The folder {folder} does not exist either.")
            raise CnnvizError(f"{policy.where(key)}: {key.rpartition('.')[2]}: {path} does not exist.", hint or _BESIDE)


def _options(policy: Policy, options: Mapping[str, Option]) -> tuple[dict[str, Any], dict[str, str]]:
    """Options of the command that the policy gives, by field name, and where each stands in its file.

    Raises:
        CnnvizError: One that a policy cannot give, with near matches; or a value of the wrong type.
    """
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    known = {name: option for name, option in options.items() if name not in _OUTSIDE}
    for within, values in (("options", policy.options), ("model", policy.model)):

        def where(key: str, within: str = within) -> str:
            name = "name" if (within, key) == ("model", "model") else key
            return policy.where(f"{within}.{name}", f"{within}.{name.replace('_', '-')}", within)

        for key in values:
            if key in _OUTSIDE:
                raise CnnvizError(f"{where(key)}: {key} is no option of a policy.", _OUTSIDE[key])
        own = from_config(values, known, where, _keys(known, within))
        keys = {key.replace("_", "-"): key for key in values}
        found |= own
        places |= {name: f"{where(key)}: {key}" for name in own if (key := keys[long_name(name)])}
    return found, places


def _keys(options: Mapping[str, Option], within: str) -> list[str]:
    """The keys of ``model`` or ``options`` of a policy, as it is told what they are."""
    panel = options["model"].panel
    own = [
        name for name, option in options.items() if name not in _OWN and (within != "model" or option.panel == panel)
    ]
    return [*(["name"] if within == "model" else []), *sorted(long_name(name).replace("-", "_") for name in own)]


def _asked(policy: Policy) -> dict[str, Any]:
    found: dict[str, Any] = {}
    classes = [] if policy.labels is None else [policy.labels]
    if policy.target == "pred" or policy.labels is None:
        classes.append("pred")
    found["class_"] = classes
    if policy.target not in ("label", "pred"):
        found["target_"] = [policy.target]
    if policy.truth is not None:
        found["truth"] = policy.truth
    if policy.truth_classes is not None:
        found["truth_classes"] = policy.truth_classes
    return found


def _with_raw(save: str | Sequence[str] | None) -> str:
    """What is to be saved, and the maps themselves, which a check reads: without them it has nothing to compare."""
    text = "overlay" if save is None else save if isinstance(save, str) else ",".join(save)
    kinds = [kind for each in text.split(",") if (kind := each.strip()) not in ("", "none", "raw")]
    return ",".join([*kinds, "raw"])
