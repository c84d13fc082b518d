"""Runs that are continued, and what must be whole afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnnviz import pipeline
from cnnviz.settings import RuntimeSettings
from tests.support.runs import Quiet, files, report, settings

ONE = RuntimeSettings(batch_size=1, workers=1)


def again(inputs: Path | str, out: Path, reporter: Quiet | None = None, **parts: Any) -> list[dict[str, Any]]:
    """Continue the run in the folder; the records of its report."""
    pipeline.run(settings(inputs, out, output={"resume": True}, **parts), reporter or Quiet())
    rows: list[dict[str, Any]] = report(out)["images"]
    return rows


def overlays(rows: list[dict[str, Any]]) -> list[str]:
    return [each["files"]["overlay"] for row in rows for each in row["explanations"]]


def check_whole(out: Path) -> None:
    """Every picture belongs to one record and every record has its pictures; the lines are those of the report."""
    rows = report(out)["images"]
    listed = [name for row in rows for each in row["explanations"] for name in each["files"].values()]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(files(out))
    assert [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()] == rows
