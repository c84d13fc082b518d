"""Class names from a file: every common form, by columns, in the order of the network's outputs."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnnviz.errors import CnnvizError, nearest_file, shown
from cnnviz.io.label_tables import is_index
from cnnviz.io.label_words import of_another_number, told_of_unnamed
from cnnviz.io.structured import load_json, load_yaml

# Keys under which common tools keep the names: YOLO data.yaml, Hugging Face config.json, hand-written files.
_BY_INDEX = ("names", "id2label", "labels", "classes", "categories")
_BY_NAME = ("class_to_idx", "label2id")
_HEADERS = {"name", "names", "label", "labels", "class", "classes", "category"}
_INDEX_HEADERS = {"index", "idx", "id", "class_index", "class_id", "class_idx", "output"}
_WNID = re.compile(r"n\d{8}")
_FIRST_NUMBER = re.compile(r"\s*(\d{1,9})(?:\s*[,;:.)\t]\s*|\s+)(\S.*?)\s*")
_LAST_NUMBER = re.compile(r"\s*(\S.*?)(?:\s*[,;:\t]\s*|\s+)(\d{1,9})\s*")
_WNID_FIRST = re.compile(r"(n\d{8})[\s,;:]+(\S.*?)\s*")
_WNID_AND_NUMBER = re.compile(r"(n\d{8})[\s,;:]+\d{1,9}[\s,;:]+(\S.*?)\s*")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class ClassNames:
    """What a file says of the network's outputs.

    Attributes:
        names: One name for each output.
        synsets: WordNet ids such as ``n01440764``, one for each output, where the file has them.
        notes: How it was read, wherever another reading would have been possible.
        unnamed: The outputs whose names are only numbers, of indices that the file leaves out or gives no name.
    """

    names: tuple[str, ...]
    synsets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unnamed: tuple[int, ...] = ()


def read_class_names(path: str | Path, num_classes: int | None = None) -> ClassNames:
    """Class names from a file, in the order of the network's outputs.

    Args:
        path: One name a line, also behind a WordNet id, an index or both; JSON or YAML with a list, a mapping from
            index to name or from name to index, or torchvision's ``{"0": ["n01440764", "tench"]}``; CSV, also with
            semicolons or tabs, with ``index,name`` or one name a row.
        num_classes: How many outputs the network has, or None to take the file's word.

    Raises:
        CnnvizError: if the file cannot be read, can be read in two ways that differ, or holds another number of
            names; both numbers are named.
    """
    path = Path(path)
    found = _named(_parse(_text(path), path), path, num_classes)
    names = found.names
    if num_classes is not None and len(names) == num_classes + 1 and names[0].casefold() in _HEADERS:
        found = replace(found, names=names[1:])
    if not found.names:
        raise CnnvizError(f"the labels file {path} holds no names", "write one class name a line")
    one_logit = num_classes == 1 and len(found.names) == 2
    if num_classes is not None and len(found.names) != num_classes and not one_logit:
        raise of_another_number(path, found, num_classes)
    notes = (*found.notes, *told_of_unnamed(found.unnamed))
    return replace(found, notes=tuple(f"{path.name}: {note}" for note in notes))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise CnnvizError(
                f"the labels file {path} is not UTF-8 text (byte {error.start})",
                "save it as UTF-8, one class name a line",
            ) from error
        raise CnnvizError(
            f"cannot read the labels file {str(path)!r}: {getattr(error, 'strerror', None) or error}",
            nearest_file(path.name, _neighbours(path)) or "give --labels FILE with one class name a line",
        ) from error


def _neighbours(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)[:10_000]
    except (OSError, ValueError):
        return []


def _parse(text: str, path: Path) -> Any:
    """The file's content as :class:`ClassNames`, or as the list or mapping that it holds."""
    suffix = path.suffix.casefold()
    looks_structured = text.lstrip().startswith(("{", "["))
    if suffix in (".csv", ".tsv"):
        return _from_csv(text, path)
    if suffix not in (".json", ".yaml", ".yml") and not looks_structured:
        lines = [line.strip() for line in text.splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        return _from_lines(lines)
    try:
        return load_json(text)
    except ValueError as error:
        if suffix == ".json":
            raise CnnvizError(
                f"the labels file {path} is not JSON: {error}", "check it with python -m json.tool"
            ) from error
    try:
        return load_yaml(text, plain=True)
    except ValueError as error:
        raise CnnvizError(f"the labels file {path} is not YAML: {error}", "write a list of names") from error


# Lines and columns.


def _from_lines(lines: Sequence[str]) -> ClassNames | list[str]:
    """Names alone, or behind a WordNet id, a number or both, or before a number: all lines in the same way."""
    for pattern in (_WNID_AND_NUMBER, _WNID_FIRST):
        rows = [pattern.fullmatch(line) for line in lines]
        if rows and all(rows):
            return _by_synset([(row[1], row[2]) for row in rows if row], sort=pattern is _WNID_AND_NUMBER)
    rows = [_FIRST_NUMBER.fullmatch(line) for line in lines]
    if len(rows) > 1 and all(rows):
        pairs = [(int(row[1]), row[2]) for row in rows if row]
        if counted := _counted(pairs):
            return counted
    rows = [_LAST_NUMBER.fullmatch(line) for line in lines]
    if len(rows) > 1 and all(rows):
        pairs = [(int(row[2]), row[1]) for row in rows if row]
        # "class 0", "class 1", … are names that end in a number.
        if len({name for _, name in pairs}) == len(pairs) and (counted := _counted(pairs)):
            return counted
    return list(lines)


def _by_synset(rows: Sequence[tuple[str, str]], *, sort: bool) -> ClassNames:
    """Rows of a WordNet id and a name.

    Args:
        rows: Of the file.
        sort: A number stood beside the id: that of the class in the ImageNet challenge, not of an output.
    """
    ids = [wnid for wnid, _ in rows]
    if twice := next((wnid for wnid, count in Counter(ids).items() if count > 1), None):
        raise CnnvizError(f"the labels file names {twice} twice", "keep one line for each class")
    notes: tuple[str, ...] = ()
    if sort:
        rows = sorted(rows)
        notes = ("the classes are in the order of their WordNet ids; the numbers beside these were not used",)
    elif ids != sorted(ids):
        notes = ("the classes are in the order of the lines, whose WordNet ids are not sorted",)
    return _of_column([name for _, name in rows], tuple(wnid for wnid, _ in rows), notes)


def _of_column(cells: Sequence[str], synsets: tuple[str, ...], notes: tuple[str, ...]) -> ClassNames:
    """Names in a table, some of which may be empty."""
    unnamed = tuple(at for at, cell in enumerate(cells) if not cell)
    return ClassNames(tuple(cell or f"class {at}" for at, cell in enumerate(cells)), synsets, notes, unnamed)


def _counted(pairs: Sequence[tuple[int, str]]) -> ClassNames | None:
    """Names by number, if the numbers are those from 0 or from 1 on, each once."""
    ordered = sorted(pairs, key=lambda pair: pair[0])
    first = ordered[0][0]
    if first not in (0, 1) or [number for number, _ in ordered] != list(range(first, first + len(ordered))):
        return None
    note = "the numbers beside the names are the indices of the outputs"
    return ClassNames(tuple(name for _, name in ordered), (), (_ONE_BASED if first else note,))


_ONE_BASED = "it counts from 1: its class 1 is output 0"


def _from_csv(text: str, path: Path) -> Any:
    """:class:`ClassNames`, a list of names, or a mapping from index to name."""
    try:
        rows, delimiter = _rows(text)
    except csv.Error as error:
        raise CnnvizError(f"the labels file {path} is not CSV: {error}", "write index,name in every row") from error
    if not rows or min(map(len, rows)) < 2:
        return [row[0] for row in rows]
    width = min(map(len, rows))
    for body in (rows, rows[1:]):
        if not body:
            continue
        wnid = next((at for at in range(width) if all(_WNID.fullmatch(row[at]) for row in body)), None)
        number = next((at for at in range(width) if all(_is_index(row[at]) for row in body)), None)
        if wnid is None and number is None:
            continue
        header = [cell.casefold() for cell in rows[0]] if body is not rows else []
        name = _name_column(header, width, {wnid, number})
        if number is None or (wnid is not None and not _is_output(header, body, (wnid, number))):
            return _by_synset([(row[wnid or 0], row[name]) for row in body], sort=number is not None)
        found = _unique([(row[number], row[name]) for row in body])
        return {"id2label": found} if header else found
    header = [cell.casefold() for cell in rows[0]]
    name = next((at for at, cell in enumerate(header[:width]) if cell in _HEADERS), 0)
    if delimiter != "," and name == 0 and header[0] not in _HEADERS:
        return [line.strip() for line in text.splitlines() if line.strip()]  # names that have a semicolon in them
    body = rows[1:] if header[name] in _HEADERS else rows
    note = f"column {name + 1} of {width} has the names"
    return _of_column([row[name] for row in body], (), (note,))


def _rows(text: str) -> tuple[list[list[str]], str]:
    """Cells of all rows, by the first delimiter that gives every row the same number of columns above one."""
    found: list[list[str]] = []
    for delimiter in _DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [[cell.strip() for cell in row] for row in reader if any(row)]
        if rows and min(map(len, rows)) > 1:
            return rows, delimiter
        found = found or rows
    return found, ","


def _is_output(header: Sequence[str], body: Sequence[Sequence[str]], columns: tuple[int, int]) -> bool:
    """Whether the numbers beside WordNet ids are outputs: the header says so, or they rise with the ids."""
    wnid, number = columns
    if header and header[number] in _INDEX_HEADERS:
        return True
    numbers = [int(row[number]) for row in sorted(body, key=lambda row: row[wnid])]
    return numbers == sorted(numbers)


def _name_column(header: Sequence[str], width: int, taken: set[int | None]) -> int:
    named = [at for at, cell in enumerate(header[:width]) if cell in _HEADERS and at not in taken]
    return next(iter([*named, *(at for at in range(width) if at not in taken)]), 0)


def _unique(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, name in pairs:
        if index in found:
            raise CnnvizError(
                f"the labels file names class {index} twice: {shown(found[index])} and {shown(name)}",
                "keep one of them",
            )
        found[index] = name
    return found


# Lists and mappings.


def _named(content: Any, path: Path, num_classes: int | None) -> ClassNames:
    """The names in order; gaps of a mapping are numbered."""
    if isinstance(content, ClassNames):
        return content
    if isinstance(content, Mapping):
        for key in (*_BY_INDEX, *_BY_NAME):
            inner = content.get(key)
            if isinstance(inner, Mapping):
                return _from_mapping(inner, path, num_classes, "name" if key in _BY_NAME else "index")
            if isinstance(inner, list):
                return _from_list(inner, path, num_classes)
        return _from_mapping(content, path, num_classes, "")
    if isinstance(content, list):
        return _from_list(content, path, num_classes)
    raise CnnvizError(
        f"the labels file {path} holds {type(content).__name__}, not a list of names or a mapping",
        'write a list ["cat", "dog"] or a mapping {"0": "cat", "1": "dog"}',
    )


def _from_list(content: Sequence[Any], path: Path, num_classes: int | None) -> ClassNames:
    if len(content) - 1 == num_classes and str(content[0]).casefold() in _HEADERS:
        content = content[1:]
    names = tuple(_name(item, index, path) for index, item in enumerate(content))
    synsets = _synsets(list(content)) or _synsets([[name, name] for name in names])
    return ClassNames(names, synsets, (), tuple(at for at, item in enumerate(content) if not _is_named(item)))


def _synsets(items: Sequence[Any]) -> tuple[str, ...]:
    """Of torchvision's ``[wnid, name]`` pairs."""
    pairs = [item[0] for item in items if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)]
    return tuple(pairs) if len(pairs) == len(items) and all(map(_WNID.fullmatch, pairs)) else ()


def _from_mapping(content: Mapping[Any, Any], path: Path, num_classes: int | None, keys: str) -> ClassNames:
    """``keys`` says what the keys are, ``index`` or ``name``; empty to find out."""
    by_id = content and all(isinstance(key, str) and _WNID.fullmatch(key) for key in content)
    if by_id and not all(map(_is_index, content.values())):
        ordered = sorted(content.items(), key=lambda pair: str(pair[0]))
        names = tuple(_name(value, index, path) for index, (_, value) in enumerate(ordered))
        return ClassNames(names, tuple(key for key, _ in ordered), ("the classes are in the order of their ids",))
    direction = keys if keys and _fits(content, keys) else _direction(content, path)
    pairs = [(value, key) if direction == "name" else (key, value) for key, value in content.items()]
    by_index = {int(index): name for index, name in pairs}
    if len(by_index) != len(pairs):
        raise CnnvizError(f"the labels file {path} names a class index twice", "give every index one name")
    notes: tuple[str, ...] = ()
    if 0 not in by_index and len(by_index) == num_classes and set(by_index) == set(range(1, len(by_index) + 1)):
        by_index, notes = {index - 1: name for index, name in by_index.items()}, (_ONE_BASED,)
    size = max(by_index, default=-1) + 1
    if size > 10 * len(by_index) + 100:
        raise CnnvizError(
            f"the labels file {path} names {len(by_index)} classes but counts up to {size - 1}",
            "the keys must be the indices of the network's outputs",
        )
    names = tuple(_name(by_index.get(index), index, path) for index in range(size))
    synsets = _synsets([by_index.get(index) for index in range(size)])
    unnamed = tuple(index for index in range(size) if not _is_named(by_index.get(index)))
    return ClassNames(names, synsets, notes, unnamed)


def _fits(content: Mapping[Any, Any], keys: str) -> bool:
    return all(map(_is_index, content if keys == "index" else content.values()))


def _direction(content: Mapping[Any, Any], path: Path) -> str:
    """What the keys of a mapping are: the side that counts 0 … K-1 is the index."""
    by_key, by_value = _fits(content, "index"), _fits(content, "name")
    if by_key != by_value:
        return "index" if by_key else "name"
    if not by_key:
        odd = next(key for key, value in content.items() if not _is_index(key) and not _is_index(value))
        raise CnnvizError(
            f"the labels file {path} maps {shown(odd)}, which is not a class index, to no index either",
            'write a mapping {"0": "cat", "1": "dog"}',
        )
    keys, values = [int(key) for key in content], [int(value) for value in content.values()]
    starts = _counts_from(keys), _counts_from(values)
    if starts[0] != starts[1]:
        return "index" if starts[0] < starts[1] else "name"
    if all(isinstance(value, int) for value in content.values()) and all(isinstance(key, str) for key in content):
        return "name"  # as Python writes a class_to_idx
    if keys == values or dict(zip(keys, values, strict=True)) == dict(zip(values, keys, strict=True)):
        return "index"
    raise CnnvizError(
        f"the labels file {path} maps numbers to numbers, and either side could be the class index",
        'write a list of names in the order of the outputs: ["0", "1", "10", …]',
    )


def _counts_from(side: Sequence[int]) -> float:
    """0 or 1, where the numbers are those from there on, each once; infinity where they are not."""
    first = min(side)
    return first if first in (0, 1) and sorted(side) == list(range(first, first + len(side))) else math.inf


def _is_index(value: Any) -> bool:
    if isinstance(value, str):
        return is_index(value)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9


def _written(item: Any) -> Any:
    """What stands for a name: a string, the last of torchvision's [wnid, name], the name of an object."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("name", "label", "display_name") if key in item), item)
    return item[-1] if isinstance(item, list) and item else item


def _is_named(item: Any) -> bool:
    return _written(item) not in (None, "")


def _name(item: Any, index: int, path: Path) -> str:
    """One name; its number where none is written."""
    if not _is_named(item):
        return f"class {index}"
    item = _written(item)
    if isinstance(item, str) or (isinstance(item, (int, float)) and abs(item) < 1e15):
        return str(item)
    raise CnnvizError(
        f"the labels file {path} gives class {index} the name {shown(item)}, which is not text",
        'write a list ["cat", "dog"] or a mapping {"0": "cat", "1": "dog"}',
    )
