"""The checks of an audit as a table of ``index.html``, with the worst images of what is violated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnviz.report import audit_words
from cnnviz.report.markup import text

_WORDS = {"passed": "✓ passed", "violated": "✗ VIOLATED", "not decided": "? not decided", "warning": "! warning"}
_SHOWN = 5


def checks_table(summary: Mapping[str, Any]) -> str:
    """The table of an audit's summary; empty for other runs."""
    audit = summary.get("audit")
    if not isinstance(audit, Mapping):
        return ""
    heads = ("check", "method", "verdict", "measured", "allowed", "images", "worst images")
    rows = "".join(_row(row) for row in audit["checks"])
    alarms = f"{100 * audit['false_alarm']:g} %"
    said = (
        f"Policy {audit['policy']}. At most {alarms} of policies that hold are called violated. "
        "What is not decided is never counted as passed."
    )
    notes = "".join(f'<p class="facts">{text(each)}</p>\n' for each in audit_words.notes(audit))
    columns = "".join(f'<th scope="col"{_kind(head)}>{head}</th>' for head in heads)
    return (
        '<article class="wide">\n<div class="text">\n'
        f"<h2>Audit: {audit_words.outcome(audit)}</h2>\n"
        f'<p class="facts">{text(said)}</p>\n<div class="scroll"><table>\n'
        f"<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table></div>\n{notes}</div>\n</article>\n"
    )


def _row(row: Mapping[str, Any]) -> str:
    verdict = audit_words.shown(row)
    shown = f'<strong class="{verdict.replace(" ", "-")}">{text(_WORDS[verdict])}</strong>'
    reason = f"<small>{text(row['reason'])}</small>" if row["reason"] else ""
    name = audit_words.name_on_page(row)
    cells = (
        text(row["method"] or ""),
        shown + reason,
        _measured(row),
        text(audit_words.allowed(row)),
        str(row["n"]),
        _worst(row),
    )
    *figures, worst = cells
    shown_cells = "".join(f"<td>{cell}</td>" for cell in figures)
    return f'<tr><th scope="row">{text(name)}</th>{shown_cells}<td class="worst">{worst}</td></tr>\n'


def _kind(head: str) -> str:
    return ' class="worst"' if head == "worst images" else ""


def _measured(row: Mapping[str, Any]) -> str:
    if row["measured"] is None:
        return ""
    group = "" if row["group"] is None else f" in {row['group']}"
    ends = "" if row["ci95"] is None else f"<small>{row['ci95'][0]:.3g} to {row['ci95'][1]:.3g}</small>"
    return f"{row['measured']:.3g}{text(group)}{ends}"


def _worst(row: Mapping[str, Any]) -> str:
    """The images that are furthest beyond what is allowed, where a check is violated."""
    if row["verdict"] != "violated":
        return ""
    images: Sequence[Mapping[str, Any]] = row["violations"][:_SHOWN]
    lines = [f"<b>{text(audit_words.found(each))}</b> {text(each['path'])}" for each in images]
    if row["beyond"] > len(images):
        lines.append(f"and {row['beyond'] - len(images)} more")
    if row["confirmed"]:
        lines.append(text(audit_words.confirmation(row["confirmed"])))
    return "<br>".join(lines)
