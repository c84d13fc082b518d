"""Configuration files: any option of a command by its long name."""

from __future__ import annotations

from typing import Any

from cnnviz.errors import CnnvizError


def read_config(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        CnnvizError: The file cannot be read, is no YAML, or holds something else than a mapping with text keys.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as stream:
            data = yaml.safe_load(stream)
    except OSError as error:
        raise CnnvizError(
            f"--config {path}: the file cannot be read ({error.strerror or error}).",
            "Name a YAML file, for example --config configs/fast-preview.yaml",
        ) from error
    # ValueError: text that is no UTF-8, and dates such as 2024-13-45. RecursionError: brackets without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise CnnvizError(
            f"--config {path}: not valid YAML{where}: {problem}.",
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
        return f"the key {odd!r}, which YAML reads as {type(odd).__name__}"
    return "a list" if isinstance(data, list) else f"the single value {data!r:.40}"
