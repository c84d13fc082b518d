"""What the checks of a policy are called, and by what other programs know them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnnviz.audit.policy import load_policy
from cnnviz.audit.policy_checks import PolicyCheck
from cnnviz.audit.results import audit_table
from cnnviz.report.sarif import sarif

ROW = {
    "kind": "inside", "statement": "energy", "method": "gradcam", "verdict": "violated", "level": "error",
    "measured": 0.2, "at_least": True, "allowed": 0.5, "group": None, "line": 3, "violations": [], "reason": "",
}  # fmt: skip


def _checks(path: Path, checks: str) -> tuple[PolicyCheck, ...]:
    path.write_text(f"version: 1\nimages: a\nlabels: folder\ntruth: t.json\nchecks:\n{checks}")
    return load_policy(str(path)).checks


def test_checks_that_differ_in_limits_alone_are_called_by_them(tmp_path: Path) -> None:
    checks = """\
  - {kind: inside, min_energy: 0.5}
  - {kind: inside, min_energy: 0.25}
  - {kind: inside, min_energy: 0.5, min_pointing: 0.8}
  - {kind: avoid}
  - {kind: avoid, max_energy: 0.2}
  - {kind: avoid, max_energy: 0.2, region: [0, 0, 1, 0.5]}
  - {kind: faithful, by: 0.1}
  - {kind: faithful, by: 0.2}
  - {kind: sane}
  - {kind: sane}
"""
    found = _checks(tmp_path / "p.yaml", checks)
    assert [check.name for check in found] == [
        "inside (min_energy 0.5)", "inside (min_energy 0.25)", "inside (min_energy 0.5, min_pointing 0.8)",
        "avoid (region background, max_energy 0.5)", "avoid (region background, max_energy 0.2)",
        "avoid (region 0,0,1,0.5)", "faithful (by 0.1)", "faithful (by 0.2)", "sane", "sane (2)",
    ]  # fmt: skip
    assert [check.key for check in found] == [
        "inside", "inside (2)", "inside (3)", "avoid (region background)", "avoid (region background) (2)",
        "avoid (region 0,0,1,0.5)", "faithful", "faithful (2)", "sane", "sane (2)",
    ]  # fmt: skip


def test_a_finding_is_known_again_when_a_limit_is_changed(tmp_path: Path) -> None:
    def results(second: float) -> list[dict[str, Any]]:
        checks = f"  - {{kind: inside, min_energy: 0.5}}\n  - {{kind: inside, min_energy: {second}}}\n"
        found = _checks(tmp_path / "p.yaml", checks)
        rows = [{**ROW, "name": check.name} for check in found]
        keys = {check.name: check.key for check in found}
        made: list[dict[str, Any]] = json.loads(sarif("p.yaml", rows, keys))["runs"][0]["results"]
        return made

    before, after = results(0.7), results(0.8)
    assert [each["ruleId"] for each in before] == ["inside (min_energy 0.5)", "inside (min_energy 0.7)"]
    assert after[1]["ruleId"] == "inside (min_energy 0.8)"
    prints = [[each["partialFingerprints"]["check/v1"] for each in some] for some in (before, after)]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 2
    # As these were before limits were told: of the name with a number.
    numbered = [{**ROW, "name": name} for name in ("inside", "inside (2)")]
    old = json.loads(sarif("p.yaml", numbered))["runs"][0]["results"]
    assert [each["partialFingerprints"]["check/v1"] for each in old] == prints[0]


def test_a_reason_of_several_statements_stands_once_in_the_table() -> None:
    row = {**ROW, "verdict": "not decided", "ci95": None, "n": 0, "measured": None, "confirmed": None}
    rows = [
        {**row, "name": name, "method": method, "statement": statement, "reason": reason}
        for name, method, statement, reason in (
            ("a", "cam", "energy", "hidden"), ("a", "cam", "pointing", "hidden"), ("a", "gradcam", "energy", "hidden"),
            ("a", "gradcam", "pointing", "few"), ("b", "cam", "energy", "few"),
        )
    ]  # fmt: skip
    found = [line.strip().partition("  ")[0] for line in audit_table(rows)[1:]]
    assert found == ["a: energy", "a: pointing", "a: energy", "hidden", "a: pointing", "few", "b: energy", "few"]
