"""A YAML file whose entries know their lines."""

from __future__ import annotations

import os
from typing import Any

import yaml

from cnnviz.errors import CnnvizError
from cnnviz.io.structured import load_yaml

_BEGIN = "cnnviz audit --init writes one to begin with."


def read_policy(path: str) -> tuple[dict[str, Any], list[int], dict[str, int]]:
    """The mapping in a file, the line of each item of its ``checks``, and those of its keys, from 1.

    Raises:
        CnnvizError: The file cannot be read, or holds no mapping.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        data = load_yaml(text)
    except OSError as error:
        reason = error.strerror or error
        hint = _BEGIN if not os.path.isdir(path) else f"The first word is a YAML file, images come after it. {_BEGIN}"
        raise CnnvizError(f"policy {path}: cannot be read ({reason}).", hint) from error
    except ValueError as error:
        raise CnnvizError(f"policy {path}: not valid YAML: {getattr(error, 'reason', error)}.") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise CnnvizError(f"policy {path}: expected keys with values.", _BEGIN)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return data, _lines(root), _keys(root)


def _keys(root: Any) -> dict[str, int]:
    """By key; what stands within another mapping as ``KEY.KEY``."""
    found = {}
    for key, value in root.value:
        found[str(key.value)] = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            found |= {f"{key.value}.{own.value}": own.start_mark.line + 1 for own, _ in value.value}
    return found


def _lines(root: Any) -> list[int]:
    for key, value in root.value:
        if key.value == "checks" and isinstance(value, yaml.SequenceNode):
            return [item.start_mark.line + 1 for item in value.value]
    return []


def write_new(path: str, text: str) -> None:
    """Write a file that does not exist yet.

    Raises:
        CnnvizError: There is one, or it cannot be written.
    """
    try:
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise CnnvizError(f"{path} exists.", "Name another file: cnnviz audit --init other.yaml") from error
    except OSError as error:
        raise CnnvizError(f"{path} cannot be written ({error.strerror or error}).", "Name another file.") from error
