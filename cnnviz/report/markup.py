"""Texts, numbers and links as HTML: names and labels are untrusted, so everything is escaped and spelled out."""

from __future__ import annotations

import html
import os
import unicodedata
from urllib.parse import quote

from cnnviz.errors import in_percent


def percent(probability: float) -> str:
    """:func:`~cnnviz.errors.in_percent` as text of a page."""
    return html.escape(in_percent(probability))


def text(value: object) -> str:
    """Any value as text of a page or of a quoted attribute."""
    return html.escape(printable(str(value)), quote=True)


def printable(text: str) -> str:
    r"""The text with everything spelled out that a page cannot show, or that would hide what it says.

    Bytes that were no UTF-8 become ``\xe9``, control characters ``\n``, ``\x1b`` and the like, marks that
    turn the direction of writing ``\u202e``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(character) for character in text)


def _spelled(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _TURNING:
        return character.encode("unicode_escape").decode("ascii")
    return character


_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


class Address(str):
    """What is an address already, such as a ``data:`` one that we made."""


def link(path: object) -> str:
    """A path relative to the page as a URL: its bytes, percent-encoded, so that no name is markup."""
    if isinstance(path, Address):
        return path
    url = quote(_bytes(str(path)).replace(os.sep.encode(), b"/"))
    # "//host/x" would name another server.
    return f".{url}" if url.startswith("/") else url


def anchor(name: object, place: int = 0) -> str:
    """The ``id`` of the card of a record of this name: as a quoted attribute, and after a ``#``.

    Args:
        name: Of the record.
        place: Number of its run on the page.
    """
    return f"image-{f'{place}-' if place else ''}{quote(_bytes(str(name)), safe='')}"


def _bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
