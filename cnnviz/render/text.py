"""Words in pictures: written with the font that comes with Pillow, shortened to fit, never as boxes."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

from PIL import ImageDraw, ImageFont

from cnnviz.errors import in_percent

_PROBE_SIZE, _LONGEST = 17, 4096

# What Unicode does not decompose into letters that the font has.
_PLAIN = {
    **dict.fromkeys("‐‑‒–—−", "-"), **dict.fromkeys("‘’‚", "'"), **dict.fromkeys("“”„", '"'),
    "×": "x", "ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe",
}  # fmt: skip

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, fill: Colour, width: int) -> int:
    """Write text, shortened to ``width`` pixels; returns the pixels it took."""
    shown = fitted(text, size, width)
    draw.text(corner, shown, font=font(size), fill=fill)
    return int(font(size).getlength(shown))


def fitted(text: str, size: int, width: int) -> str:
    """The text as the font can write it, with an ellipsis where ``width`` pixels end it."""
    text = printable(text)
    face = font(size)
    # No glyph is narrower than a pixel: nothing beyond that many characters can fit.
    if len(text) <= width and face.getlength(text) <= width:
        return text
    text = text[: max(0, width)]
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def length(text: str, size: int) -> int:
    """The pixels that a text takes."""
    # Of more characters than any picture is wide nothing is drawn.
    return math.ceil(font(size).getlength(printable(text[:_LONGEST])))


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """The text as the font can write it, in lines of ``width`` pixels; an ellipsis ends the last of ``most`` lines.

    Lines are broken at spaces, and words such as paths that are longer than a line where it ends.
    """
    face, lines = font(size), [""]
    for word in printable(text[:_LONGEST]).split():
        joined = f"{lines[-1]} {word}".lstrip()
        if len(lines) == most or face.getlength(joined) <= width:
            lines[-1] = joined
        elif face.getlength(word) <= width:
            lines.append(word)
        else:
            lines[-1] = joined
            while len(lines) < most and face.getlength(lines[-1]) > width:
                begun = _begun(lines[-1], size, width)
                lines[-1:] = [begun.rstrip(), lines[-1][len(begun) :].lstrip()]
    return [fitted(line, size, width) for line in lines]


def _begun(word: str, size: int, width: int) -> str:
    """As much of a word as has room; a character at least."""
    count = max(1, min(len(word), width))
    while count > 1 and font(size).getlength(word[:count]) > width:
        count -= 1
    return word[:count]


def printable(text: str) -> str:
    """The text in characters that the font has: accents dropped where it must be, ``?`` for the rest.

    Control characters and runs of white space become single spaces.
    """
    words = " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())
    return "".join(_glyphs(character) for character in words)


@cache
def _glyphs(character: str) -> str:
    if _has_glyph(character):
        return character
    if unicodedata.category(character) in ("Mn", "Cf"):
        return ""
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if unicodedata.category(c) != "Mn")
    plain = _PLAIN.get(character, plain)
    return plain if plain and all(_has_glyph(c) for c in plain) else "?"


@cache
def _has_glyph(character: str) -> bool:
    if unicodedata.category(character) == "Cs":
        return False
    # U+FFFF is no character, so what is drawn for it is the font's sign for "missing".
    face = font(_PROBE_SIZE)
    mask, missing = face.getmask(character), face.getmask("\uffff")
    return character == " " or (mask.size, bytes(mask)) != (missing.size, bytes(missing))


@cache
def font(size: int) -> Font:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def number(value: float) -> str:
    """Three digits."""
    return "0" if value == 0.0 else f"{value:.3g}"


def percent(probability: float | None) -> str:
    """:func:`~cnnviz.errors.in_percent`; of no probability nothing."""
    return "" if probability is None else in_percent(probability)
