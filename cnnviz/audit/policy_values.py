"""Values of a policy as its file has them: what is wrong is said with its line and its key, and what to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnviz.errors import CnnvizError, nearest, shown

_QUOTES = "Write it in quotes: YAML reads on, off, yes and no as true and false, 2024-01-01 as a date."


@dataclass(frozen=True)
class Written:
    """A policy, or one of its checks, as it is written.

    Attributes:
        path: The policy's file.
        values: By key; what has no value (``null``) is here too.
        lines: Where keys stand in the file, from 1; those within others as ``KEY.KEY``.
        within: The key in which these stand, with a full stop; empty for those of the file itself.
        what: What it is called in messages; empty for the file itself.
        line: Where it begins.
    """

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    within: str = ""
    what: str = ""
    line: int = 0

    def where(self, key: str = "") -> str:
        """The file and the line of a key, as an error begins."""
        line = self.lines.get(self.within + key, self.line)
        return f"policy {self.path}" + (f", line {line}" if line else "") + (f", {self.what}" if self.what else "")

    def refused(self, key: str, said: str, hint: str) -> CnnvizError:
        """What is wrong with the value of a key."""
        return CnnvizError(f"{self.where(key)}: {key}: {said}", hint)

    def check_keys(self, known: Sequence[str]) -> None:
        """Refuse a key that is none of those that are known."""
        for key in self.values:
            if key not in known:
                hint = nearest(str(key), known) or f"Keys: {', '.join(known)}."
                raise CnnvizError(f"{self.where(key)}: there is no key {shown(str(key))}.", hint)

    def word(self, key: str, words: Sequence[str], default: str) -> str:
        """One of several words."""
        value = self.values.get(key)
        value = default if value is None else value
        text = {"worst_group": "group"}.get(str(value), str(value))
        if text not in words:
            hint = nearest(text, words) or f"Write {key}: {default}"
            raise self.refused(key, f"{shown(value)} is none of {', '.join(words)}.", hint)
        return text

    def number(self, key: str, low: float, high: float, default: float) -> float:
        """A number from ``low`` to ``high``; a whole one where the default is."""
        value = self.values.get(key)
        value = default if value is None else value
        whole = isinstance(default, int)
        wrong = isinstance(value, bool) or not isinstance(value, int if whole else (int, float))
        if wrong or not low <= value <= high:
            span = f"from {low:g} to {high:g}" if high < 1e9 else f"of {low:g} or more"
            expected = f"expected a {'whole ' * whole}number {span}."
            raise self.refused(key, f"{shown(value)}: {expected}", f"For example {key}: {default:g}")
        return float(value)

    def text(self, key: str, example: str) -> str | None:
        """A text, or a number for one; None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            hint = f"For example {key}: {example}" if isinstance(value, (list, dict)) else _QUOTES
            raise self.refused(key, f"expected a text, got {shown(value)}.", hint)
        return str(value)

    def texts(self, key: str, example: str) -> tuple[str, ...]:
        """A text, or a list of texts; none where there is none."""
        value = self.values.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        for each in values:
            if not isinstance(each, str):
                said = f"expected a text, or a list of texts, got {shown(each)}."
                raise self.refused(key, said, f"For example {key}: {example}")
        return tuple(values)

    def mapping(self, key: str, example: str) -> dict[str, Any]:
        """Options with their values; none where there are none."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            said = f"expected options with values, got {shown(value)}."
            raise self.refused(key, said, f"For example {key}: {example}")
        return value
