"""Output names: safe, relative and unique, whatever the input files are called."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

# A file name holds 255 bytes; ".<class label>.<method>.overlay.png" may take 120, and "~1234567" eight.
COMPONENT_BYTES = 255 - 120 - 8
NAME_BYTES = 1000
PART_BYTES = 60

_FORBIDDEN = frozenset('/\\<>:"|?*' if os.name == "nt" else "/\\")
_NO_PART = re.compile(r"[^\w\-]+")
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls, lone surrogates, line and paragraph separators


def safe_component(text: str) -> str:
    """One path component: no separators, no control characters, no lone surrogates, short, never a dot."""
    plain = "".join("_" if c in _FORBIDDEN or unicodedata.category(c) in _UNPRINTABLE else c for c in text)
    if plain.strip(".") == "":
        return "_"
    if len(plain.encode()) <= COMPONENT_BYTES:
        return plain
    stem, suffix = os.path.splitext(plain)
    if len(suffix.encode()) > 16:
        stem, suffix = plain, ""
    mark = "~" + _digest(text)  # two long names with the same beginning stay two
    room = COMPONENT_BYTES - len(suffix.encode()) - len(mark)
    return stem.encode()[:room].decode(errors="ignore") + mark + suffix


def safe_name(path: str | Iterable[str]) -> str:
    """A relative ``/``-separated name made of a path's components; ``..`` and roots are dropped."""
    parts = path.replace(os.sep, "/").split("/") if isinstance(path, str) else path
    name = "/".join(safe_component(part) for part in parts if part not in ("", ".", "..")) or "_"
    if len(name.encode()) > NAME_BYTES:
        name = f"{_digest(name)}/{name.rsplit('/', 1)[-1]}"
    return name


class Names:
    """Makes names unique, also for file systems that fold case or normalise Unicode.

    The first comer keeps its name; the next get ``~2``, ``~3``, … before the suffix. Keeps hashes only; two
    names that share a 61-bit hash by chance cost one of them a needless ``~2``.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._count: dict[int, int] = {}

    def unique(self, name: str) -> str:
        """This name, or the nearest free one. ``name`` must be safe already."""
        first = self._key(name)
        if first not in self._taken:
            self._taken.add(first)
            return name
        stem, suffix = os.path.splitext(name)
        while True:
            self._count[first] = self._count.get(first, 1) + 1
            other = f"{stem}~{self._count[first]}{suffix}"
            if (key := self._key(other)) not in self._taken:
                self._taken.add(key)
                return other

    def reserve(self, name: str) -> None:
        """Give this name to nobody else; it was given out before."""
        self._taken.add(self._key(name))

    @staticmethod
    def _key(name: str) -> int:
        return hash(_folded(name))


def unique_parts(texts: Sequence[str]) -> tuple[str, ...]:
    """A part of a file name for each text: all different, also where a file system folds case or normalises Unicode.

    Letters, digits, ``_`` and ``-`` only. Without dots, ``<name>.<part>.<kind>`` can be read from its end, so that
    the image ``x`` with the part ``a.b`` and the image ``x.a`` with the part ``b`` do not share a file. Texts that
    look alike get their index (``crane-134``, ``crane-517``); where another text is spelled like that, ``~2``, ….
    """
    plain = [_part(text) for text in texts]
    counts = Counter(map(_folded, plain))
    taken = {part for part, count in counts.items() if count == 1}
    found: list[str] = []
    for index, part in enumerate(plain):
        if counts[_folded(part)] > 1:
            numbered = part = f"{part}-{index}"
            tries = itertools.count(2)
            while _folded(part) in taken:
                part = f"{numbered}~{next(tries)}"
            taken.add(_folded(part))
        found.append(part)
    return tuple(found)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _part(text: str) -> str:
    valid = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    part = _NO_PART.sub("_", valid).strip("_") or "class"
    return part.encode()[:PART_BYTES].decode(errors="ignore")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
