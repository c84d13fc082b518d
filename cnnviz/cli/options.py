"""Options of a command line as data, and the parameters of click that Typer makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import typer.main
from typer.models import ParamMeta

from cnnviz.cli.values import long_name

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Option:
    """An option, or the positional argument.

    Attributes:
        name: The field or the parameter that it sets; a trailing underscore avoids a keyword.
        kind: Type of one value: ``str``, ``int``, ``float`` or ``bool``.
        help: One sentence.
        panel: The heading under which it stands.
        default: The value without it, as the help shows it; None where the help says it in words.
        metavar: A word for the value.
        flags: ``--name``, ``-n``, or ``--name/--no-name``; none for the argument.
        many: Whether it may be given several times.
    """

    name: str
    kind: type
    help: str
    panel: str
    default: Any = None
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    many: bool = False

    def parameter(self) -> Any:
        """The parameter of click. Numbers are texts to it: :func:`cnnviz.cli.values.number` reads them.

        Typer's own messages about numbers differ from version to version and do not name the value.
        """
        kind: Any = bool if self.kind is bool else list[str] if self.many else str
        default = str(self.default) if type(self.default) in (int, float) else self.default
        told: dict[str, Any] = {"help": self.help, "metavar": self.metavar, "rich_help_panel": self.panel}
        if self.flags:
            declared = typer.Option(default, *self.flags, **told)
        else:
            declared = typer.Argument(default, show_default=False, **told)
        return _parameter(ParamMeta(name=self.name, default=declared, annotation=kind))


def flag(default: _Value, help: str, metavar: str | None = None, *, panel: str, short: str = "") -> _Value:
    """A field whose value the option ``--name`` sets, and ``short``."""
    declared: Any = field(
        default=default, metadata={"help": help, "metavar": metavar, "panel": panel, "short": short, "long": True}
    )
    return declared  # type: ignore[no-any-return]


def positional(default: _Value, help: str, metavar: str, *, panel: str) -> _Value:
    """A field whose value is what stands on the command line without an option."""
    declared: Any = field(default=default, metadata={"help": help, "metavar": metavar, "panel": panel, "long": False})
    return declared  # type: ignore[no-any-return]


def options_of(declaring: type) -> dict[str, Option]:
    """The options that the fields of a dataclass declare, by field name."""
    hints = get_type_hints(declaring)
    found = {}
    for each in fields(declaring):
        facts = each.metadata
        kinds = [part for part in get_args(hints[each.name]) if part is not NoneType] or [hints[each.name]]
        many = get_origin(kinds[0]) is list
        kind = get_args(kinds[0])[0] if many else kinds[0]
        flags = tuple(filter(None, (f"--{long_name(each.name)}", facts["short"]))) if facts["long"] else ()
        found[each.name] = Option(
            each.name, kind, facts["help"], facts["panel"], each.default, facts["metavar"], flags, many
        )
    return found


class _AsTyped:
    """What was typed, as it stands.

    From 0.29 on Typer converts every value with pydantic, whose import takes a fifth of a second; here all values are
    words, lists of words and flags.
    """

    def coerce(self, value: Any, param: Any = None, ctx: Any = None) -> Any:
        return value


def unconverted(parameter: Any) -> Any:
    """The parameter, with values as they were typed where Typer would convert them; older versions do not."""
    if hasattr(parameter, "get_runtime_param"):
        parameter.get_runtime_param = _AsTyped
    return parameter


def _parameter(declared: ParamMeta) -> Any:
    # Up to 0.28 it returns how values are converted as well; the name changed with that.
    make: Any = getattr(typer.main, "get_click_param", None) or getattr(typer.main, "_get_param")  # noqa: B009
    made = make(declared)
    return unconverted(made[0] if isinstance(made, tuple) else made)
