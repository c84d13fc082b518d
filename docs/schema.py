"""Writes the JSON Schema of report.json from the types in cnnviz/schema, and what docs/report.md says of their keys.

python docs/schema.py          # rewrites cnnviz/schema/report.schema.json and docs/report.md
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

import typing_extensions as typing

from cnnviz.records import SCHEMA
from cnnviz.schema import shapes
from cnnviz.schema.report import Report

ROOT = Path(__file__).parent.parent
FILE = ROOT / "cnnviz" / "schema" / "report.schema.json"
PAGE = ROOT / "docs" / "report.md"
# A table of the page stands between these: the keys of one or several types.
TABLE = re.compile(r"<!-- keys of ([\w, ]+) \(python docs/schema.py\) -->\n.*?<!-- end of keys -->", re.DOTALL)
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"}, int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"},
    NoneType: {"type": "null"}, Any: {},
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A key of an object: its type, what it means, whether it is always there, and the class that has it."""

    name: str
    type: Any
    text: str
    required: bool
    owner: Any


# The types, read.


@cache
def keys_of(kind: Any) -> tuple[Key, ...]:
    """The keys of a TypedDict, those of its bases first."""
    found: list[Key] = []
    for base in getattr(kind, "__orig_bases__", ()):
        if typing.is_typeddict(base):
            found += keys_of(base)
    hints = typing.get_type_hints(kind, include_extras=True)
    for name, text in _own(kind).items():
        hint, required = hints[name], kind.__total__
        if typing.get_origin(hint) is typing.NotRequired:
            (hint,), required = typing.get_args(hint), False
        said = [mark for mark in _marks(hint) if isinstance(mark, shapes.Says)]
        found.append(Key(name, hint, _plain_text(said[0].text) if said else text, required, kind))
    return tuple(found)


def _own(kind: Any) -> dict[str, str]:
    """The keys that stand in the body of a class, each with the docstring below it."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):
        body = None
    if not isinstance(body, ast.ClassDef):
        return dict.fromkeys(kind.__annotations__, "")  # made by a call: its marks say what its keys mean
    found: dict[str, str] = {}
    for line, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            found[line.target.id] = _plain_text(str(text))
    return found


def described(kind: Any) -> str:
    """What a type says of itself."""
    return _plain_text(kind.__doc__ or "")


def _plain_text(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`")


def _marks(hint: Any) -> tuple[Any, ...]:
    return tuple(hint.__metadata__) if typing.get_origin(hint) is Annotated else ()


def bare(hint: Any) -> Any:
    """A type without its marks."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another type itself."""
    plain = bare(hint)
    return typing.get_args(plain) if typing.get_origin(plain) in (Union, UnionType) else (plain,)


# The schema.


