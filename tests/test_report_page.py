"""docs/report.md has the keys of the types in cnnviz/schema."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import cnnviz

ROOT = Path(__file__).parent.parent
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "schema.py"))
PAGE = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")


def test_the_tables_are_those_that_the_script_makes() -> None:
    assert SCRIPT["page_text"](PAGE) == PAGE, "run: python docs/schema.py"


def test_every_key_of_the_schema_is_explained() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| \S", PAGE, re.MULTILINE)
    last = {row.rpartition(".")[2] for row in rows}
    for name, definition in cnnviz.report_schema()["$defs"].items():
        assert set(definition["properties"]) <= last, name


def test_every_kind_of_report_has_a_table() -> None:
    kinds = {name for name in cnnviz.report_schema()["$defs"] if name.endswith("Report")} - {"OtherStudyReport"}
    assert kinds <= set(re.findall(r"\w+", " ".join(re.findall(r"<!-- keys of ([\w, ]+) \(", PAGE))))


def test_no_table_has_a_key_twice() -> None:
    for table in re.findall(r"<!-- keys of .*?<!-- end of keys -->", PAGE, re.DOTALL):
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", table, re.MULTILINE)
        assert len(rows) == len(set(rows)), table[:60]
