"""Reports against the JSON Schema that comes with the package."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from cnnviz.registry import lookup

SCHEMA = Path(__file__).parents[2] / "cnnviz" / "schema" / "report.schema.json"
# Open for other packages; cnnviz's own methods and studies write only what is documented.
OPEN = ("Explanation", "Scores")
OWN = {spec.name for spec in (*lookup.BUILT_IN, *lookup.STUDIES, *lookup.TRAINING)}


@cache
def validator(closed: bool) -> Draft202012Validator:
    """A validator of reports; ``closed``: with no more keys than are documented, whoever made the maps."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    if closed:
        schema = copy.deepcopy(schema)
        for name in OPEN:
            schema["$defs"][name]["additionalProperties"] = False
    return Draft202012Validator(schema)


def problems(report: dict[str, Any]) -> list[str]:
    """What is wrong with a report: where, and what; at most ten."""
    summary = report.get("summary", {})
    own = summary.get("method", summary.get("study")) in OWN
    found = sorted(validator(own).iter_errors(report), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in found[:10]]
