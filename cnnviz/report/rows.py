"""Records as the gallery's scripts get them: small rows of plain texts and numbers, in chunks of classic scripts.

A row has what its card and its close view say, in words; nothing is computed from it but filters and orders. Texts are
spelled out as on the page, and never become markup there: scripts set them as text. JSON stands in a quoted string,
which is read faster than a literal and has no key that a script would take for something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.report import audit_words
from cnnviz.report import record_words as words
from cnnviz.report.gallery import WIDE, shown
from cnnviz.report.markup import link, printable

CHUNK = 500
"""Rows of a chunk."""
_DIGITS = 6


@dataclass(frozen=True)
class Checks:
    """What an audit says of its images.

    Attributes:
        told: For each check its name, verdict and bound, for the filter.
        beyond: By path the checks whose bounds it is beyond: number of the check, place from the worst, value in words.
    """

    told: Sequence[Mapping[str, Any]] = ()
    beyond: Mapping[str, Sequence[tuple[int, int, str]]] = field(default_factory=dict)


def checks_of(summary: Mapping[str, Any]) -> Checks:
    """The checks of the summary of an audit; none of another run."""
    audit = summary.get("audit")
    if not isinstance(audit, Mapping):
        return Checks()
    told, beyond = [], dict[str, list[tuple[int, int, str]]]()
    for number, row in enumerate(audit["checks"]):
        name = audit_words.name_on_page(row)
        about = f" ({row['method']})" if row["method"] else ""
        violated = row["verdict"] == "violated"
        verdict = "warning" if violated and row["level"] == "warning" else row["verdict"]
        # Reports of earlier versions have the worst alone.
        own = (row.get("beyond_images") or row["violations"]) if violated else ()
        told.append(
            {
                "name": printable(name + about),
                "title": printable(row["name"] + about),
                "verdict": verdict,
                "allowed": audit_words.allowed(row),
                "shown": len(own),
                "beyond": row["beyond"] if violated else 0,
            }
        )
        for place, each in enumerate(own):
            measured = f"{row['statement'].replace('_', ' ')} {each['value']:.3g}, allowed {audit_words.allowed(row)}"
            said = printable(str(each.get("note") or measured))
            beyond.setdefault(each["path"], []).append((number, place, said))
    return Checks(told, beyond)


def row_of(record: Mapping[str, Any], checks: Checks, photo: str | None) -> dict[str, Any]:
    """A record as a row.

    Args:
        record: As in ``records.jsonl``, its files relative to the page.
        checks: Of its run.
        photo: Address of the photograph.
    """
    size = words.size(record)
    outcome = words.outcome(record)
    row = {
        "name": printable(str(record.get("name", record.get("path", "")))),
        "path": printable(str(record.get("path", ""))),
        "size": None if size is None else list(size),
        "photo": photo,
        "facts": [printable(fact) for fact in words.facts(record)],
        "outcome": None if outcome is None else outcome[0],
        "said": None if outcome is None else printable(outcome[1]),
        "truth": [printable(name) for name in words.truths(record)],
        "error": printable(words.failure(record)),
        "predictions": [_prediction(each) for each in words.mappings(record.get("predictions"))],
        "maps": [_map(each, record) for each in words.mappings(record.get("explanations"))],
        "figures": [
            {"picture": link(each.get("file", "")), "caption": printable(str(each.get("caption", "")))}
            for each in words.mappings(record.get("figures"))
        ],
        "checks": [list(each) for each in checks.beyond.get(str(record.get("path", "")), ())],
    }
    # What there is nothing of says nothing.
    return {key: value for key, value in row.items() if value not in (None, "", [])}


def _prediction(prediction: Mapping[str, object]) -> list[Any]:
    note = words.prediction_note(prediction)
    found = [printable(words.name(prediction)), _rounded(words.number(prediction.get("probability")))]
    return [*found, printable(note)] if note else found


def _map(explanation: Mapping[str, object], record: Mapping[str, object]) -> dict[str, Any]:
    target = explanation.get("target")
    kind, file = shown(explanation)
    layer, instead = explanation.get("layer"), words.unit_instead(explanation)[0]
    row = {
        "method": printable(words.method(explanation)),
        "layer": None if layer is None else printable(str(layer)),
        "target": printable(words.role(explanation) + words.explained(explanation)),
        "sure": words.sure(explanation, record),
        "probability": None if instead else _rounded(_probability(target)),
        "picture": link(file) if kind else None,
        "kind": kind,
        "wide": kind in WIDE,
        "files": [[printable(str(key)), link(path)] for key, path in words.files(explanation).items()],
        "note": words.FLAT if words.is_flat(explanation) else None,
        "scores": [
            [printable(name), printable(text), _rounded(value)] for name, text, value in words.scores(explanation)
        ],
        "curves": [[printable(name), [_rounded(y) for y in ys]] for name, ys in words.curves(explanation)],
    }
    return {key: value for key, value in row.items() if value not in (None, "", [], False)}


def _probability(target: object) -> float | None:
    return words.number(target.get("probability")) if isinstance(target, Mapping) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def script_of(call: str, value: object) -> bytes:
    """A classic script that hands a value to a function of the page, as JSON in a quoted string.

    Args:
        call: The function and what stands before the value, as ``cnnviz.data.rows(0, ``.
        value: Plain data.
    """
    body = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # Nothing in it ends the string, or an element that it may stand in.
    quoted = body.replace("\\", "\\\\").replace("'", "\\'").replace("<", "\\u003c").replace(">", "\\u003e")
    return f"{call}'{quoted}');\n".encode("ascii")


def chunks(rows: Iterable[dict[str, Any]], place: int) -> Iterator[bytes]:
    """The rows of a run as scripts of :data:`CHUNK` rows each.

    Args:
        rows: Of :func:`row_of`.
        place: Number of the run on the page.
    """
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == CHUNK:
            yield script_of(f"cnnviz.data.rows({place}, ", waiting)
            waiting = []
    if waiting:
        yield script_of(f"cnnviz.data.rows({place}, ", waiting)
