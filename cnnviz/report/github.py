"""An audit as annotations of GitHub's workflows: one line each, the worst first, ten a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnviz.report import audit_words

_MOST = 10


def workflow_lines(policy: str, rows: Sequence[Mapping[str, Any]], *, strict: bool = False) -> list[str]:
    """Workflow commands for what is violated, and for what is not decided.

    Args:
        policy: Its file.
        rows: ``summary.audit.checks`` of the report.
        strict: Whether what is not decided fails: it is an error then, not a notice.
    """
    violated = sorted(
        (row for row in rows if row["verdict"] == "violated"),
        key=lambda row: (row["level"] != "error", -abs((row["measured"] or 0.0) - row["allowed"])),
    )
    undecided = [row for row in rows if row["verdict"] == "not decided"]
    lines = []
    for row in violated:
        text = audit_words.sentence(row)
        worst = "\n".join(map(audit_words.of_image, row["violations"][:3]))
        lines.append(_line(row["level"], policy, row["line"], f"{text}\n{worst}" if worst else text))
    for row in undecided:
        level = "error" if audit_words.fails(row, strict=strict) else "notice"
        lines.append(_line(level, policy, row["line"], audit_words.sentence(row)))
    return lines[:_MOST]


def _line(level: str, policy: str, line: int, text: str) -> str:
    return f"::{level} file={_property(policy)},line={max(1, line)},title=cnnviz audit::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
