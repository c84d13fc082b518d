"""The words that ask for boxes of a detector.

box:N              the N-th by score, from 1 (box:best is box:1)
box:class=car      the best one of a class, by any word of --class for one class
box:x,y,w,h        the one with the largest IoU with a box, in pixels of the photograph or per cent: 10%,20%,30%,40%

Behind each may stand what of it is explained: /score (its score, the default), /x0, /y0, /x1, /y1 (where an edge lies),
/box (the sum of the four edges).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from cnnviz.engine.box_targets import Part
from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.geometry.regions import Region
from cnnviz.tasks import pairs
from cnnviz.tasks.region_words import length

PARTS: tuple[Part, ...] = get_args(Part)
_MOST_BOXES = 100_000
_HINT = "For example box:1, box:best, box:class=car, box:10%,20%,30%,40% or box:2/x0"


@dataclass(frozen=True)
class BoxWord:
    """A box, as it was asked for: one of ``number`` (from 1), ``name`` of a class and ``region``."""

    spec: str
    part: Part
    number: int = 0
    name: str = ""
    region: Region | None = None


def parse_box(spec: str) -> BoxWord | None:
    """The box that a word means; None where it is of another kind.

    Raises:
        CnnvizError: It begins with ``box:`` and means none.
    """
    kind, colon, rest = spec.strip().partition(":")
    if kind != "box" or not colon:
        return None
    text, part = _parted(spec.strip(), rest.strip())
    if text == "best":
        return BoxWord(spec, part, number=1)
    if text.startswith("class=") and text.removeprefix("class=").strip():
        return BoxWord(spec, part, name=text.removeprefix("class=").strip())
    if text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST_BOXES:
        return BoxWord(spec, part, number=int(text))
    numbers = [length(each) for each in text.split(",")]
    found = tuple(each for each in numbers if each is not None)
    if len(numbers) == len(found) == 4 and min(each.value for each in found[2:]) > 0:
        return BoxWord(spec, part, region=Region("box", found))
    raise CnnvizError(
        f"--target {shown(spec)}: expected box:N from 1, box:best, box:class=NAME or box:x,y,w,h.",
        nearest(text, ("best",)) or _HINT,
    )


def _parted(spec: str, text: str) -> tuple[str, Part]:
    """The text before the last slash, and which number of the box is asked for."""
    before, slash, last = text.rpartition("/")
    if slash and last in PARTS:
        return before, last
    if slash and not text.startswith("class="):
        hint = nearest(last, PARTS) or f"Use one of {', '.join('/' + part for part in PARTS)}."
        raise CnnvizError(f"--target {shown(spec)}: a box has no /{last}.", hint)
    return text, "score"


def two_boxes(text: str) -> tuple[str, str] | None:
    """The two sides of ``diff:A,B``; the commas inside ``box:x,y,w,h`` belong to it."""
    return pairs.two_sides(text, _is_side)


def _is_side(text: str) -> bool:
    try:
        return parse_box(text) is not None or "," not in text
    except CnnvizError:
        return False
