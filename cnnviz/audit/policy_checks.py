"""The checks of a policy, as its file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnviz.audit.policy_values import Written
from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.registry.checks import CHANGES, CheckSpec
from cnnviz.registry.lookup import all_checks
from cnnviz.registry.params import Options, Param

SCOPES, LEVELS = ("all", "class", "group"), ("error", "warning")
OF_TRUTH = ("background", "truth")
_OF_CHECK = ("name", "kind", "level", "scope")
_EXAMPLE = "For example - {kind: inside, min_energy: 0.5}"


@dataclass(frozen=True)
class PolicyCheck:
    """One check of a policy.

    Attributes:
        spec: Its kind.
        name: As results call it, unique in the policy.
        level: ``error`` fails the run, ``warning`` is told.
        scope: What is judged together: ``all`` images, each ``class``, or each ``group``; the worst decides.
        params: Its options.
        line: Where it stands in the file, from 1.
        key: Its name without limits, unique too: by it programs know a check again whose limit was changed.
    """

    spec: CheckSpec
    name: str
    level: str
    scope: str
    params: Options
    line: int
    key: str = ""


def read_checks(policy: Written) -> tuple[PolicyCheck, ...]:
    """The checks of a policy, each with a name of its own.

    Raises:
        CnnvizError: There is none, or one is wrong: its line, its key, what was expected.
    """
    rows = policy.values.get("checks")
    if rows is None or rows == []:
        raise CnnvizError(f"{policy.where('checks')}: no checks.", _EXAMPLE)
    if not isinstance(rows, list):
        raise policy.refused("checks", f"expected a list of checks, got {shown(rows)}.", _EXAMPLE)
    return _named([_check(policy, place, row) for place, row in enumerate(rows)])


def _check(policy: Written, place: int, row: Any) -> PolicyCheck:
    known = {spec.name: spec for spec in all_checks()}
    within = f"checks.{place}"
    line = policy.lines.get(within, 0)
    if not isinstance(row, dict):
        where = Written(policy.path, {}, {}, line=line).where()
        raise CnnvizError(f"{where}: expected a check, which is a mapping, got {shown(row)}.", _EXAMPLE)
    row = {"on" if key is True else key: value for key, value in row.items()}  # as YAML 1.1 reads a bare on
    written = Written(policy.path, row, policy.lines, f"{within}.", "", line)
    if row.get("kind") is None:
        raise CnnvizError(f"{written.where()}: a check without a kind.", f"Write kind: one of {', '.join(known)}.")
    kind = str(row["kind"])
    if kind not in known:
        hint = nearest(kind, known) or f"Checks: {', '.join(known)}."
        raise CnnvizError(f"{written.where('kind')}: there is no check of kind {shown(kind)}.", hint)
    spec = known[kind]
    written = replace(written, what=kind)
    written.check_keys([*_OF_CHECK, *(param.name for param in spec.params)])
    name = written.text("name", "borders") or kind
    level = written.word("level", LEVELS, spec.level)
    scope = written.word("scope", SCOPES, "all")
    return PolicyCheck(spec, name, level, scope, _params(spec, written), line)


def _named(checks: Sequence[PolicyCheck]) -> tuple[PolicyCheck, ...]:
    """Each with a name: of several that are called alike with its kind, then with what they differ in, then a number.

    Limits are told where nothing else tells two apart. They are no part of keys: that of a check whose limit is changed
    stays, and with it the fingerprint by which other programs know it again.
    """
    names = [check.name for check in checks]
    names = _with(names, _differing(names, [{"": check.spec.name} for check in checks]))
    facts = _differing(names, [_facts(check) for check in checks])
    limits = _differing(_with(names, facts), [_allowed(check) for check in checks])
    keys = _numbered(_with(names, facts))
    full = _numbered(_with(names, [[*own, *more] for own, more in zip(facts, limits, strict=True)]))
    return tuple(replace(check, name=name, key=key) for check, name, key in zip(checks, full, keys, strict=True))


def _differing(names: Sequence[str], facts: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Of each the facts that are not those of others of its name."""
    found = []
    for name, own in zip(names, facts, strict=True):
        others = [each for other, each in zip(names, facts, strict=True) if other == name]
        found.append(
            [f"{key} {value}".strip() for key, value in own.items() if any(each.get(key) != value for each in others)]
        )
    return found


