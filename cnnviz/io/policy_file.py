"""A YAML file whose entries know their lines."""

from __future__ import annotations

import os
from typing import Any

import yaml

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.structured import load_yaml

_BEGIN = "cnnviz audit --init writes one to begin with."
_FIRST = "The first word after audit is a YAML file, images come after it."
_SUFFIXES = (".yaml", ".yml")


def read_policy(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a file, and the lines of its keys and of the items of its ``checks``, from 1.

    Raises:
        CnnvizError: The file cannot be read, or holds no mapping.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        reason = error.strerror or error
        hint = _BEGIN if not os.path.isdir(path) else f"{_FIRST} {_BEGIN}"
        raise CnnvizError(f"policy {path}: cannot be read ({reason}).", hint) from error
    try:
        text = data.decode("utf-8-sig")
        values = load_yaml(text)
    except UnicodeDecodeError as error:
        if b"\0" in data or not path.casefold().endswith(_SUFFIXES):
            said = f"policy {path}: expected a YAML file, which is a text; this is none."
            raise CnnvizError(said, f"{_FIRST} {_BEGIN}") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise CnnvizError(f"policy {path}, line {line}: not in UTF-8.", "Save the file as UTF-8.") from error
    except ValueError as error:
        raise CnnvizError(f"policy {path}: not valid YAML: {error}.", _why(path)) from error
    if not isinstance(values, dict):
        kind = "nothing" if values is None else "a list" if isinstance(values, list) else shown(values)
        raise CnnvizError(f"policy {path}: expected keys with values, got {kind}.", _BEGIN)
    for key in values:
        if not isinstance(key, str):
            said = f"expected keys that are words, got {shown(key)}."
            raise CnnvizError(f"policy {path}: {said}", f"Write a key in quotes where it is one. {_BEGIN}")
    return values, _keys(yaml.compose(text, Loader=yaml.SafeLoader))


def _why(path: str) -> str:
    """What to do about a text that is no YAML."""
    if not path.casefold().endswith(_SUFFIXES):
        return f"{_FIRST} {_BEGIN}"
    return f"One key a line, such as 'labels: folder'; indent with spaces, quote text that has a colon. {_BEGIN}"


def _keys(root: Any) -> dict[str, int]:
    """By key; what stands within another mapping as ``KEY.KEY``, within a list by its number, from 0."""
    found = {}
    for key, value in root.value:
        found[str(key.value)] = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            found |= {f"{key.value}.{name}": line for name, line in _own(value)}
        elif isinstance(value, yaml.SequenceNode):
            for place, item in enumerate(value.value):
                found[f"{key.value}.{place}"] = item.start_mark.line + 1
                if isinstance(item, yaml.MappingNode):
                    found |= {f"{key.value}.{place}.{name}": line for name, line in _own(item)}
    return found


def _own(node: Any) -> list[tuple[str, int]]:
    return [(str(key.value), key.start_mark.line + 1) for key, _ in node.value]


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
