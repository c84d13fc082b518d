"""``cnnviz audit``: what a policy asks, as options of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from glob import has_magic
from typing import Any

from cnnviz.audit.policy import STARTER, Policy, load_policy
from cnnviz.cli.options import Option
from cnnviz.cli.values import from_config, long_name
from cnnviz.errors import CnnvizError, nearest
from cnnviz.io.policy_file import write_new

_NEW = "policy.yaml"
_BESIDE = "Paths of a policy are relative to its file."


def with_policy(given: Mapping[str, Any], options: Mapping[str, Option]) -> tuple[dict[str, Any], dict[str, str]] | str:
    """What was said, over what the policy says, with the places in its file of the options that it gives; or, where a
    policy was to be begun, that it was.

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
    asked |= _asked(policy, asked, bool(given.get("accept")))
    rest = {key: value for key, value in given.items() if key != "inputs"}
    found = {**asked, **rest, "inputs": inputs or list(policy.images), "policy": str(named)}
    return found, {key: place for key, place in places.items() if key not in rest}


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
            known = [*(there or ()), *(["folder"] if key == "labels" else [])]
            hint = nearest(base, known) or ("" if there is not None else f"The folder {folder} does not exist either.")
            raise CnnvizError(f"{policy.where(key)}: {key.rpartition('.')[2]}: {path} does not exist.", hint or _BESIDE)


def _options(policy: Policy, options: Mapping[str, Option]) -> tuple[dict[str, Any], dict[str, str]]:
    """Options of the command that the policy gives, by field name, and where each stands in its file."""
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    for within, values in (("options", policy.options), ("model", policy.model)):

        def where(key: str, within: str = within) -> str:
            name = "name" if (within, key) == ("model", "model") else key
            return policy.where(f"{within}.{name}", f"{within}.{name.replace('_', '-')}", within)

        own, keys = from_config(values, options, where), {key.replace("_", "-"): key for key in values}
        found |= own
        places |= {name: f"{where(key)}: {key}" for name in own if (key := keys[long_name(name)])}
    return found, places


def _asked(policy: Policy, options: Mapping[str, Any], accepts: bool) -> dict[str, Any]:
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
    if "save" not in options and (accepts or any(check.spec.keeps_maps for check in policy.checks)):
        found["save"] = "overlay,raw"
    return found
