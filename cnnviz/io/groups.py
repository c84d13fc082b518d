"""A table of paths and groups."""

from __future__ import annotations

import csv
import os

from cnnviz.errors import CnnvizError


def read_groups(path: str) -> dict[str, str]:
    """Groups by path: as written, beside the table, and by file name where that is unique.

    Raises:
        CnnvizError: It cannot be read, or lacks a column ``path`` or ``group``.
    """
    found: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not {"path", "group"} <= set(reader.fieldnames or ()):
                raise CnnvizError(f"groups {path}: expected columns path and group.", "First line: path,group")
            for row in reader:
                name, group = str(row["path"]), str(row["group"])
                for plain in dict.fromkeys((name, name.replace("\\", "/"))):  # a table that was written on Windows
                    found[plain] = found[os.path.abspath(os.path.join(os.path.dirname(path), plain))] = group
                names.setdefault(os.path.basename(name.replace("\\", "/")), set()).add(group)
    except (OSError, ValueError, csv.Error) as error:
        raise CnnvizError(f"groups {path}: cannot be read ({error}).", "Give a CSV file: path,group") from error
    for name, groups in names.items():
        if len(groups) == 1:
            found.setdefault(name, next(iter(groups)))
    return found
