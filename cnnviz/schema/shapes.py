"""What types of the report say beyond Python's own: lengths, ranges, what tells the members of a union apart.

The types of a report are the TypedDicts of this package, each key with a docstring of one sentence. A key that is not
there in every file is ``NotRequired``; ``None`` is written as ``null``. ``python docs/schema.py`` makes the JSON Schema
and ``docs/report.md`` from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

C = TypeVar("C", bound=type)

EXTRAS: dict[type, str] = {}
"""Types that may have further keys, and what these are; all others are closed."""


@dataclass(frozen=True)
class Length:
    """A list of exactly so many items."""

    items: int


@dataclass(frozen=True)
class AtLeast:
    """A number that is not below this one."""

    minimum: float


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``."""

    low: float
    high: float


@dataclass(frozen=True)
class OneOf:
    """Text that is one of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Pattern:
    """Text that this regular expression matches."""

    regex: str


@dataclass(frozen=True)
class Says:
    """The description of a key that is a word of Python and can have no docstring."""

    text: str


@dataclass(frozen=True)
class By:
    """What tells the members of a union apart: the key at this path, by its literal value or its absence.

    The first member that fits holds; the last one holds for everything else.
    """

    path: tuple[str, ...]


def open_to(what: str) -> Callable[[C], C]:
    """Mark a type as open: besides its own keys it may have others, ``what``."""

    def marked(kind: C) -> C:
        EXTRAS[kind] = what
        return kind

    return marked


Count = Annotated[int, AtLeast(0)]
"""A number of things."""
Share = Annotated[float, Between(0.0, 1.0)]
"""A share of a whole, 0 to 1."""
Sha256 = Annotated[str, Pattern("^[0-9a-f]{64}$")]
"""A SHA-256 digest in hexadecimal digits."""
Pixel = Annotated[list[int], Length(2)]
"""[x, y] of a pixel of the upright image, from the top left."""
Point = Annotated[list[float], Length(2)]
"""[x, y] in pixels of the upright image, from the top left."""
Box = Annotated[list[int], Length(4)]
"""[x, y, width, height] in whole pixels of the upright image, from the top left."""
Rectangle = Annotated[list[float], Length(4)]
"""[x, y, width, height] in pixels of the upright image, from the top left."""
Size = Annotated[list[int], Length(2)]
"""[height, width]."""
Interval = Annotated[list[float], Length(2)]
"""[lowest, highest]."""
Shape = Annotated[list[int], Length(3)]
"""[channels, height, width]."""
Files = dict[str, str]
"""File names relative to the run's folder, by kind."""
