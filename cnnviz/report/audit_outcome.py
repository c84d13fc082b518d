"""What an audit came to, in a word or two, wherever it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def audit_outcome(audit: Mapping[str, Any]) -> str:
    """``failed``, ``passed``, or how much of it is not decided: an audit that decided nothing did not pass.

    Args:
        audit: ``summary.audit`` of the report.
    """
    if not audit["passed"]:
        return "failed"
    binding, undecided = sum(row["level"] == "error" for row in audit["checks"]), audit["undecided"]
    if not undecided:
        return "passed"
    if undecided == binding:
        return "not decided"
    return f"nothing violated, {undecided} of {binding} not decided"
