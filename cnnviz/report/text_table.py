"""Figures of several methods as lines of text, for a terminal: no line is wider than eighty columns.

Columns that do not fit stand below, with the methods' names once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnviz.report.figures_table import ARROWS, BEYOND_CHANCE, beats_all, counts, value_of

_WIDEST = 80
_GAP = "  "
_MARK = "*"


def text_table(
    rows: Mapping[str, Mapping[str, Any]], heads: Mapping[str, str], methods: Sequence[str], command: str
) -> list[str]:
    """A row a method, a column a figure, with its interval.

    Args:
        rows: By method, by figure, a mapping with ``value``, ``ci95`` and ``better_than``.
        heads: What stands above the columns, by figure. A column that no row has a value of is left out; without any
            there is a sentence.
        methods: Which rows are methods: one that is better than all others is marked.
        command: Of the comparison.
    """
    used = {name: head for name, head in heads.items() if any(value_of(row, name) is not None for row in rows.values())}
    if not used:
        return [
            "nothing to compare: the metrics have no figure of the run (the records have what they say of each map)"
        ]
    columns = [[head, *_cells(rows, name, methods)] for name, head in used.items()]
    first = ["method", *rows]
    lines = [line for some in _fitting(columns, max(map(len, first))) for line in _lines([first, *some])]
    marked = any(_MARK in cell for column in columns for cell in column)
    of = counts(rows, {name: head.rstrip("".join(ARROWS.values())) for name, head in used.items()})
    return [*lines, *filter(None, [of]), *_legend(columns, methods, command, marked=marked)]


def _legend(columns: Sequence[Sequence[str]], methods: Sequence[str], command: str, *, marked: bool) -> list[str]:
    """What parentheses and marks mean, where there are any."""
    said = []
    if any("(" in cell for _, *cells in columns for cell in cells):
        said.append("in parentheses: 95 % intervals")
    if len(methods) > 1:
        better = f"better than every other method {BEYOND_CHANCE[command]}"
        said.append(f"{_MARK} {better}" if marked else f"no method is {better}")
    return ["; ".join(said)] if said else []


def _cells(rows: Mapping[str, Mapping[str, Any]], name: str, methods: Sequence[str]) -> list[str]:
    """Values below each other, then a mark, then intervals below each other."""
    values = [value_of(row, name) for row in rows.values()]
    shown = ["-" if value is None else f"{value:.3g}" for value in values]
    marks = [_MARK if beats_all(rows, name, row, methods) else "" for row in rows]
    spans = [(row.get(name) or {}).get("ci95") for row in rows.values()]
    wide, mark = max(map(len, shown)), max(map(len, marks))
    return [
        f"{value.rjust(wide)}{own.ljust(mark)}" + ("" if span is None else f" ({span[0]:.3g} to {span[1]:.3g})")
        for value, own, span in zip(shown, marks, spans, strict=True)
    ]


def _fitting(columns: Sequence[Sequence[str]], first: int) -> Iterator[list[Sequence[str]]]:
    """The columns, so many at a time as stand side by side behind the first one."""
    some: list[Sequence[str]] = []
    width = first
    for column in columns:
        wide = len(_GAP) + max(map(len, column))
        if some and width + wide > _WIDEST:
            yield some
            some, width = [], first
        some.append(column)
        width += wide
    yield some


def _lines(columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
