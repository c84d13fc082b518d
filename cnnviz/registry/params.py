"""Options of a method, a study or whatever else the register names: how they are declared, and how values are checked.

An entry declares a frozen dataclass, and what it runs is handed an instance of it, so that a type checker sees what
``params.samples`` is:

    class SmoothGradOptions(Options):
        samples: int = option(25, "Noisy copies.", minimum=1)
        statistic: Literal["mean", "variance"] = option("mean", "What is made of them.")

The :class:`Param` behind each field (flag, help, range, choices) is read off the field and its type.
"""

from __future__ import annotations

import keyword
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, replace
from inspect import get_annotations
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from cnnviz.errors import CnnvizError, nearest, shown

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # typing has it from Python 3.11 on

    def dataclass_transform(**facts):
        return lambda cls: cls


ParamType = Literal["int", "float", "bool", "choice", "size", "text", "texts", "file", "class"]
# What another value than the default demands of the run: that a method in input space looks at a layer too, or that the
# network is shown the image in one view, because what is made cannot be joined from tiles (--view tiles).
# Of a path "pictures": that what runs is handed the pictures themselves.
Demand = Literal["", "layer", "one view", "pictures"]
FilePath = Annotated[str, "file"]
"""The path or the URL of something that exists."""
ClassName = Annotated[str, "class"]
"""A class as ``--class`` names one: a label, an index, a WordNet id. What runs is handed its index, as digits."""

_TYPES: dict[Any, ParamType] = {
    int: "int", float: "float", bool: "bool", str: "text", FilePath: "file", ClassName: "class",
    tuple[int, int]: "size", tuple[str, ...]: "texts",
}  # fmt: skip
# Metadata of a field that was made from a Param.
_WHOLE = "param"
_Value = TypeVar("_Value")
_AnyOptions = TypeVar("_AnyOptions", bound="Options")


@dataclass(frozen=True)
class Param:
    """An option: flag ``--name``, YAML key ``name``, keyword ``name=``.

    Attributes:
        name: As scripts write it.
        type: ``size`` is one whole number, or height and width; ``texts`` may be given several times; ``file`` is the
            path or URL of something that exists; ``class`` a label or an index.
        default: The value where none is given.
        help: One sentence.
        choices: Of a ``choice``.
        minimum, maximum: Of a number, both included.
        unit: Of a number, for the help.
        demands: What another value than the default demands of the run.
        replaces: The option whose place it takes, so that only one of the two is given.
        metavar: A word for the value in the help, where that of the type says less.
    """

    name: str
    type: ParamType
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    demands: Demand = ""
    replaces: str = ""
    metavar: str = ""

    @property
    def attribute(self) -> str:
        """The name of the field: ``lambda`` is ``lambda_``."""
        return f"{self.name}_" if keyword.iskeyword(self.name) else self.name

    def check(self, value: Any) -> Any:
        """The value in this option's type.

        Raises:
            CnnvizError: Wrong type, out of range, or not among the choices.
        """
        if value is None and self.default is None:
            return None
        if not all(map(_is_usable, value if isinstance(value, (tuple, list)) else (value,))):
            said = f"{self.name}={shown(value)}: expected a number that is finite, of at most 15 digits."
            raise CnnvizError(said)
        if self.type == "texts":
            return tuple(self._text(item) for item in (value if isinstance(value, (tuple, list)) else (value,)))
        if self.type == "bool":
            if isinstance(value, bool):
                return value
            raise CnnvizError(f"{self.name}={value!r}: expected true or false.")
        if self.type == "choice":
            if value in self.choices:
                return value
            hint = nearest(str(value), self.choices) or (
                "" if self.default is None else f"The default is {self.default}."
            )
            raise CnnvizError(f"{self.name}={value!r}: expected one of {', '.join(self.choices)}.", hint)
        if self.type == "size":
            return self._size(value)
        if self.type == "class" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return str(value)
        if self.type == "file" and isinstance(value, os.PathLike):
            return self._text(os.fspath(value))
        if self.type in {"text", "file", "class"}:
            return self._text(value)
        return self._number(value)

    def _size(self, value: Any) -> tuple[int, int]:
        """(height, width) of ``32``, ``(32, 48)``, ``"32"``, ``"32,48"`` or ``"32x48"``."""
        parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
        if not isinstance(parts, (tuple, list)):
            parts = [parts]
        try:
            numbers = [float(part) if isinstance(part, str) else part for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2):
            raise CnnvizError(
                f"{self.name}={value!r}: expected a whole number, or height and width.", f"For example {self.name} 32"
            )
        height, width = (int(replace(self, type="int")._number(_whole(n), value)) for n in (numbers[0], numbers[-1]))
        return height, width

    def _text(self, value: Any) -> str:
        if isinstance(value, (tuple, list)) and value and all(isinstance(v, (int, float)) for v in value):
            return ",".join(f"{v:g}" for v in value)
        if isinstance(value, str) and value.strip():
            return value if value == value.strip() else value.strip()
        raise CnnvizError(f"{self.name}={shown(value)}: expected a word.")

    def _number(self, value: Any, given: Any = None) -> int | float:
        said = f"{self.name}={value if given is None else given!r}"
        default = "" if self.default is None else f"The default is {self.default}."
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or (self.type == "int" and not float(value).is_integer())
        ):
            span = f", {self._span()}" if self._span() else ""
            raise CnnvizError(
                f"{said}: expected {'a whole number' if self.type == 'int' else 'a number'}{span}.", default
            )
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise CnnvizError(f"{said} is out of range: {self._span()}.", default)
        return int(value) if self.type == "int" else float(value)

    def _span(self) -> str:
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"{low:g} to {high:g}"
        return f"{low:g} or more" if low is not None else f"{high:g} or less" if high is not None else ""


