"""Tables of labels: CSV files that say which class an image is."""

from __future__ import annotations

import csv
import os

from cnnviz.errors import CnnvizError

_LABEL_COLUMNS = ("class_index", "label", "class", "name")


def read_label_table(path: str) -> dict[str, tuple[str, ...]]:
    """Labels by image from a CSV file: the first column (or ``path``) and ``class_index``, ``label`` or ``class``.

    Args:
        path: The file. A header is optional; without one the columns are path, label. One image may stand in
            several rows.

    Returns:
        Labels by the path as written and by its absolute path, taken relative to the table's folder.

    Raises:
        CnnvizError: The file cannot be read or has fewer than two columns.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, csv.Error) as error:
        raise CnnvizError(
            f"The label table {path} cannot be read: {error}.", "Give a CSV file: path,label"
        ) from error
    if not rows or any(len(row) < 2 for row in rows):
        raise CnnvizError(
            f"The label table {path} needs two columns in every row.", "Write one image a line: path,label"
        )
    header = [cell.strip().lower() for cell in rows[0]]
    where = header.index("path") if "path" in header else 0
    what = next((header.index(name) for name in _LABEL_COLUMNS if name in header), 1)
    body = rows[1:] if "path" in header or header[what] in _LABEL_COLUMNS else rows
    folder = os.path.dirname(os.path.abspath(path))
    table: dict[str, tuple[str, ...]] = {}
    for row in body:
        for key in (row[where], os.path.normpath(os.path.join(folder, row[where]))):
            table[key] = (*table.get(key, ()), row[what].strip())
    return table