def _with(names: Sequence[str], facts: Sequence[Sequence[str]]) -> list[str]:
    return [f"{name} ({', '.join(said)})" if said else name for name, said in zip(names, facts, strict=True)]


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which no two are the same."""
    found: list[str] = []
    for name in names:
        found.append(_unique(name, found))
    return found


def _facts(check: PolicyCheck) -> dict[str, str]:
    """What a check is of, beside its limits, in words."""
    own = {key: text for key, text in _options(check).items() if key not in _limits(check.spec)}
    return {**own, "scope": check.scope, "level": check.level}


def _allowed(check: PolicyCheck) -> dict[str, str]:
    """Its limits, in words."""
    return {key: text for key, text in _options(check).items() if key in _limits(check.spec)}


def _options(check: PolicyCheck) -> dict[str, str]:
    given = {key: value for key, value in check.params.to_dict().items() if value is not None}
    return {key: " ".join(value) if isinstance(value, tuple) else _said(value) for key, value in given.items()}


def _said(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _limits(spec: CheckSpec) -> list[str]:
    return [
        param.name for param in spec.params if param.name.startswith(("min_", "max_")) or param.name in ("min", "by")
    ]


def _unique(name: str, taken: Sequence[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def _params(spec: CheckSpec, written: Written) -> Options:
    """The options of a check; ``null`` takes a limit away, and one must be left."""
    given = {key: _as_text(value) for key, value in written.values.items() if key not in _OF_CHECK}
    limits = [name for name in _limits(spec) if "_" in name]
    gone = [name for name in limits if len(limits) > 1 and name in given and given[name] is None]
    for param in spec.params:
        if param.name in given and param.name not in gone:
            try:
                param.check(given[param.name])
            except CnnvizError as error:
                said = error.message.removeprefix(param.name).lstrip("=: ")
                raise written.refused(param.name, said, _hint(param, given[param.name], error.hint)) from None
    params = spec.resolve_params({key: value for key, value in given.items() if key not in gone})
    params = replace(params, **dict.fromkeys(gone))  # type: ignore[type-var]
    if limits and all(getattr(params, name) is None for name in limits):
        raise CnnvizError(f"{written.where()}: it allows anything.", f"Give {' or '.join(limits)}.")
    if (region := getattr(params, "region", None)) is not None:
        _check_region(written, "region", region, OF_TRUTH)
    if (region := getattr(params, "replace", None)) is not None:
        _check_region(written, "replace", region, OF_TRUTH[:1])
    if (under := getattr(params, "under", None)) is not None:
        for name in under or [""]:
            if name not in CHANGES:
                hint = nearest(name, CHANGES) or f"For example under: [{', '.join(CHANGES)}]"
                raise written.refused("under", f"{shown(name)} is none of {', '.join(CHANGES)}.", hint)
    return params


def _hint(param: Param, value: Any, hint: str) -> str:
    """What to write in the place of a value that its option refuses, which said ``hint``."""
    key = param.name
    if param.maximum == 1 and _is_number(value) and 1 < value <= 100:
        return f"Shares are from 0 to 1: for {value:g} % write {key}: {value / 100:g}"
    if hint and not hint.startswith("The default is"):
        return hint
    if isinstance(param.default, tuple):
        return f"For example {key}: [{', '.join(param.default)}]"
    if param.default is not None:
        return f"For example {key}: {_said(param.default)}"
    if param.type in ("int", "float"):
        return f"For example {key}: {((param.minimum or 0) + (param.maximum or 1)) / 2:g}"
    return f"Write it in quotes: {key}: '{value}'"


def _check_region(written: Written, key: str, text: str, words: Sequence[str]) -> None:
    if text in words:
        return
    try:
        x0, y0, x1, y1 = map(float, text.replace("/", ",").split(","))
        inside = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except ValueError:
        inside = False
    if not inside:
        said = f"{shown(text)}: expected {' or '.join(words)}, or x0, y0, x1, y1 in fractions of width and height."
        raise written.refused(key, said, nearest(text, words) or f"The lowest tenth is {key}: [0, 0.9, 1, 1]")


def _as_text(value: Any) -> Any:
    """A region as its text: ``[0, 0.85, 1, 1]`` is ``0,0.85,1,1``."""
    if isinstance(value, list) and value and all(isinstance(each, (int, float)) for each in value):
        return ",".join(map(str, value))
    return tuple(value) if isinstance(value, list) else value
