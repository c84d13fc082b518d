"""An audit as JUnit XML: a test case for each statement, as CI systems show them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from cnnviz.report import audit_words

# What XML 1.0 cannot hold, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(
    policy: str,
    rows: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, str]] = (),
    *,
    strict: bool = False,
    remarks: Sequence[str] = (),
) -> bytes:
    """The document.

    Args:
        policy: Its file: the class name of the cases.
        rows: ``summary.audit.checks`` of the report.
        failed: Images that could not be explained: path and error, a test case each.
        strict: Whether what is not decided fails.
        remarks: What was left out, which no verdict tells.
    """
    failures = [row for row in rows if audit_words.fails(row, strict=strict)]
    skipped = [row for row in rows if row["verdict"] == "not decided" and row not in failures]
    tests, errors = str(len(rows) + len(failed)), str(len(failed))
    counts = {"tests": tests, "failures": str(len(failures)), "errors": errors, "skipped": str(len(skipped))}
    root = ElementTree.Element("testsuites", {"name": "cnnviz audit", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(policy), **counts})
    for row in rows:
        _case(suite, policy, row, fails=row in failures)
    for each in failed:
        named = {"name": _text(f"image {each['path']}"), "classname": _text(policy), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", named)
        ElementTree.SubElement(case, "error", {"message": _text(each["error"]), "type": "image"})
    ElementTree.indent(root)
    if remarks:
        ElementTree.SubElement(suite, "system-out").text = _text("\n".join(remarks))
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _case(suite: ElementTree.Element, policy: str, row: Mapping[str, Any], *, fails: bool) -> None:
    named = {"name": _text(audit_words.title(row)), "classname": _text(policy), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", named)
    properties = ElementTree.SubElement(case, "properties")
    for key in ("measured", "allowed", "n", "p", "group", "level", "kind"):
        if row[key] is not None:
            ElementTree.SubElement(properties, "property", {"name": key, "value": _text(str(row[key]))})
    if fails:
        said = {"message": _text(audit_words.finding(row)), "type": row["kind"]}
        failure = ElementTree.SubElement(case, "failure", said)
        failure.text = _text("\n".join(map(audit_words.of_image, row["violations"])))
    elif row["verdict"] == "not decided":
        ElementTree.SubElement(case, "skipped", {"message": _text(audit_words.finding(row))})
    elif row["verdict"] == "violated":
        ElementTree.SubElement(case, "system-out").text = _text(f"warning: {audit_words.finding(row)}")


def _text(value: str) -> str:
    return _FORBIDDEN.sub("?", value)
