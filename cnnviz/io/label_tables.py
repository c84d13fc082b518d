"""Tables that name images and their classes: the one reader of ``--class FILE.csv`` and of a list as INPUT."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.cells import without_guard

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_id", "uri")
_INDEX_COLUMNS = ("class_index", "class_idx", "class_id")
_LABEL_COLUMNS = ("label", "class", "name", "class_name", "category", "wnid")
_DELIMITERS = ";\t"
_MOST_DIGITS = 9
LABEL_TABLES = (".csv", ".tsv")
"""How the names of tables of labels end."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row of a table.

    Attributes:
        path: As written.
        label: What the table calls the image, or None.
        index: The class as an index, where a column says that it holds indices.
    """

    path: str
    label: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class _Columns:
    path: int = 0
    label: int = 1
    is_index: bool = False


def is_label_table(spec: str) -> bool:
    """Whether a word of ``--class`` names a table of labels."""
    return spec.lower().endswith(LABEL_TABLES)


def read_image_rows(path: str) -> Iterator[ImageRow]:
    """Images and their labels, row by row, from a CSV file; semicolons or tabs may stand for the commas.

    With a header the columns are told by their names, in any order: ``path``, ``file``, ``filename``, … and
    ``class_index`` (indices), ``label``, ``class`` or ``name``. Without one they are path, label. A guard that keeps
    spreadsheet programs from running a cell (:mod:`cnnviz.io.cells`) is taken off.

    Raises:
        CnnvizError: The file cannot be read, or is not CSV.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            if stream.read(1) != "\ufeff":
                stream.seek(0)
            start = stream.tell()
            delimiter = _delimiter(stream.readline(1 << 16), path)
            stream.seek(start)
            columns = _Columns()
            for number, cells in enumerate(csv.reader(stream, delimiter=delimiter)):
                if number == 0 and (header := _header(cells)):
                    columns = header
                elif len(cells) > columns.path and cells[columns.path].strip():
                    yield _row(cells, columns)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CnnvizError(f"the list {shown(path)} cannot be read: {reason}", "Give a CSV file: path,label") from error
    except csv.Error as error:
        raise CnnvizError(f"the list {path!r} is not CSV: {error}", "Use two columns: path,label.") from error


def is_index(text: str) -> bool:
    """Whether a text is a number that may be the index of a class: digits alone, no more than nine."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def _row(cells: Sequence[str], columns: _Columns) -> ImageRow:
    path = without_guard(cells[columns.path].strip())
    label = without_guard(cells[columns.label].strip()) if len(cells) > columns.label else ""
    index = int(label) if columns.is_index and is_index(label) else None
    return ImageRow(path, label or None, index)


def _delimiter(line: str, path: str) -> str:
    if path.lower().endswith(".tsv"):
        return "\t"  # labels may have commas
    if "," in line:
        return ","
    return next((delimiter for delimiter in _DELIMITERS if delimiter in line), ",")


def _header(row: Sequence[str]) -> _Columns | None:
    """Where path and label are, when this row is a header: one of its cells is a known name of a column."""
    cells = [cell.strip().casefold() for cell in row]
    path_at = next((cells.index(name) for name in _PATH_COLUMNS if name in cells), None)
    label_at = next((cells.index(name) for name in (*_INDEX_COLUMNS, *_LABEL_COLUMNS) if name in cells), None)
    if path_at is None and (label_at is None or any(set(cell) & set("./") for cell in cells)):
        return None  # "x.jpg,category" is an image of the class "category"
    if path_at is None:
        path_at = 1 if label_at == 0 else 0
    if label_at is None:
        label_at = 1 if path_at == 0 else 0
    return _Columns(path_at, label_at, label_at < len(cells) and cells[label_at] in _INDEX_COLUMNS)


def read_label_table(path: str) -> dict[str, tuple[str | int, ...]]:
    """Labels by image from a table; an ``int`` is an index. One image may stand in several rows.

    Returns:
        Labels by the path as written and by its absolute path, taken relative to the table's folder.

    Raises:
        CnnvizError: The file cannot be read or has no labels.
    """
    folder = os.path.dirname(os.path.abspath(path))
    table: dict[str, tuple[str | int, ...]] = {}
    for row in read_image_rows(path):
        label = row.label if row.index is None else row.index
        if label is None:
            continue
        for key in dict.fromkeys((row.path, os.path.normpath(os.path.join(folder, row.path)))):
            table[key] = (*table.get(key, ()), label)
    if not table:
        raise CnnvizError(f"The label table {path} has no labels.", "Write one image a line: path,label")
    return table
