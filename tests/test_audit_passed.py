"""What a report says of an audit as a whole: what is not decided has not passed, though it fails nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests import test_audit
from tests.test_audit import _audit as audited
from tests.test_audit import _policy as policy_of

tanks = test_audit.photos


def _together(report: dict[str, Any]) -> tuple[bool, str, bool]:
    audit = report["summary"]["audit"]
    return audit["passed"], audit["verdict"], audit["strict"]


def test_few_images_decide_nothing_and_strict_fails(tanks: Path, tmp_path: Path) -> None:
    path = policy_of(tanks, "balanced", "  - {kind: accuracy, min: 0.9}", name="few.yaml")
    code, report = audited(path, tmp_path / "a", "--limit", "4")
    assert "## Attention audit: not decided" in (tmp_path / "a" / "summary.md").read_text("utf-8")
    assert "<h2>Audit: not decided</h2>" in (tmp_path / "a" / "index.html").read_text("utf-8")
    [row] = report["summary"]["audit"]["checks"]
    assert (code, row["verdict"], row["passed"]) == (0, "not decided", None)
    assert _together(report) == (False, "not decided", False)
    code, report = audited(path, tmp_path / "b", "--limit", "4", "--strict")
    assert (code, _together(report)) == (1, (False, "not decided", True))
    assert "## Attention audit: NOT DECIDED (--strict)" in (tmp_path / "b" / "summary.md").read_text("utf-8")


def test_warnings_alone_pass_where_one_of_them_was_decided(tanks: Path, tmp_path: Path) -> None:
    path = policy_of(tanks, "balanced", "  - {kind: accuracy, min: 0.9, level: warning}", name="warning.yaml")
    code, report = audited(path, tmp_path / "a", "--limit", "4")
    assert (code, _together(report)) == (0, (False, "not decided", False))
    assert "## Attention audit: not decided" in (tmp_path / "a" / "summary.md").read_text("utf-8")
    code, report = audited(path, tmp_path / "b")
    assert (code, _together(report)) == (0, (True, "passed", False))


def test_where_all_images_fail_nothing_passed(tanks: Path, tmp_path: Path) -> None:
    (tmp_path / "none" / "sun").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "none" / "sun" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path = policy_of(tanks, "balanced", "  - {kind: accuracy, min: 0.9}", name="failed.yaml")
    path.write_text(re.sub("(?m)^images: .*$", f"images: {tmp_path / 'none'}", path.read_text()))
    code, report = audited(path, tmp_path / "out")
    assert (code, _together(report)) == (3, (False, "not decided", False))


def test_what_passed_is_said_to_have_passed(tanks: Path, tmp_path: Path) -> None:
    code, report = audited(policy_of(tanks, "balanced", "  - {kind: accuracy, min: 0.9}", name="pass.yaml"), tmp_path)
    assert (code, _together(report)) == (0, (True, "passed", False))
