"""The JSON Schema of a policy, made of the register's checks: for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from cnnviz.audit.policy import ONLY, TRUTH_LABELS, VERSION
from cnnviz.audit.policy_checks import LEVELS, SCOPES
from cnnviz.registry.checks import CheckSpec
from cnnviz.registry.lookup import all_checks
from cnnviz.registry.params import Param

_ID = "https://cnnviz.dev/schema/policy/1"
_TEXT = {"type": "string"}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
_REGION = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 4, "maxItems": 4}
_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}


def policy_schema() -> dict[str, Any]:
    """The schema (draft 2020-12)."""
    properties: dict[str, Any] = {
        "version": {"const": VERSION},
        "model": {"anyOf": [_TEXT, {"type": "object"}], "description": "Options of the model by their long names."},
        "images": {**_TEXTS, "description": "Folder, list or pattern, relative to the policy."},
        "labels": {**_TEXT, "description": "folder, a table (path, label), or none."},
        "groups": {**_TEXT, "description": "A table: path, group."},
        "truth": {**_TEXT, "description": "COCO JSON, a VOC folder, a folder of masks."},
        "truth_classes": {**_TEXT, "description": "What the labels of the truth mean: a file, or coco."},
        "truth_labels": {
            "enum": list(TRUTH_LABELS),
            "description": "Where the class is marked, all that is marked, or the box that a detector's box is of.",
        },
        "method": {**_TEXTS, "description": "Method, or methods."},
        "target": {**_TEXT, "description": "label, pred, or what --target takes."},
        "only": {"enum": list(ONLY), "description": "Which predictions are judged."},
        "false_alarm": {"type": "number", "minimum": 0, "maximum": 1},
        "min_images": {"type": "integer", "minimum": 1},
        "options": {"type": "object", "description": "Further options of the command by their long names."},
        "checks": {"type": "array", "minItems": 1, "items": {"oneOf": [_check(spec) for spec in all_checks()]}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID,
        "title": "A policy of cnnviz audit",
        "type": "object",
        "required": ["version", "images", "checks"],
        "properties": properties,
        "additionalProperties": False,
    }


def _check(spec: CheckSpec) -> dict[str, Any]:
    own = {param.name: {**_value(param), "description": param.help} for param in spec.params}
    return {
        "type": "object",
        "description": spec.summary,
        "required": ["kind"],
        "properties": {
            "kind": {"const": spec.name},
            "name": _TEXT,
            "level": {"enum": list(LEVELS)},
            "scope": {"enum": [*SCOPES, "worst_group"]},
            **own,
        },
        "additionalProperties": False,
    }


def _value(param: Param) -> dict[str, Any]:
    if param.choices:
        return {"enum": list(param.choices)}
    if param.type == "texts":
        return {"type": "array", "items": _TEXT}
    if param.name in ("region", "replace"):
        return {"anyOf": [_TEXT, _REGION]}
    kind = _TYPES.get(param.type, "string")
    found: dict[str, Any] = {"type": kind if param.default is not None else [kind, "null"]}
    if param.minimum is not None:
        found["minimum"] = param.minimum
    if param.maximum is not None:
        found["maximum"] = param.maximum
    return found
