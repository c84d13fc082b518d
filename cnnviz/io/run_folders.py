"""Output folders of finished or interrupted runs, read again: their report, and their records one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.reports import without_images
from cnnviz.io.sources import is_url
from cnnviz.strict_json import from_json

RECORDS, REPORT = "records.jsonl", "report.json"
_HINT = "Give the output folder of a run, such as cnnviz-out/gradcam."


def runs_beside(folder: str) -> list[str]:
    """Names of the folders beside one on this machine that hold the report of a run."""
    if is_url(folder):
        return []
    path = os.path.realpath(folder)
    parent = os.path.dirname(path)
    with os.scandir(parent) as found:
        others = [each.name for each in found if each.is_dir() and each.name != os.path.basename(path)]
    return sorted(name for name in others if os.path.isfile(os.path.join(parent, name, REPORT)))


class RunFolderReader:
    """The output folder of a run.

    Args:
        folder: Its path.

    Raises:
        CnnvizError: The path is a URL, or does not lead to the output folder of a run.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        if is_url(folder):
            raise CnnvizError(f"DIR {shown(folder)} is not a folder on this machine.", "Copy it here first.")
        if not os.path.isdir(folder):
            raise CnnvizError(f"DIR {shown(folder)} is not a folder.", _HINT)
        self.report = self._head()

    def _head(self) -> Mapping[str, Any]:
        """The report but its images: of one that we wrote, without reading them."""
        path = os.path.join(self.folder, REPORT)
        try:
            with open(path, "rb") as stream:
                report = json.loads(without_images(stream))
        except (OSError, ValueError) as error:
            raise CnnvizError(f"DIR {shown(self.folder)}: no {REPORT} can be read there: {error}.", _HINT) from error
        if not isinstance(report, dict) or not str(report.get("schema", "")).startswith("cnnviz.report/"):
            raise CnnvizError(f"DIR {shown(self.folder)}: its {REPORT} is none of cnnviz.", _HINT)
        return report

    def records(self) -> Iterator[Mapping[str, Any]]:
        """The records in their order; of a run that goes on those that are there. A line that is cut off ends them."""
        try:
            with open(os.path.join(self.folder, RECORDS), encoding="utf-8") as stream:
                for line in stream:
                    try:
                        record = from_json(line)
                    except ValueError:
                        continue
                    if isinstance(record, dict) and isinstance(record.get("path"), str):
                        yield record
        except FileNotFoundError:
            return

    def input(self, path: str) -> str:
        """The path of an input, from where it was named: a relative one is that of the folder in which the run began.

        That folder is known where ``--out`` was relative too, as long as the run lies where it was written.
        """
        out = os.path.normpath(str((self.report.get("options") or {}).get("out") or os.curdir))
        folder = os.path.realpath(self.folder)
        if is_url(path) or os.path.isabs(path) or os.path.isabs(out) or not folder.endswith(os.sep + out):
            return path
        began = os.path.join(folder[: -len(out)], path)
        return began if os.path.lexists(began) else path

    def file(self, name: str) -> str | None:
        """The path of a file that a record lists; None where there is none, or it would lie outside the folder."""
        root = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(root, name))
        inside = path.startswith(root.rstrip(os.sep) + os.sep)
        return path if inside and os.path.isfile(path) else None
