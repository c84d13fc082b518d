"""The two sides of ``diff:A,B``."""

from __future__ import annotations

import csv


def two_names(text: str) -> tuple[str, str] | None:
    """Two names at a comma; a label with commas of its own is put in quotation marks."""
    parts = [part.strip() for row in csv.reader([text], skipinitialspace=True) for part in row]
    named = len(parts) == 2 and all(part.removeprefix("class:").strip() for part in parts)
    return (parts[0], parts[1]) if named else None
