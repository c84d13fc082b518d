"""``--units``: which units of a layer are meant."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from cnnviz.errors import CnnvizError

_FORMS = "Write numbers and ranges such as 0,7,20-30, or all, random:25, top:25 or selective:25."
_PART = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Choice:
    """What was asked for.

    Attributes:
        kind: ``all``, ``named``, ``random``, ``top`` or ``selective``.
        units: Those that were named, in the order given.
        count: How many, for ``random``, ``top`` and ``selective``.
    """

    kind: str
    units: tuple[int, ...] = ()
    count: int = 0

    def followed(self, channels: int, seed: int) -> tuple[int, ...]:
        """The units that the pass must look at: all for ``top`` and ``selective``, which are known only afterwards."""
        if self.kind == "named":
            return self.units
        if self.kind == "random":
            drawn = np.random.default_rng(seed).choice(channels, min(self.count, channels), replace=False)
            return tuple(sorted(drawn.tolist()))
        return tuple(range(channels))


def parse_numbers(text: str, flag: str, count: int, what: str) -> tuple[int, ...]:
    """``0,7,20-30`` or ``all`` of ``count`` filters or channels.

    Raises:
        CnnvizError: Another word, or a number too large; it names ``flag`` and how many of ``what`` there are.
    """
    if text.strip().lower() == "all":
        return tuple(range(count))
    found: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise CnnvizError(f"{flag} {text}: {part.strip()!r} is not a number.", "Write 0,7,20-30, or all.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= count:
            said = f"{flag} {text}: {part.strip()} does not exist: there are {count} {what}."
            raise CnnvizError(said, f"Use 0 to {count - 1}.")
        found.extend(range(first, last + 1))
    return tuple(dict.fromkeys(found))


def parse_units(text: str, channels: int, layer: str) -> Choice:
    """``0,7,20-30``, ``all``, ``random:N``, ``top:N`` or ``selective:N``.

    Raises:
        CnnvizError: Another word, or a unit that the layer does not have.
    """
    word = text.strip().lower()
    if word == "all":
        return Choice("all")
    kind, _, number = word.partition(":")
    if kind in {"random", "top", "selective"} and number.isascii() and number.isdigit() and int(number) > 0:
        return Choice(kind, count=int(number))
    units: list[int] = []
    for part in word.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise CnnvizError(f"--units {text}: {part.strip()!r} names no unit.", _FORMS)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise CnnvizError(f"--units {text}: {part.strip()} goes down.", _FORMS)
        if last >= channels:
            raise CnnvizError(
                f"--units {text}: unit {last} does not exist: layer {layer} has {channels}.",
                f"Use 0 to {channels - 1}.",
            )
        units.extend(range(first, last + 1))
    return Choice("named", tuple(dict.fromkeys(units)))
