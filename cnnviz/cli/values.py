"""Option values in their types, whether they come from the command line or from a configuration file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnviz.errors import CnnvizError, brief, nearest, shown
from cnnviz.settings import CHANNEL_ORDERS, ChannelOrder, check_choice

if TYPE_CHECKING:
    from cnnviz.cli.options import Option

# What counts, sizes or seeds anything is below.
_LARGEST = 1 << 32


def long_name(field_name: str) -> str:
    """Field or parameter name as the flag has it: ``class_`` is ``class``, ``batch_size`` is ``batch-size``."""
    return field_name.rstrip("_").replace("_", "-")


def number(text: Any, option: Option) -> Any:
    """The value of a numeric option from the command line; other values as they are.

    Raises:
        CnnvizError: The text is not a number, or not a whole number where one is needed.
    """
    kind = option.kind
    if kind not in (int, float):
        return text
    flag = f"--{long_name(option.name)}"
    try:
        return _sized(kind(text), f"{flag} {brief(text)}")
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise CnnvizError(f"{flag} {brief(text)}: expected {words}.", f"For example {flag} 1") from None


def _sized(value: Any, what: str) -> Any:
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise CnnvizError(f"{what}: expected a number below {_LARGEST}.", "Give a smaller number.")
    return value


def given_values(ctx: Any, options: Mapping[str, Option]) -> dict[str, Any]:
    """What the command line says, by field name; defaults left out.

    Args:
        ctx: The context of click, or of Typer's own copy of it, with the values as they were typed.
        options: Those of the command, by field name.

    Raises:
        CnnvizError: A text where a number is needed.
    """
    said: dict[str, Any] = {}
    for name, option in options.items():
        source, value = ctx.get_parameter_source(name), ctx.params.get(name)
        # By name: the type lives in click, or in Typer's own copy of it.
        if source is None or source.name != "COMMANDLINE" or value is None:
            continue
        if not option.many:
            said[name] = number(value, option)
        elif value:
            said[name] = list(value)
    return said


def from_config(
    data: Mapping[str, Any], options: Mapping[str, Option], where: Callable[[str], str], listed: Sequence[str] = ()
) -> dict[str, Any]:
    """Values of a configuration file by field name, in each option's type.

    Args:
        data: What the file holds.
        options: Those of the command, by field name.
        where: Where a key of the file stands, as messages about it begin.
        listed: Keys of which one was meant where a key is unknown; all options without it.

    Raises:
        CnnvizError: An unknown option (with near matches), one given twice, or a value of the wrong type.
    """
    known = {long_name(name): name for name in options if name != "config"}
    values: dict[str, Any] = {}
    for key, value in data.items():
        long = key.replace("_", "-")
        if long not in known:
            names = [each.replace("_", "-") for each in listed] or sorted(known)
            hint = nearest(long, names).replace("-", "_") or f"The options are: {', '.join(listed or names)}."
            raise CnnvizError(f"{where(key)}: unknown option {shown(key)}.", hint)
        if known[long] in values:
            raise CnnvizError(f"{where(key)}: {long!r} is given twice.", "Keep one of the two spellings.")
        if value is not None:
            values[known[long]] = _typed(value, options[known[long]], f"{where(key)}: {key}")
    return values


@contextlib.contextmanager
def told_of_files(places: Mapping[str, str], hints: Mapping[str, str] | None = None) -> Iterator[None]:
    """Around what refuses options: of one that a file gives it is said where, and by its key.

    Args:
        places: By field name of an option that a file gives, its place and its key: ``policy p.yaml, line 2: mean``.
        hints: By field name near matches beside those that whatever refuses it knows.

    Raises:
        CnnvizError: With the place and the key where the message begins with the flag.
    """
    try:
        yield
    except CnnvizError as error:
        for name, place in places.items():
            flag, key = f"--{long_name(name)} ", place.rpartition(": ")[2]
            if error.message.startswith(flag):
                said = f"{place}: {error.message.removeprefix(flag)}"
                hint = _both((hints or {}).get(name, ""), error.hint.replace(flag, f"{key}: "))
                raise CnnvizError(said, hint, exit_code=error.exit_code) from error
        raise


def _both(near: str, hint: str) -> str:
    """Near matches before a hint; one question where both are."""
    question = "Did you mean "
    if near and hint.startswith(question):
        return f"{near.removesuffix('?')} or {hint.removeprefix(question)}"
    return f"{near} {hint[:1].upper()}{hint[1:]}" if near else hint


def _typed(value: Any, option: Option, where: str) -> Any:
    """A value as YAML reads it, in the type that the flag would give."""
    kind = option.kind
    if isinstance(value, bool) and {"on", "off"} <= set((option.metavar or "").split("|")):
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
    if option.many:
        return [str(item) for item in items]
    if isinstance(value, list):
        if kind is not str or not items:
            raise CnnvizError(f"{where}: expected one value, got a list.", "See the command's --help.")
        return ",".join(map(str, items))
    return _sized(kind(value), f"{where}: {shown(value)}") if kind is int else kind(value)


def channel_order_of(text: str | None) -> ChannelOrder | None:
    """``rgb`` or ``bgr``; None where nothing was said.

    Raises:
        CnnvizError: It is neither.
    """
    if text is not None:
        check_choice(text, CHANNEL_ORDERS, "--channel-order")
    return next((order for order in CHANNEL_ORDERS if order == text), None)