class Schema:
    """Turns types into JSON Schema; objects become ``$defs``."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}

    def of(self, hint: Any) -> dict[str, Any]:
        marks = _marks(hint)
        schema = self._plain(bare(hint), next((mark for mark in marks if isinstance(mark, shapes.By)), None))
        for mark in marks:
            if isinstance(mark, shapes.Length):
                schema = {**schema, "minItems": mark.items, "maxItems": mark.items}
            elif isinstance(mark, shapes.AtLeast):
                schema = {**schema, "minimum": mark.minimum}
            elif isinstance(mark, shapes.Between):
                schema = {**schema, "minimum": mark.low, "maximum": mark.high}
            elif isinstance(mark, shapes.OneOf):
                schema = {**schema, "enum": list(mark.words)}
            elif isinstance(mark, shapes.Pattern):
                schema = {**schema, "pattern": mark.regex}
        return schema

    def _plain(self, kind: Any, by: shapes.By | None) -> dict[str, Any]:
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin in (Union, UnionType):
            return self._union(args, by)
        if kind in _PLAIN:
            return dict(_PLAIN[kind])
        if typing.is_typeddict(kind):
            return self._object(kind)
        if origin is Literal:
            return {"const": args[0]} if len(args) == 1 else {"enum": list(args)}
        if origin is list:
            return {"type": "array", "items": self.of(args[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(args[1])}
        raise TypeError(f"{kind} has no JSON Schema")

    def _object(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # where it mentions itself
            keys = keys_of(kind)
            undescribed = [key.name for key in keys if not key.text]
            if undescribed or not described(kind):
                raise TypeError(f"{name}: not described: {', '.join(undescribed) or 'the type'}")
            definition: dict[str, Any] = {
                "type": "object",
                "description": described(kind),
                "properties": {key.name: {**self.of(key.type), "description": key.text} for key in keys},
                "required": [key.name for key in keys if key.required],
                "additionalProperties": kind in shapes.EXTRAS,
            }
            if kind in shapes.EXTRAS:
                definition["$comment"] = f"Further keys: {shapes.EXTRAS[kind]}."
            self.definitions[name] = definition
        return {"$ref": f"#/$defs/{name}"}

    def _union(self, args: tuple[Any, ...], by: shapes.By | None) -> dict[str, Any]:
        if by is None:
            return {"anyOf": [self.of(arg) for arg in args]}
        *others, last = args
        kinds = {id(arg): self._value(arg, by.path) for arg in others}
        named = [kind["const"] for kind in kinds.values() if "const" in kind]
        rest: dict[str, Any] = {"not": {"enum": named}} if named else {}
        tests = [_at(by.path, kinds[id(arg)] or rest) for arg in others]
        chosen = [{"if": test, "then": self.of(arg)} for test, arg in zip(tests, others, strict=True)]
        if len(chosen) == 1:
            return {**chosen[0], "else": self.of(last)}
        return {"allOf": [*chosen, {"if": {"not": {"anyOf": tests}}, "then": self.of(last)}]}

    def _value(self, arg: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """The constant that a member of a union has at a path; empty where it may be any."""
        for name in path:
            arg = next(key.type for key in keys_of(members(arg)[0]) if key.name == name)
        return self.of(arg) if bare(arg) is NoneType or typing.get_origin(bare(arg)) is Literal else {}


def _at(path: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    """That there is such a value at a path."""
    for name in reversed(path):
        value = {"type": "object", "required": [name], "properties": {name: value}}
    return value


def report_schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    schema = Schema()
    root = schema.of(Report)
    return {
        "$schema": DIALECT,
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        "title": "report.json of cnnviz",
        "description": f"What a run of cnnviz writes: {SCHEMA}. The lines of records.jsonl are its images.",
        **root,
        "$defs": dict(sorted(schema.definitions.items())),
    }


def schema_text() -> str:
    return json.dumps(report_schema(), indent=1, ensure_ascii=False) + "\n"


# The page.


class Tables:
    """The tables of a page. A key stands once: in the table that names its class, or where it is nested.

    Args:
        page: The Markdown, with its markers.
    """

    def __init__(self, page: str) -> None:
        self.kinds = {kind.__name__: kind for kind in _all_kinds(Report)}
        named = [[self.kinds[name] for name in names.split(", ")] for names in TABLE.findall(page)]
        self._own = {kind for kinds in named for kind in kinds}
        self._told: set[Any] = set()

    def table(self, names: str) -> str:
        """The keys of these types, without those that an earlier table has."""
        rows = ["| key | type | meaning |", "| --- | --- | --- |"]
        seen: set[tuple[str, str]] = set()  # members of a union have keys in common
        for kind in (self.kinds[name] for name in names.split(", ")):
            for path, key in self._rows(kind, ""):
                if (path, _words(key)) not in seen:
                    rows.append(f"| `{path}` | {_words(key)} | {_cell(key.text)} |")
                seen.add((path, _words(key)))
            self._told |= {key.owner for key in keys_of(kind)}
            if kind in shapes.EXTRAS:
                rows.append(f"| … | | Further keys: {shapes.EXTRAS[kind]}. |")
        return "\n".join(rows)

    def _rows(self, kind: Any, path: str) -> Iterator[tuple[str, Key]]:
        for key in keys_of(kind):
            nested, inside = _nested(key.type)
            nested = [each for each in nested if each not in self._own]
            if key.owner in self._told and not any(self._new(each) for each in nested):
                continue
            if key.owner not in self._told:
                yield path + key.name, key
            for each in nested:
                yield from self._rows(each, f"{path}{key.name}{inside}.")
                self._told |= {key.owner for key in keys_of(each)}

    def _new(self, kind: Any) -> bool:
        return any(key.owner not in self._told for key in keys_of(kind))


def _nested(hint: Any) -> tuple[list[Any], str]:
    """The objects in a type, and what leads from it to them."""
    plain = bare(hint)
    if typing.is_typeddict(plain):
        return [plain], ""
    origin, args = typing.get_origin(plain), typing.get_args(plain)
    if origin in (Union, UnionType):
        found = [_nested(arg) for arg in args]
        return [kind for kinds, _ in found for kind in kinds], max((inside for _, inside in found), key=len)
    if origin in (list, dict):
        kinds, inside = _nested(args[-1])
        return kinds, ("[]" if origin is list else ".NAME") + inside
    return [], ""


def _all_kinds(hint: Any) -> Iterator[Any]:
    """All objects that are written, and their classes of keys."""
    seen: set[Any] = set()
    waiting = list(_nested(hint)[0])
    while waiting:
        kind = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            yield kind
            waiting += [base for base in getattr(kind, "__orig_bases__", ()) if typing.is_typeddict(base)]
            waiting += [each for key in keys_of(kind) for each in _nested(key.type)[0]]


_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null", Any: "any"}


def _words(key: Key) -> str:
    """The type of a key in words; in brackets where the key is not always there."""
    text = _named(key.type)
    return text if key.required else f"({text})"


def _named(hint: Any) -> str:
    plain = bare(hint)
    origin, args = typing.get_origin(plain), typing.get_args(plain)
    literal = args if origin is Literal else ()
    words = next((mark.words for mark in _marks(hint) if isinstance(mark, shapes.OneOf)), literal)
    if words:
        return " or ".join(f"`{json.dumps(word)}`" for word in words)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_named(arg) for arg in args))
    if origin is list:
        count = next((f"{mark.items} " for mark in _marks(hint) if isinstance(mark, shapes.Length)), "")
        return "list" if args[0] is Any else f"list of {count}{_several(_named(args[0]))}"
    return _NAMES.get(plain, "object")


def _several(name: str) -> str:
    if " or " in name:
        return f"({name})"
    return name.replace("list", "lists", 1) if name.startswith("list") else f"{name}s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page_text(page: str) -> str:
    """The page with its tables made anew."""
    tables = Tables(page)

    def made(match: re.Match[str]) -> str:
        begin = match[0].partition("\n")[0]
        return f"{begin}\n{tables.table(match[1])}\n<!-- end of keys -->"

    return TABLE.sub(made, page)


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
    PAGE.write_text(page_text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
