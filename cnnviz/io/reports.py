"""Reports of earlier runs, and the JSON Schema of all reports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from cnnviz.errors import CnnvizError

if TYPE_CHECKING:
    from cnnviz.schema.report import AnyReport

_REPORT = "report.json"
_SCHEMA = "report.schema.json"
# How the images of a report begin, which stand at its end, a line for each; of none the list ends there.
_IMAGES = b'  "images": ['


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``report.json``; its ``$id`` has the version of the format.

    The lines of ``records.jsonl`` are the report's ``images``.
    """
    text = resources.files("cnnviz.schema").joinpath(_SCHEMA).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def without_images(lines: Iterable[bytes]) -> bytes:
    """The text of a report but its images, which are not read; of a run that has none, with the empty list of them.

    Args:
        lines: Of ``report.json``. What another program wrote is read to its end, and is as it was.
    """
    head: list[bytes] = []
    for line in lines:
        if line.rstrip() == _IMAGES:
            return b"".join(head).rstrip().rstrip(b",") + b"\n}"
        head.append(line)
    return b"".join(head)


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
