"""What an audit came to, and what its checks measured, in the words of every place where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# How many of the images that failed are told one by one.
_FAILED = 10


def outcome(audit: Mapping[str, Any]) -> str:
    """``VIOLATED``, ``passed``, or how much of it is not decided, with how many images failed.

    What is not decided has not passed. Only images fail: what an audit finds is violated.

    Args:
        audit: ``summary.audit`` of the report.
    """
    count = len(audit.get("failed") or ())
    return _of_checks(audit) + (f", {count} {'image' if count == 1 else 'images'} failed" if count else "")


def shown(row: Mapping[str, Any]) -> str:
    """The verdict as tables show it: what is violated and fails nothing is a warning."""
    return "warning" if row["level"] == "warning" and row["verdict"] == "violated" else str(row["verdict"])


def notes(audit: Mapping[str, Any]) -> list[str]:
    """What failed, the first of many, and what was left out, a line each."""
    every = audit.get("failed") or ()
    failed = [f"failed: {each['path']}: {each['error']}" for each in every[:_FAILED]]
    more = [f"{len(every) - _FAILED} more failed; report.json has each"] * (len(every) > _FAILED)
    return [*failed, *more, *(audit.get("remarks") or ())]


def _of_checks(audit: Mapping[str, Any]) -> str:
    binding, undecided = [row for row in audit["checks"] if row["level"] == "error"], audit["undecided"]
    violated = any(row["verdict"] == "violated" for row in binding)
    # Earlier versions wrote whether the audit failed, and nothing of strictness.
    if violated or ("strict" not in audit and not audit["passed"]):
        return "VIOLATED"
    if audit.get("strict") and undecided:
        return "NOT DECIDED (--strict)"
    if not undecided and audit.get("verdict", "passed") == "passed":
        return "passed"
    return (
        "not decided" if undecided == len(binding) else f"nothing violated, {undecided} of {len(binding)} not decided"
    )


def fails(row: Mapping[str, Any], *, strict: bool) -> bool:
    """Whether a check makes the audit fail: violated, or, with ``--strict``, not decided; of level error."""
    return row["level"] == "error" and (row["verdict"] == "violated" or (strict and row["verdict"] == "not decided"))


def measured(row: Mapping[str, Any]) -> str:
    """What was measured, with its interval, and in which group; empty where nothing was."""
    if row["measured"] is None:
        return ""
    interval = "" if row["ci95"] is None else f" ({row['ci95'][0]:.3g} to {row['ci95'][1]:.3g})"
    group = "" if row["group"] is None else f" in {row['group']}"
    return f"{row['measured']:.3g}{interval}{group}"


def allowed(row: Mapping[str, Any]) -> str:
    """What was allowed."""
    return f"{'at least' if row['at_least'] else 'at most'} {row['allowed']:g}"


def name(row: Mapping[str, Any]) -> str:
    """What a statement is called: that of its check, and what is measured, where that is not the same word."""
    return str(row["name"]) if row["name"] == row["statement"] else f"{row['name']}: {row['statement']}"


def name_on_page(row: Mapping[str, Any]) -> str:
    """The same without underscores in what is measured; those of the check's own name are somebody's."""
    own = str(row["name"])
    return own + name(row).removeprefix(own).replace("_", " ")


def title(row: Mapping[str, Any]) -> str:
    """What a statement is called, with the method whose maps are judged."""
    return name(row) + (f" [{row['method']}]" if row["method"] else "")


def finding(row: Mapping[str, Any]) -> str:
    """What was measured beside what was allowed, in which group, and why it is not decided where it is not."""
    return _found(row, f"{row['statement']} ")


def sentence(row: Mapping[str, Any]) -> str:
    """The same behind what the statement is called, which says what was measured."""
    return f"{title(row)}: {_found(row, '')}"


def _found(row: Mapping[str, Any], what: str) -> str:
    known = row["measured"] is not None
    group = f" in {row['group']}" if row["group"] else ""
    beside = f"{what}{row['measured']:.4g}{group}, allowed {allowed(row)}" if known else ""
    if row["verdict"] != "not decided":
        return beside
    return f"not decided: {row['reason']}" + (f" ({beside})" if known else "")


def of_image(image: Mapping[str, Any]) -> str:
    """What a check found of an image that is beyond what it allows: of a prediction from which class to which, of all
    else the value."""
    return f"{image['path']}: {found(image)}"


def found(image: Mapping[str, Any], digits: int = 3) -> str:
    """The same without the path."""
    return str(image.get("note") or f"{image['value']:.{digits}g}")


_REPLACED = {"blur": "blurred (its mean colours stay)", "shuffle": "replaced by that of another picture"}


def confirmation(found: Mapping[str, Any]) -> str:
    """What became of predictions of the worst images of a violated ``avoid`` when the region was replaced.

    Args:
        found: ``confirmed`` of the check.
    """
    how = _REPLACED.get(found["fill"], f"filled by {found['fill']}")
    flips, of = found["flips"], found["of"]
    if of == 1:
        said = "the worst image " + ("gets another prediction" if flips else "keeps its prediction")
    elif flips:
        said = f"{flips} of the {of} worst images {'gets' if flips == 1 else 'get'} another prediction"
    else:
        said = f"none of the {of} worst images gets another prediction"
    said = f"with the region {how}, {said}{', which a control does not bring about' if flips else ''}"
    if flips or not of:
        return said
    return (
        f"{said}: the maps lie on the region, and whether predictions hang on it is not shown by this; how far "
        "probabilities fall over all images is what a counterfactual check measures (max_drop)"
    )
