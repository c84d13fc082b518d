"""What became of a check, as a row of the report and of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnviz.audit.policy_checks import PolicyCheck
from cnnviz.audit.verdict import Result, Statement
from cnnviz.report import audit_words

_WORST = 20


@dataclass(frozen=True, eq=False)
class CheckResult:
    """One statement of a check, decided.

    Attributes:
        check: What the policy says.
        method: Whose maps were judged; empty where none were.
        result: The verdict.
        trusted: Whether the method is trusted on this network.
        confirmed: Of a violation of ``avoid``: how many predictions flip without the region.
    """

    check: PolicyCheck
    method: str
    result: Result
    trusted: bool = True
    confirmed: Mapping[str, Any] | None = None


def row_of(each: CheckResult) -> dict[str, Any]:
    """As the report has it."""
    result, statement = each.result, each.result.statement
    worst = result.worst
    passed = {"passed": True, "violated": False}.get(result.verdict)
    return {
        "name": each.check.name,
        "kind": each.check.spec.name,
        "method": each.method or None,
        "level": each.check.level,
        "scope": each.check.scope,
        "line": each.check.line,
        "verdict": result.verdict,
        "passed": passed,
        "reason": result.reason,
        "statement": statement.name,
        "at_least": statement.at_least,
        "allowed": statement.allowed,
        "measured": None if worst is None else worst.measured,
        "ci95": None if worst is None or worst.ci95 is None else list(worst.ci95),
        "n": 0 if worst is None else worst.n,
        "p": None if worst is None else worst.p,
        "group": None if worst is None or not worst.group else worst.group,
        "groups": len(result.groups),
        "violations": _listed(result.violations[:_WORST], statement),
        "beyond": len(result.violations),
        "beyond_images": _listed(result.violations, statement) if result.verdict == "violated" else [],
        "trusted": each.trusted,
        "confirmed": None if each.confirmed is None else dict(each.confirmed),
    }


def _listed(images: Sequence[tuple[str, float]], statement: Statement) -> list[dict[str, Any]]:
    notes = {each.image: each.note for each in statement.observations if each.note}
    return [
        {"path": path, "value": round(value, 6), **({"note": notes[path]} if path in notes else {})}
        for path, value in images
    ]


def audit_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of text, with the worst images of what is violated, and why others are not decided."""
    heads = ("check", "method", "verdict", "measured", "allowed", "images")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(each[place]) for each in cells) for place in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)).rstrip() for each in cells]
    found = [lines[0]]
    for place, (line, row) in enumerate(zip(lines[1:], rows, strict=True), 1):
        found.append(line)
        # Of statements of a check that are not decided for one reason it stands below the last.
        if row["reason"] and (place == len(rows) or _why(rows[place]) != _why(row)):
            found.append(f"    {row['reason']}")
        if row["verdict"] == "violated":
            found += [f"    {audit_words.of_image(each)}" for each in row["violations"][:3]]
            if row["confirmed"]:
                found.append(f"    {audit_words.confirmation(row['confirmed'])}")
    return found


def _why(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["name"], row["reason"]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = {"passed": "passed", "violated": "VIOLATED", "not decided": "NOT DECIDED"}[row["verdict"]]
    if row["level"] == "warning" and row["verdict"] != "passed":
        verdict = "warning" if row["verdict"] == "violated" else f"{verdict} (warning)"
    return (
        audit_words.name(row),
        row["method"] or "",
        verdict,
        audit_words.measured(row) or "-",
        audit_words.allowed(row),
        str(row["n"]),
    )
