"""The two sides of ``diff:A,B``."""

from __future__ import annotations

import csv
from collections.abc import Callable


def two_names(text: str) -> tuple[str, str] | None:
    """Two names at a comma; a label with commas of its own is put in quotation marks."""
    parts = [part.strip() for row in csv.reader([text], skipinitialspace=True) for part in row]
    named = len(parts) == 2 and all(part.removeprefix("class:").strip() for part in parts)
    return (parts[0], parts[1]) if named else None


def two_sides(text: str, is_side: Callable[[str], bool]) -> tuple[str, str] | None:
    """Two names, or the first comma at which both parts are sides: commas inside coordinates belong to them."""
    if (parts := two_names(text)) is not None:
        return parts
    commas = [place for place, character in enumerate(text) if character == ","]
    for first, second in ((text[:place].strip(), text[place + 1 :].strip()) for place in commas):
        if first and second and is_side(first) and is_side(second):
            return first, second
    return None
