"""Option values in their types, whether they come from the command line or from a configuration file."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from cnnviz.errors import CnnvizError, brief, nearest, shown

# What counts, sizes or seeds anything is below.
_LARGEST = 1 << 32


def long_name(field_name: str) -> str:
    """Field or parameter name as the flag has it: ``class_`` is ``class``, ``batch_size`` is ``batch-size``."""
    return field_name.rstrip("_").replace("_", "-")


def value_type(annotation: Any) -> tuple[type, bool]:
    """Type of one value, and whether the option takes several: ``list[str] | None`` is ``(str, True)``."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    many = get_origin(annotation) is list
    return (get_args(annotation)[0] if many else annotation), many


def flag_type(annotation: Any) -> Any:
    """The annotation as Typer sees it: numbers arrive as text, and :func:`number` reads them.

    Typer's own messages about them differ from version to version and do not name the value.
    """
    if value_type(annotation)[0] in (int, float):
        return Annotated[str | None, get_args(annotation)[1]]
    return annotation


def number(text: Any, annotation: Any, name: str) -> Any:
    """The value of a numeric option from the command line; other values as they are.

    Raises:
        CnnvizError: The text is not a number, or not a whole number where one is needed.
    """
    kind, _ = value_type(annotation)
    if kind not in (int, float):
        return text
    try:
        return _sized(kind(text), f"--{long_name(name)} {brief(text)}")
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        flag = f"--{long_name(name)}"
        raise CnnvizError(f"{flag} {brief(text)}: expected {words}.", f"For example {flag} 1") from None


def _sized(value: Any, what: str) -> Any:
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise CnnvizError(f"{what}: expected a number below {_LARGEST}.", "Give a smaller number.")
    return value


def from_config(data: Mapping[str, Any], annotations: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Values of a configuration file by field name, in each option's type.

    Args:
        data: What the file holds.
        annotations: Type of each option of the command by field name.
        path: Of the file, for messages.

    Raises:
        CnnvizError: An unknown option (with near matches), one given twice, or a value of the wrong type.
    """
    known = {long_name(name): name for name in annotations if name != "config"}
    values: dict[str, Any] = {}
    for key, value in data.items():
        long = key.replace("_", "-")
        if long not in known:
            hint = nearest(long, known) or f"The options are: {', '.join(sorted(known))}."
            raise CnnvizError(f"--config {path}: unknown option {shown(key)}.", hint)
        if known[long] in values:
            raise CnnvizError(f"--config {path}: {long!r} is given twice.", "Keep one of the two spellings.")
        if value is not None:
            values[known[long]] = _typed(value, annotations[known[long]], f"--config {path}: {key}")
    return values


def _knows_on_and_off(annotation: Any) -> bool:
    return {"on", "off"} <= set((get_args(annotation)[1].metavar or "").split("|"))


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """A value as YAML reads it, in the type that the flag would give."""
    kind, many = value_type(annotation)
    if isinstance(value, bool) and _knows_on_and_off(annotation):
        # A bare on or off is a truth value in YAML 1.1.
        return "on" if value else "off"
    items = value if isinstance(value, list) else [value]
    for item in items:
        fits: tuple[type, ...] = {float: (int, float), str: (str, int, float)}.get(kind, (kind,))
        if not isinstance(item, fits) or (isinstance(item, bool) and kind is not bool):
            words = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
            hint = "Write it in quotes: YAML reads on, off, yes and no as true and false, 2024-01-01 as a date."
            raise CnnvizError(
                f"{where}: expected {words}, got {shown(item)}.",
                hint if kind is str else "See the command's --help.",
            )
    if many:
        return [str(item) for item in items]
    if isinstance(value, list):
        if kind is not str or not items:
            raise CnnvizError(f"{where}: expected one value, got a list.", "See the command's --help.")
        return ",".join(map(str, items))
    return _sized(kind(value), f"{where}: {shown(value)}") if kind is int else kind(value)
