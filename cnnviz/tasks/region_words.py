"""The words that ask for a class in a region of the image.

class:car            where the network finds the class (the same as class:car@pred)
class:car@all        the whole image
class:car@truth      where the annotations mark it
class:car@mask:FILE  where a picture of the photograph's size is not black (mask:FILE#12: where it has the value 12)
class:car@box:x,y,w,h, class:car@point:x,y     in pixels of the photograph, or in per cent: 10%,20%,30%,40%
segment:1            the largest connected part of the prediction, segment:2 the next (segment:largest is segment:1)
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.geometry.regions import Length, Region
from cnnviz.tasks import pairs

PREDICTED = Region("pred")
_KINDS = ("pred", "all", "truth", "mask", "box", "point")
_COUNTS = {"box": 4, "point": 2}
_MOST_SEGMENTS = 1000


@dataclass(frozen=True)
class RegionWord:
    """A class, by any word of ``--class``, in a region."""

    name: str
    region: Region
    spec: str


def parse_region(spec: str, labels: Collection[str] = ()) -> RegionWord:
    """A class in a region, of which the class is not looked up.

    Args:
        spec: Without ``class:`` in front.
        labels: Of the network: one that is called so, with its @, is meant.

    Raises:
        CnnvizError: What stands behind the ``@`` is no region.
    """
    name, at, text = spec.rpartition("@")
    kind, colon, rest = text.partition(":")
    if spec in labels or not at or (kind not in _KINDS and not colon and not nearest(kind, _KINDS)):
        return RegionWord(spec, PREDICTED, spec)  # a label may hold an @ of its own
    if not name.strip():
        raise CnnvizError(f"--target {shown(spec)}: no class stands before the @.", "For example class:pred@all")
    return RegionWord(name.strip(), _region(kind, rest, spec), spec)


def _region(kind: str, rest: str, spec: str) -> Region:
    if kind in ("pred", "all", "truth") and not rest:
        return Region(kind)  # type: ignore[arg-type]
    if kind == "mask" and rest:
        file, hash_, value = rest.rpartition("#")
        if hash_ and value.isascii() and value.isdecimal() and len(value) < 10:
            return Region("mask", file=file, value=int(value))
        return Region("mask", file=rest)
    if kind in _COUNTS:
        numbers = [length(part) for part in rest.split(",")]
        if len(numbers) == _COUNTS[kind] and None not in numbers:
            found = Region(kind, tuple(each for each in numbers if each is not None))  # type: ignore[arg-type]
            if kind == "point" or min(each.value for each in found.numbers[2:]) > 0:
                return found
    hint = nearest(kind, _KINDS) if kind not in _KINDS else ""
    raise CnnvizError(
        f"--target {shown(spec)}: expected @pred, @all, @truth, @mask:FILE, @box:x,y,w,h or @point:x,y.",
        hint or "Pixels of the photograph, or per cent, such as class:car@box:10%,20%,30%,40%",
    )


def region_named(spec: str) -> str:
    """The kind of region that stands behind an ``@``: ``box`` of ``car@box:1,2,3,4``; empty where none does."""
    kind = spec.partition("@")[2].partition(":")[0].strip()
    return kind if kind in _KINDS else ""


def two_sides(text: str) -> tuple[str, str] | None:
    """The two sides of ``diff:A,B``; a comma inside a region belongs to it."""
    return pairs.two_sides(text, _is_side)


def asks_place(spec: str) -> bool:
    """Whether a target of a network with scores at positions is of another region than where its class is found."""
    return spec.startswith("segment:") or any(f"@{kind}" in spec for kind in ("truth", "mask:", "box:", "point:"))


def _is_side(text: str) -> bool:
    """Whether a text without quotation marks is a class, a class in a region, or a segment."""
    try:
        return "," not in parse_region(text).name
    except CnnvizError:
        return False


def length(text: str) -> Length | None:
    """A number, or a number of per cent; None for anything else."""
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        return None
    return Length(value, percent) if math.isfinite(value) else None


def parse_segment(spec: str) -> int | None:
    """The place of a segment by size, from 0; None where something else is asked for.

    Raises:
        CnnvizError: It is neither ``largest`` nor a number from 1.
    """
    kind, _, rest = spec.partition(":")
    if kind != "segment":
        return None
    if rest == "largest":
        return 0
    if rest.isascii() and rest.isdecimal() and len(rest) < 9 and 1 <= int(rest) <= _MOST_SEGMENTS:
        return int(rest) - 1
    hint = nearest(rest, ("largest",)) or "For example segment:largest or segment:2; cnnviz targets lists them."
    raise CnnvizError(f"--target {shown(spec)}: expected segment:largest, or segment:N from 1.", hint)
