"""Reports of earlier runs, and the JSON Schema of all reports."""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from cnnviz.errors import CnnvizError

if TYPE_CHECKING:
    from cnnviz.schema.report import AnyReport

_REPORT = "report.json"
_SCHEMA = "report.schema.json"


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``report.json``; its ``$id`` has the version of the format.

    The lines of ``records.jsonl`` are the report's ``images``.
    """
    text = resources.files("cnnviz.schema").joinpath(_SCHEMA).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_report(path: str, flag: str) -> AnyReport:
    """The ``report.json`` at a path, or in the folder at a path.

    Args:
        path: File or folder.
        flag: The option that named it, for messages.

    Raises:
        CnnvizError: It cannot be read, or is no report.
    """
    file = os.path.join(path, _REPORT) if os.path.isdir(path) else path
    hint = "Give the output folder of an earlier run, or the report.json in it."
    try:
        with open(file, encoding="utf-8") as stream:
            report = json.load(stream)
    except (OSError, ValueError) as error:
        raise CnnvizError(f"{flag} {path}: no report can be read: {error}.", hint) from error
    if not isinstance(report, dict) or not str(report.get("schema", "")).startswith("cnnviz.report/"):
        raise CnnvizError(f"{flag} {path}: this is no report of cnnviz.", hint)
    return cast("AnyReport", report)