def _whole(number: Any) -> Any:
    """7 for 7.0, as it is shown in messages; anything else as it is."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def typed(text: str, param: Param) -> Any:
    """A value in the type of its option; what is of none stays text, and is refused with the option's name."""
    if param.type == "bool":
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.casefold(), text)
    if param.type in {"int", "float"}:
        try:
            return int(text) if param.type == "int" else float(text)
        except ValueError:
            return text
    return text


def _is_usable(value: Any) -> bool:
    """Whether a value, if it is a number, can be computed with: finite, and exact as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    return math.isfinite(value) and abs(value) < 10**15 if isinstance(value, float) else abs(value) < 10**15


def option(
    default: _Value,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    demands: Demand = "",
    replaces: str = "",
    metavar: str = "",
) -> _Value:
    """A field of an :class:`Options` class; its type says what values it takes.

    ``int``, ``float``, ``bool``; ``Literal`` of words for a choice; ``str`` for a text, :data:`FilePath` for a file,
    :data:`ClassName` for a class;
    ``tuple[int, int]`` for a size, ``tuple[str, ...]`` for an option that may be given several times; each also
    ``| None`` where the default is None.
    """
    facts = {"help": help, "minimum": minimum, "maximum": maximum, "unit": unit, "demands": demands}
    facts |= {"replaces": replaces, "metavar": metavar}
    declared: Any = field(default=default, metadata=facts)
    return declared  # type: ignore[no-any-return]


def background_option() -> str | None:
    """The option of methods that may compare an image with photographs; what runs is handed the photographs."""
    said = "Photographs in the place of --baseline: a folder, an archive, a list or an image."
    return option(None, said, demands="pictures", replaces="baseline", metavar="PATH")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """The options of one entry of the register, checked; itself those of an entry that takes none.

    Subclasses are frozen dataclasses. They become that when the first instance is made: making all of them takes a
    good part of the time of ``cnnviz --help``, which needs none.
    """

    declared: ClassVar[Mapping[str, Field[Any]]] = {}

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        if plain := [name for name in cls.__annotations__ if name not in own]:
            raise TypeError(f"{cls.__name__}.{plain[0]} is not declared with option().")
        cls.declared = {**cls.declared, **own}

    def __new__(cls, **values: Any) -> Options:
        for each in reversed(cls.__mro__):
            if issubclass(each, Options) and "__dataclass_fields__" not in vars(each):
                dataclass(frozen=True, kw_only=True)(each)
        return super().__new__(cls)

    def to_dict(self) -> dict[str, Any]:
        """Values by the names that scripts, files and reports use."""
        return {param.name: getattr(self, param.attribute) for param in params_of(type(self))}

    @property
    def starts_elsewhere(self) -> bool:
        """Whether a map explains something else than the target, which the options name."""
        return False

    def not_of_one_thing(self, *, moved: bool) -> str:
        """Why maps of several pictures made of one image, as copies and tiles are, do not show one thing; empty where
        they do.

        Args:
            moved: Whether a place of the image is another place in them.
        """
        return ""

    def with_classes(self: _AnyOptions, find: Callable[[str], int]) -> _AnyOptions:
        """The same with classes that are named replaced by their indices, as digits.

        Args:
            find: The index of a class by what a person calls it.
        """
        named = [param for param in params_of(type(self)) if param.type == "class"]
        words = {param.name: getattr(self, param.attribute) for param in named}
        return self.with_values({name: str(find(word)) for name, word in words.items() if word is not None})

    def with_pictures(self: _AnyOptions, read: Callable[[str], str]) -> _AnyOptions:
        """The same with the pictures that are named, read, in the place of their paths.

        Args:
            read: Makes of a path a text that has the pictures.
        """
        named = [param for param in params_of(type(self)) if param.demands == "pictures"]
        paths = {param.name: getattr(self, param.attribute) for param in named}
        # Those that somebody handed over are read already.
        return self.with_values({name: read(path) for name, path in paths.items() if type(path) is str})

    def with_values(self: _AnyOptions, values: Mapping[str, Any]) -> _AnyOptions:
        """The same with other values of the options that are named; they are not checked."""
        every = {**self.to_dict(), **values}
        return type(self)(**{param.attribute: every[param.name] for param in params_of(type(self))})


def params_of(options: type[Options]) -> tuple[Param, ...]:
    """The options that the fields of a class declare, in their order."""
    hints: dict[str, Any] = {}
    for each in reversed(options.__mro__):
        # Strings where the module postpones annotations, which those of the register do not: reading them takes time.
        hints.update(get_annotations(each, eval_str=True) if each not in (object, Options) else {})
    return tuple(_read_off(name, each, hints[name]) for name, each in options.declared.items())


def options_of(name: str, params: tuple[Param, ...]) -> type[Options]:
    """A class with a field for each of ``params``, for entries that list theirs.

    Raises:
        CnnvizError: A default that the option itself would refuse, or a name that no field can have.
    """
    wrong = [param.name for param in params if not param.attribute.isidentifier()]
    if wrong:
        raise CnnvizError(f"{name}: {wrong[0]!r} is no name for an option.", "Use letters, digits and underscores.")
    fields = {param.attribute: field(default=param.check(param.default), metadata={_WHOLE: param}) for param in params}
    body = {"__module__": __name__, "__annotations__": dict.fromkeys(fields, Any), **fields}
    return type("Options", (Options,), body)


def _read_off(name: str, declared: Field[Any], hint: Any) -> Param:
    if _WHOLE in declared.metadata:
        whole: Param = declared.metadata[_WHOLE]
        return whole
    kinds = [part for part in get_args(hint) if part is not NoneType] if NoneType in get_args(hint) else [hint]
    kind, default = kinds[0], declared.default
    choices: tuple[str, ...] = get_args(kind) if get_origin(kind) is Literal else ()
    if isinstance(default, tuple) and len(default) == 2 and default[0] == default[1]:
        default = default[0]  # of a square its side
    return Param(name.rstrip("_"), _type_of(kind), default, choices=choices, **declared.metadata)


def _type_of(kind: Any) -> ParamType:
    if get_origin(kind) is Literal:
        return "choice"
    if kind not in _TYPES:
        raise TypeError(f"An option cannot be of type {kind}.")
    return _TYPES[kind]
