"""An audit as SARIF 2.1.0: one rule a check, one result a violation, anchored at the check's line in the policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import cnnviz
from cnnviz.report import audit_words

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_MOST = 5000
_RELATED = 10


def sarif(
    policy: str,
    rows: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    *,
    strict: bool = False,
    whole: bool = True,
) -> bytes:
    """The document: violations as errors or warnings, what is not decided as notes.

    Args:
        policy: Its file.
        rows: ``summary.audit.checks`` of the report.
        keys: By name of a check what fingerprints know it by, which no limit is part of; the name where none is given.
        notes: What was left out and what failed, which no verdict tells: notifications of the run.
        strict: Whether what is not decided fails: it is an error then, not a note.
        whole: Whether all images were seen.
    """
    rules: dict[str, dict[str, Any]] = {}
    for row in rows:
        text = f"{row['name']} ({row['kind']})"
        rules.setdefault(row["name"], {"id": row["name"], "shortDescription": {"text": text}})
    results = [
        _result(policy, row, (keys or {}).get(row["name"], row["name"]), strict=strict)
        for row in rows
        if row["verdict"] != "passed"
    ][:_MOST]
    driver = {"name": "cnnviz audit", "version": cnnviz.__version__, "rules": list(rules.values())}
    told = [{"level": "note", "message": {"text": text}} for text in notes]
    invocation = {"executionSuccessful": whole, "toolExecutionNotifications": told}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1).encode()


def _result(policy: str, row: Mapping[str, Any], check: str, *, strict: bool) -> dict[str, Any]:
    level = "error" if audit_words.fails(row, strict=strict) else "warning" if row["verdict"] == "violated" else "note"
    text = audit_words.sentence(row)
    key = "|".join([check, row["statement"], row["method"] or "", row["group"] or ""])
    place = {"artifactLocation": {"uri": _uri(policy)}, "region": {"startLine": max(1, row["line"])}}
    related = [
        {
            "id": number,
            "physicalLocation": {"artifactLocation": {"uri": _uri(each["path"])}},
            "message": {"text": audit_words.found(each, 4)},
        }
        for number, each in enumerate(row["violations"][:_RELATED], 1)
    ]
    return {
        "ruleId": row["name"],
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
        "relatedLocations": related,
        "partialFingerprints": {"check/v1": hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()},
    }


def _uri(path: str) -> str:
    if "://" in path:
        return path
    plain = path.replace("\\", "/")
    if plain[1:3] == ":/":  # a drive is no scheme
        return "file:///" + quote(plain, safe="/:", errors="surrogatepass")
    return quote(plain, errors="surrogatepass")
