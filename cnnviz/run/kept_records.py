"""The form in which a cache keeps the record of an image with its files: a line of JSON, then their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.io.store import Store
from cnnviz.records import Record, files_of
from cnnviz.schema.images import AnyImage, InputFile
from cnnviz.strict_json import from_json, to_json

Files = Sequence[tuple[str, bytes]]
_OF_RECORD = frozenset(Record("", None, None, None).to_dict("", None))
_LISTS = ("predictions", "explanations")


@dataclass(frozen=True)
class RestoredRecord(Record):
    """A record as an earlier run wrote it."""

    row: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self, name: str, source: InputFile | None) -> AnyImage:
        found: Any = {**self.row, "path": self.path, "name": name, "input": source}
        return found  # type: ignore[no-any-return]


def packed(head: Mapping[str, Any], files: Files) -> bytes:
    """What :func:`unpacked` takes apart again."""
    told = {**head, "files": [[name, len(data)] for name, data in files]}
    return b"".join([to_json(told).encode(), b"\n", *(data for _, data in files)])


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """The head and the files of an entry; None where it is not what :func:`packed` writes."""
    end = content.find(b"\n")
    try:
        head = from_json(content[: max(end, 0)])
        lengths = {str(name): int(length) for name, length in head["files"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(head, dict) or min(lengths.values(), default=0) < 0:
        return None
    if sum(lengths.values()) != len(content) - end - 1:
        return None
    files, at = {}, end + 1
    for name, length in lengths.items():
        files[name] = content[at : at + length]
        at += length
    return head, files


def record_of(content: bytes) -> tuple[Mapping[str, Any], Mapping[str, bytes]] | None:
    """The record and the files of an entry; None where it is not the record of an image.

    A cache may come from others: no file is written but those of an image that its record lists.
    """
    found = unpacked(content)
    if found is None:
        return None
    row, files = found[0].get("row"), found[1]
    try:
        listed = set(files_of(row))
    except RecursionError:
        return None
    if not isinstance(row, dict) or not row.keys() >= _OF_RECORD or row["error"] is not None:
        return None
    if files.keys() != listed or not all(map(_is_of_image, listed)):
        return None
    return (row, files) if all(isinstance(row[each], list) for each in _LISTS) else None


def restored(path: str, row: Mapping[str, Any], files: Mapping[str, bytes], store: Store) -> RestoredRecord:
    """Write the files of an image, and give its record."""
    for name, data in files.items():
        store.write(name, data)
    return RestoredRecord(path, row["width"], row["height"], row["label"], row=row)


def _is_of_image(name: str) -> bool:
    folder, *parts = name.split("/")
    return folder == "images" and bool(parts) and "\\" not in name and not {"", ".", ".."} & set(parts)
