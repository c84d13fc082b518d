"""What an audit says of a check in each of its files: what was measured once, and predictions by their classes."""

from __future__ import annotations

import json

from cnnviz.audit.results import audit_table
from cnnviz.report.checks_table import checks_table
from cnnviz.report.github import workflow_lines
from cnnviz.report.junit import junit
from cnnviz.report.rows import checks_of
from cnnviz.report.sarif import sarif
from cnnviz.report.summary_markdown import summary_markdown
from tests.test_audit_told import ROW


def test_a_check_that_is_called_by_what_it_measures_says_it_once() -> None:
    """GitHub had "accuracy: accuracy: accuracy 0.25"; a prediction is told by its classes, not by 0 or 1."""
    worst = {"path": "x.png", "value": 0.0, "note": "cat predicted as dog"}
    row = {**ROW, "name": "accuracy", "statement": "accuracy", "verdict": "violated", "measured": 0.25}
    row["violations"] = row["beyond_images"] = [worst]
    row |= {"beyond": 1}
    told = "accuracy: 0.25, allowed at least 0.9"
    assert workflow_lines("p.yaml", [row]) == [
        f"::error file=p.yaml,line=3,title=cnnviz audit::{told}%0Ax.png: cat predicted as dog"
    ]
    result = json.loads(sarif("p.yaml", [row]))["runs"][0]["results"][0]
    assert result["message"]["text"] == told
    assert result["relatedLocations"][0]["message"]["text"] == "cat predicted as dog"
    audit = {"passed": False, "policy": "p", "undecided": 0, "checks": [row], "false_alarm": 0.05}
    text = summary_markdown(audit).decode()
    assert "| accuracy |  | **VIOLATED** | 0.25 | at least 0.9 | 0 |" in text
    assert "### accuracy\n\n- `x.png`: cat predicted as dog\n" in text
    document = junit("p.yaml", [row]).decode()
    assert 'name="accuracy"' in document
    assert 'message="accuracy 0.25, allowed at least 0.9"' in document
    assert ">x.png: cat predicted as dog</failure>" in document
    page = checks_table({"audit": audit})
    assert '<th scope="row">accuracy</th>' in page
    assert "<b>cat predicted as dog</b> x.png" in page
    assert checks_of({"audit": audit}).beyond == {"x.png": [(0, 0, "cat predicted as dog")]}
    assert audit_table([row])[1:] == [
        "accuracy          VIOLATED  0.25      at least 0.9  0",
        "    few",
        "    x.png: cat predicted as dog",
    ]


def test_the_name_of_a_check_stands_on_the_page_as_it_was_given() -> None:
    row = {**ROW, "name": "no_sky", "statement": "changed_predictions", "verdict": "passed"}
    audit = {"passed": False, "policy": "p", "undecided": 0, "checks": [row], "false_alarm": 0.05}
    assert '<th scope="row">no_sky: changed predictions</th>' in checks_table({"audit": audit})
    assert checks_of({"audit": audit}).told[0]["name"].startswith("no_sky: changed predictions")
