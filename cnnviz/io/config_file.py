"""Configuration files: any option of a command by its long name."""

from __future__ import annotations

from typing import Any

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.structured import load_yaml


def read_config(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        CnnvizError: The file cannot be read, is not YAML, or holds something else than a mapping with text keys.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            data = load_yaml(stream.read())
    except OSError as error:
        raise CnnvizError(
            f"--config {path}: the file cannot be read ({error.strerror or error}).",
            "Name a YAML file, for example --config configs/fast-preview.yaml",
        ) from error
    except ValueError as error:  # also text that is not UTF-8, and dates such as 2024-13-45
        raise CnnvizError(
            f"--config {path}: not valid YAML: {getattr(error, 'reason', error)}.",
            "One option a line, such as 'alpha: 0.4'; indent with spaces, quote text that has a colon.",
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise CnnvizError(
            f"--config {path}: expected options with their values, got {_kind(data)}.",
            "One option a line, such as 'alpha: 0.4'.",
        )
    return data


def _kind(data: Any) -> str:
    if isinstance(data, dict):
        odd = next(key for key in data if not isinstance(key, str))
        return f"the key {shown(odd)}, which YAML reads as {type(odd).__name__}"
    return "a list" if isinstance(data, list) else f"the single value {shown(data)}"
