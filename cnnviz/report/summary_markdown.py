"""An audit as Markdown, for the summary of a CI step or a comment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnviz.report import audit_words

# GitHub drops a step summary of more than a mebibyte whole.
_MOST = 900_000
_SIGNS = {"passed": "passed", "violated": "**VIOLATED**", "warning": "warning", "not decided": "not decided"}


def summary_markdown(audit: Mapping[str, Any]) -> bytes:
    """The document.

    Args:
        audit: ``summary.audit`` of the report.
    """
    rows: Sequence[Mapping[str, Any]] = audit["checks"]
    lines = [
        f"## Attention audit: {audit_words.outcome(audit)}",
        "",
        f"Policy `{_cell(audit['policy'])}`",
        "",
        "| check | method | verdict | measured | allowed | images |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            audit_words.name(row),
            row["method"] or "",
            _SIGNS[audit_words.shown(row)],
            audit_words.measured(row),
            audit_words.allowed(row),
            row["n"],
        ]
        lines.append(f"| {' | '.join(_cell(str(cell)) for cell in cells)} |")
    for row in rows:
        if row["verdict"] == "violated" and row["violations"]:
            lines += ["", f"### {_cell(audit_words.title(row))}", ""]
            lines += [f"- `{_cell(each['path'])}`: {_cell(audit_words.found(each))}" for each in row["violations"]]
            if row["confirmed"]:
                lines += ["", f"{_cell(audit_words.confirmation(row['confirmed']))}."]
        elif row["verdict"] == "not decided":
            lines += ["", _cell(audit_words.sentence(row))]
    if notes := audit_words.notes(audit):
        lines += ["", *(f"- {_cell(each)}" for each in notes)]
    text = "\n".join(lines) + "\n"
    data = text.encode("utf-8", "replace")
    return data if len(data) <= _MOST else data[:_MOST] + b"\n\n(cut)\n"


def _cell(text: str) -> str:
    """A text that neither ends a cell nor becomes markup."""
    plain = " ".join(text.split())
    return plain.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
